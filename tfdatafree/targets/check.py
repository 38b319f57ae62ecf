"""Checks a TFLite file of any converter against a target's profile: which operators it does not compute, and why.

The limits of a profile are about facts (`FACTS`), which are read from each operator of the file. A limit does not apply to an
operator that lacks its fact.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfdatafree.errors import ExportError
from tfdatafree.targets.target import Target, TargetCheck
from tfdatafree.tflite.flatbuffer import File

_ACTIVATIONS = {code: name for name, code in vars(schema.ActivationFunctionType).items() if name.isupper()}
_PADDINGS = {code: name for name, code in vars(schema.Padding).items() if name.isupper()}
_TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if name.isupper()}
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
# Operators with weights -> position of the input that the weights multiply, and the output axis of the weights.
_WEIGHTED = {"CONV_2D": (0, 0), "DEPTHWISE_CONV_2D": (0, -1), "FULLY_CONNECTED": (0, 0), "TRANSPOSE_CONV": (2, 0)}

# Facts that limits can be about.
FACTS = {
    "version": "version of the operator",
    "inputs": "number of its inputs, a bias included",
    "outputs": "number of its outputs",
    "types": "types of the tensors that it reads and writes, without constants",
    "input_type": "type of the first of them",
    "rank": "largest number of axes among them",
    "outer": "largest number of entries outside the three innermost axes",
    "activation": "activation that is fused into it; NONE without one",
    "stride": "larger of its strides",
    "padding": "SAME or VALID",
    "dilated": "whether it is dilated",
    "square_dilation": "whether its dilation is the same along height and width",
    "filter_height": "rows of its window",
    "filter_width": "columns of its window",
    "filter_area": "product of rows and columns",
    "window": "larger of rows and columns",
    "weight_type": "type of its weights; 'computed' if they are not constants",
    "weight_steps": "number of steps of its weights: 1, or one per output",
    "weight_sum": "largest sum of the magnitudes of an output's weights, in steps",
    "multiplied_depth": "outputs per input channel of a depthwise convolution; 1 if there is one input channel only",
    "elements": "size of the first tensor that it reads",
    "long_axes": "axes of it that are longer than 1",
    "batch": "its first axis",
    "depth": "its last axis",
    "map_area": "product of the axes between",
    "reduced": "number of elements that are reduced to one",
    "longest_reduced": "longest axis that is reduced",
    "reduces_batch": "whether the first axis is reduced",
    "reduced_depth_over_4": "remainder of the channels by 4, if they are reduced; else 0",
    "depth_with_map": "whether channels are reduced although height, width and channels are all longer than 1",
    "global_pooling": "whether height and width are reduced and nothing else",
    "same_grid": "whether its output has the grid of its input",
    "factor": "factor by which a map is enlarged: a number if it is whole and the same along height and width",
    "half_pixel": "whether resizing takes pixels as areas",
    "output_side": "larger of height and width of the resized map",
    "along_depth": "whether it works along the last axis",
    "axis_behind_batch": "axis of a gather, counted from the first one behind its batch axes",
    "strided": "whether a slice skips entries",
    "channel_stride": "step along the last axis of a slice",
    "output_long_axes": "axes of a dense layer's output that are longer than 1",
    "keeps_axes": "whether a dense layer keeps the leading axes of its input",
    "alpha_long_axes": "axes along which the slopes of a PReLU differ",
}


def check_target(content: bytes, target: Target) -> TargetCheck:
    """Checks the file `content` against the profile `target`.

    Raises:
        ExportError: The target cannot use the file at all.
    """
    file = File.parse(content)
    refused: dict[str, str] = {}
    first: int | None = None
    for at, operator in enumerate(file.operators):
        name = file.operator_name(operator)
        known = target.operators is None or name in target.operators
        reason = "; ".join(refusals(name, operator_facts(file, operator) if known else {}, target))
        if reason:
            refused[operator_key(file, operator, refused)] = reason
            first = at if first is None else first
    if refused and target.needs_all:
        name, reason = next(iter(refused.items()))
        raise ExportError(
            f"{target.title} cannot start with this file, because it does not compute {name}: {reason}. Replace the layer "
            "that the operator comes from, or choose target='generic'."
        )
    return TargetCheck(
        target=target.name,
        title=target.title,
        operators=len(file.operators),
        refused=refused,
        before=len(file.operators) if first is None else first,
        one_piece=target.one_piece,
        all_or_none=target.all_or_none,
        elsewhere=target.elsewhere,
    )


def operator_key(file: File, operator, taken: dict[str, str]) -> str:
    """Name of an operator in a report: its kind and the tensor that it writes; not one of `taken`."""
    name = f"{file.operator_name(operator)} {file.name(operator.outputs[0])}"
    return next(key for key in (name, *(f"{name} ({i})" for i in range(2, len(taken) + 3))) if key not in taken)


def refusals(name: str, facts: dict[str, Any], target: Target) -> Iterator[str]:
    """Why the target does not compute an operator of this name with these FACTS; nothing if it does."""
    if target.operators is not None and name not in target.operators:
        document = target.sources["operators"]
        yield f"{name} is not known to run on {target.title} ({document}); replace the layer, or leave it to the CPU"
        return
    for limit in target.limits:
        if limit.operators and name not in limit.operators:
            continue
        if limit.fact not in facts or any(facts.get(fact) != wanted for fact, wanted in limit.where.items()):
            continue
        value = facts[limit.fact]
        if not limit.allows(value):
            listed = ", ".join(map(str, limit.one_of))
            said = ", ".join(v for v in value if v not in limit.one_of) if isinstance(value, tuple) else value
            text = limit.reason.format(value=said, high=limit.high, one_of=listed)
            yield "; ".join(filter(None, (f"{text} ({limit.source})", limit.mend)))


def operator_facts(file: File, operator) -> dict[str, Any]:
    """The FACTS that the operator has: numbers, names, booleans, or a tuple of type names."""
    name, options = file.operator_name(operator), operator.builtinOptions
    code = file.model.operatorCodes[operator.opcodeIndex]
    reads = [int(i) for i in operator.inputs if i >= 0]
    writes = [int(i) for i in operator.outputs]
    computed = [i for i in (*reads, *writes) if not _is_constant(file, i)]
    shapes = [file.shape(i) for i in computed] or [()]
    facts: dict[str, Any] = {
        "version": int(code.version),
        "inputs": len(operator.inputs),
        "outputs": len(operator.outputs),
        "types": tuple(dict.fromkeys(_dtype(file, i) for i in computed)),
        "rank": max(map(len, shapes)),
        "outer": max(prod(shape[:-3]) for shape in shapes),
    }
    facts |= _window(options)
    if hasattr(options, "fusedActivationFunction"):
        facts["activation"] = _ACTIVATIONS.get(options.fusedActivationFunction, "an unknown activation")
    if name in _WEIGHTED and len(reads) > 1:
        facts |= _weights(file, operator, name)
    if not computed or not reads:
        return facts
    shape, result = file.shape(computed[0]), file.shape(writes[0])
    facts |= _shapes(shape)
    if name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        facts["window"] = max(facts["filter_height"], facts["filter_width"])
    if name in _REDUCTIONS:
        facts |= _reduction(file, operator, shape)
    if name.startswith("RESIZE_") and len(shape) == len(result) == 4:
        facts |= {"factor": _factor(shape, result), "half_pixel": bool(options.halfPixelCenters)}
        facts["output_side"] = max(result[1:3])
    if name in ("ARG_MAX", "ARG_MIN", "PACK"):
        facts["along_depth"] = _axis(file, operator, name) in (-1, (len(result) if name == "PACK" else len(shape)) - 1)
    if name == "GATHER":
        facts["axis_behind_batch"] = options.axis % max(len(shape), 1) - options.batchDims
    if name == "STRIDED_SLICE" and (strides := file.constant(reads[-1])) is not None and len(reads) == 4:
        facts |= {"strided": bool((strides != 1).any()), "channel_stride": int(strides[-1])}
    if name == "FULLY_CONNECTED":
        facts |= {"output_long_axes": _long_axes(result), "keeps_axes": bool(options.keepNumDims)}
    if name == "PRELU" and len(reads) > 1:
        facts["alpha_long_axes"] = _long_axes(file.shape(reads[1]))
    if name == "MEAN":
        facts["same_grid"] = file.quantizer(computed[0]) == file.quantizer(writes[0])
    return facts


def _dtype(file: File, index: int) -> str:
    return _TYPES.get(file.tensors[index].type, "an unknown type")


def _is_constant(file: File, index: int) -> bool:
    data = file.model.buffers[file.tensors[index].buffer].data
    return data is not None and len(data) > 0


def _window(options) -> dict[str, Any]:
    """Strides, dilation, padding and window of a convolution or a pooling."""
    facts: dict[str, Any] = {}
    if hasattr(options, "strideH"):
        facts |= {"stride": max(options.strideH, options.strideW), "padding": _PADDINGS.get(options.padding)}
    if hasattr(options, "dilationHFactor"):
        height, width = options.dilationHFactor, options.dilationWFactor
        facts |= {"dilated": max(height, width) > 1, "square_dilation": height == width}
    if hasattr(options, "filterHeight"):
        height, width = options.filterHeight, options.filterWidth
        facts |= {"filter_height": height, "filter_width": width, "filter_area": height * width}
    return facts


def _weights(file: File, operator, name: str) -> dict[str, Any]:
    source, axis = _WEIGHTED[name]
    index = int(operator.inputs[1])
    steps = getattr(file.tensors[index].quantization, "scale", None)
    facts = {
        "weight_type": _dtype(file, index) if _is_constant(file, index) else "computed",
        "weight_steps": 0 if steps is None else len(steps),
        "input_type": _dtype(file, int(operator.inputs[source])),
    }
    values = file.constant(index)
    if values is not None and values.dtype == np.int8:
        sums = np.abs(values.astype(np.int64)).sum(axis=tuple(i for i in range(values.ndim) if i != axis % values.ndim))
        facts["weight_sum"] = int(sums.max(initial=0))
    if name == "DEPTHWISE_CONV_2D":
        multiplier = int(operator.builtinOptions.depthMultiplier)
        # With one input channel a depthwise convolution is an ordinary one.
        facts["multiplied_depth"] = 1 if file.shape(int(operator.inputs[0]))[-1] == 1 else multiplier
    return facts


def _shapes(shape: tuple[int, ...]) -> dict[str, Any]:
    """Facts about the tensor that an operator reads first."""
    return {
        "elements": prod(shape),
        "long_axes": _long_axes(shape),
        "batch": shape[0] if shape else 1,
        "depth": shape[-1] if shape else 1,
        "map_area": prod(shape[1:-1]),
    }


def _long_axes(shape: tuple[int, ...]) -> int:
    return sum(size > 1 for size in shape)


def _reduction(file: File, operator, shape: tuple[int, ...]) -> dict[str, Any]:
    given = file.constant(int(operator.inputs[1]))
    if given is None or not shape:
        return {}
    axes = sorted({int(axis) % len(shape) for axis in np.ravel(given)})
    depth = len(shape) - 1
    sizes = [shape[axis] for axis in axes]
    height_and_width = [axis for axis in range(1, depth)]
    return {
        "input_type": _dtype(file, int(operator.inputs[0])),
        "reduced": prod(sizes),
        "longest_reduced": max(sizes, default=1),
        "reduces_batch": 0 in axes and len(shape) > 1,
        "reduced_depth_over_4": shape[-1] % 4 if depth in axes else 0,
        "depth_with_map": depth in axes and len(shape) > 1 and min(shape[1:]) > 1,
        "global_pooling": axes == height_and_width,
    }


def _factor(shape: tuple[int, ...], result: tuple[int, ...]) -> int | str:
    """Factor by which a map is enlarged: a number where it is whole and the same along height and width, else a text."""
    height, width = result[1] / shape[1], result[2] / shape[2]
    if shape[1] == shape[2] == 1:
        return 1
    return int(height) if height == width == int(height) else f"{height:g} x {width:g}"


def _axis(file: File, operator, name: str) -> int | None:
    if name == "PACK":
        return int(operator.builtinOptions.axis)
    axis = file.constant(int(operator.inputs[1]))
    return None if axis is None else int(np.ravel(axis)[0])
