"""Converts a graph to a float TFLite file, and finds each of its tensors and kernels again in that file.

Every node is traced inside a name scope of its own, and TFLite names a tensor after the operation that wrote it, so the
scope tells the node. A match by name counts only if both tensors also hold the same values on a probe input.

The converter copies constants a dozen times, so it is given a stand-in for each kernel: one number, different for each
layer, repeated in the kernel's shape and stored once. Where it comes back as the weights of an operator, those are the
layer's, and the real kernel is put in its place. A kernel that does not come back (the converter merged something into
it) is converted as it is; and all are, should values then differ (the converter computed something from a kernel).
"""

import contextlib
import dataclasses
import io
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging as absl_logging

from tfdatafree.errors import ExportError
from tfdatafree.export.one_operator import in_one_operator
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of, to_tflite
from tfdatafree.model.layer import scope_name
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.metadata import About, serialize
from tfdatafree.tflite.operators import OPERATORS
from tfdatafree.tflite.runtime import Runner

# Largest difference, relative to the largest value, between a Keras tensor and the same tensor of the float file.
_SAME_VALUES = 1e-3
# The same where another operator goes on with the layer, by its name: a small bias that is added there makes little difference.
_SAME_PART = 1e-5
_SILENCE = threading.Lock()


@dataclass(frozen=True)
class FloatModel:
    """A float TFLite file and where the graph's tensors and layers are in it.

    Attributes:
        file: The file, parsed once for all; whoever edits it makes a copy.
        content: The bytes of the file.
        tensor_of: Graph tensor -> index of the file tensor with the same values. Tensors that the converter fused away
            are absent.
        node_of: File tensor index -> name of the graph node whose operations wrote it.
        layer_of: File tensor index of an operator's weights -> key of the layer whose kernel they are.
    """

    file: File
    content: bytes
    tensor_of: dict[str, int]
    node_of: dict[int, str]
    layer_of: dict[int, str]


def convert(graph: Graph, probe: Sequence[np.ndarray], *, float16: bool = False) -> FloatModel:
    """Float TFLite file of `graph` for batches of one.

    Args:
        probe: One input of batch 1 per graph input; tensors are matched on it.
        float16: Store weights as float16.

    Raises:
        ExportError: A shape is not static, or TFLite has no operator for a layer.
    """
    if float16:
        content = _convert(graph, {}, float16=True)
        return FloatModel(File.parse(content), content, {}, {}, {})
    stand_ins = _stand_ins(graph)
    while True:
        file = File.parse(_convert(graph, stand_ins))
        layer_of = _find_kernels(graph, file, stand_ins)
        lost = stand_ins.keys() - layer_of.values()
        if not lost:
            content = file.serialize()
            candidates, node_of = _match_names(graph, file, layer_of)
            tensor_of = _match_values(graph, candidates, _completed_later(graph, file), content, probe)
            expected = {candidates[tensor] for tensor in graph.outputs} | _weighted_outputs(file, candidates, layer_of)
            if not stand_ins or expected <= set(tensor_of.values()):
                break
            lost = set(stand_ins)
        stand_ins = {key: number for key, number in stand_ins.items() if key not in lost}
    missing = [tensor for tensor in graph.outputs if tensor not in tensor_of]
    if missing:
        raise ExportError(f"the converted float file computes another '{missing[0]}' than the Keras model.")
    # Read anew: this shares the bytes of `content`, while `file` holds a copy of every kernel.
    return FloatModel(File.parse(content), content, tensor_of, node_of, layer_of)


def float_file(
    graph: Graph, probe: Sequence[np.ndarray], *, float16: bool = False, about: About | None = None
) -> bytes:
    """The float TFLite file of `graph` as it is given away: signed with the Keras names of its inputs and outputs.

    Args and raises: as `convert`; and what the file says of its making.
    """
    file = convert(graph, probe, float16=float16).file.copy()
    file.sign(graph.inputs, graph.output_names)
    return serialize(file, about)


def converters_file(graph: Graph, calibration: Sequence[np.ndarray] | None = None) -> bytes:
    """What TFLite's converter alone makes of `graph`: a float file; or an int8 file, calibrated on real inputs (n, *shape).

    Raises:
        ExportError: The converter does not take the graph.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # about ranges of quantized inputs, which the calibration gives
            return _converted(_trace(graph, {}), calibration=calibration)
    except Exception as error:  # whatever it is, the converter does not take it
        raise ExportError(f"TFLite's converter makes no file of '{graph.name}': {error}") from error


def _stand_ins(graph: Graph) -> dict[str, np.float32]:
    """A number for each layer with a kernel: one that no other weights have and that simplifies nothing (0, 1 ...)."""
    keys = [key for key, layer in graph.layers.items() if find_layout(layer) is not None]
    numbers = np.random.default_rng(0).uniform(1.01, 1.99, len(keys)).astype(np.float32)
    return dict(zip(keys, numbers, strict=True))


def _find_kernels(graph: Graph, file: File, stand_ins: Mapping[str, np.float32]) -> dict[int, str]:
    """{index of an operator's weights: key of the layer whose kernel they are}; puts kernels where stand-ins are."""
    key_of = {float(number): key for key, number in stand_ins.items()}
    real: dict[bytes, str] = {}
    for key, layer in graph.layers.items():
        if find_layout(layer) is not None and key not in stand_ins:
            real.setdefault(np.ascontiguousarray(_in_file_order(layer)).tobytes(), key)
    layer_of: dict[int, str] = {}
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is None or rule.kernel is None:
            continue
        index = int(operator.inputs[rule.kernel])
        constant = file.constant(index)
        if constant is None or constant.dtype != np.float32 or index in layer_of:
            continue
        found = key_of.get(float(constant.flat[0])) if stand_ins else None
        if found is not None and (constant == constant.flat[0]).all():
            file.set_constant(index, _in_file_order(graph.layers[found]).reshape(constant.shape))
            layer_of[index] = found
        elif real and (found := real.get(constant.tobytes())) is not None:
            layer_of[index] = found
    file.drop_unused_buffers()
    return layer_of


def _in_file_order(layer: Layer) -> np.ndarray:
    return to_tflite(kernel_of(layer), layout_of(layer))


def _weighted_outputs(file: File, candidates: Mapping[str, int], layer_of: Mapping[int, str]) -> set[int]:
    """Tensors that operators with known kernels write, if they look like tensors of the graph."""
    written = set()
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is not None and rule.kernel is not None and int(operator.inputs[rule.kernel]) in layer_of:
            written.update(int(index) for index in operator.outputs)
    return written & set(candidates.values())


def _trace(graph: Graph, stand_ins: Mapping[str, np.float32]):
    """The graph as a tf.function; the kernels of the layers in `stand_ins` are that number repeated."""
    signature = []
    for tensor in graph.inputs:
        spec = graph.specs[tensor]
        if None in spec.shape[1:]:
            raise ExportError(
                f"input '{tensor}' has shape {spec.shape}; a TFLite file for NPUs needs static shapes: "
                "pass input_shape=(height, width, channels)."
            )
        # 8-bit images are reals with step 1 here, and get their integers back when the file is quantized.
        dtype = "float32" if spec.dtype == "uint8" else spec.dtype
        signature.append(tf.TensorSpec((1, *spec.shape[1:]), dtype, name=scope_name(tensor)))
    scopes = {node.name: f"n{at}" for at, node in enumerate(graph.nodes)}

    def function(*inputs):
        hollow = graph.copy()
        for key, number in stand_ins.items():
            # Made inside the function: there TensorFlow stores one number and a shape.
            hollow.layers[key] = _with_stand_in(graph.layers[key], number)

        def call_scoped(node, live):
            with tf.name_scope(scopes[node.name]):
                plain = in_one_operator(hollow.operation_of(node))
                return hollow.call(node, live) if plain is None else (plain(live[node.inputs[0]]),)

        live = dict(zip(graph.inputs, inputs, strict=True))
        for _, live in hollow.walk(inputs, call_scoped):
            pass
        # Identities, so that an output that is also an input, or is given twice, is still an output of its own.
        return [tf.identity(live[tensor], name=f"output_{i}") for i, tensor in enumerate(graph.outputs)]

    return tf.function(function, autograph=False).get_concrete_function(*signature)


def _with_stand_in(layer: Layer, number: np.float32) -> Layer:
    kernel = kernel_of(layer)
    weights = (tf.constant(number, shape=value.shape) if value is kernel else value for value in layer.weights)
    return Layer(layer.operation, tuple(weights))


def _convert(graph: Graph, stand_ins: Mapping[str, np.float32], float16: bool = False) -> bytes:
    try:
        return _converted(_trace(graph, stand_ins), float16)
    except Exception as error:  # the converter raises many types; all of them mean this
        if isinstance(error, ExportError):
            raise
        node, reason = _unconvertible(graph) or (None, error)
        operators = sorted(set(re.findall(r"(?:Flex|tf\.)(?!entry_function)\w+", str(reason))))
        # A message begins with the place in TensorFlow's own code.
        named = ", ".join(operators) or str(reason).strip().splitlines()[0].rpartition("error: ")[2]
        if node is None:
            node = _end_of_convertible(graph, stand_ins)
            raise ExportError(
                f"the converter stops at '{node.name}' ({graph.layer_of(node).class_name}), which it writes together with "
                f"layers before it: {named}. Put another layer in its place, or end the model before it."
            ) from error
        raise ExportError(
            f"TFLite has no operator for '{node.name}' ({graph.layer_of(node).class_name}), which needs {named}: put a layer "
            "that TFLite has in its place, or end the model before it."
        ) from error


def _unconvertible(graph: Graph) -> tuple[Node, Exception] | None:
    """The first node that cannot be converted by itself, and why."""
    for node in graph.nodes:
        if find_layout(graph.layer_of(node)) is not None:
            continue
        alone = dataclasses.replace(graph.copy(), nodes=[node], inputs=list(dict.fromkeys(node.inputs)))
        alone.outputs = list(node.outputs)
        try:
            _converted(_trace(alone, {}))
        except Exception as error:
            return node, error
    return None


def _end_of_convertible(graph: Graph, stand_ins: Mapping[str, np.float32]) -> Node:
    """A node at which the graph, cut behind it, cannot be converted, while it can be cut behind the node before."""
    works, fails = -1, len(graph.nodes) - 1
    while fails - works > 1:
        middle = (works + fails) // 2
        cut = graph.copy()
        cut.outputs = list(graph.nodes[middle].outputs)
        cut.drop_unread()
        try:
            _converted(_trace(cut, {key: number for key, number in stand_ins.items() if key in cut.layers}))
            works = middle
        except Exception:  # whatever it is, the converter does not take it
            fails = middle
    return graph.nodes[fails]


def _converted(function, float16: bool = False, calibration: Sequence[np.ndarray] | None = None) -> bytes:
    with _silence():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: (
                [array[at : at + 1] for array in calibration] for at in range(len(calibration[0]))
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        if float16:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hides what the converter logs, and what it writes straight to the process's standard error, while it works.

    Both belong to the whole process, so one thread at a time changes them and puts them back.
    """
    with _SILENCE, tempfile.TemporaryFile() as sink, contextlib.redirect_stderr(io.StringIO()):
        verbosity = absl_logging.get_verbosity()
        try:
            saved = os.dup(2)
        except OSError:  # standard error is closed: there is nothing to hide
            saved = None
        try:
            absl_logging.set_verbosity(absl_logging.ERROR)  # a warning about variables, of which there are none
            if saved is not None:
                os.dup2(sink.fileno(), 2)
            yield
        finally:
            absl_logging.set_verbosity(verbosity)
            if saved is not None:
                os.dup2(saved, 2)
                os.close(saved)


def _match_names(graph: Graph, file: File, layer_of: Mapping[int, str]) -> tuple[dict[str, int], dict[int, str]]:
    """({graph tensor: file tensor} by name, {file tensor: node}); of several in one scope the last written is meant.

    The converter names a few convolutions anew. These are found by their weights.
    """
    candidates: dict[str, int] = dict(zip(graph.inputs, file.inputs, strict=True))
    node_of: dict[int, str] = {}
    for operator in file.operators:
        for index in operator.outputs:
            # A fused operator is named after all its operations, in no order: the last node is what it computes.
            numbers = _node_numbers(file.name(index))
            node = graph.nodes[max(numbers)] if numbers else _only_call(graph, file, operator, layer_of)
            if node is None:
                continue
            node_of[index] = node.name
            if len(node.outputs) == 1:
                candidates[node.output] = index
    producers = graph.producers()
    for tensor, index in zip(graph.outputs, file.outputs, strict=True):
        candidates[tensor] = index
        if tensor in producers:
            node_of[index] = producers[tensor].name
    return candidates, node_of


def _node_numbers(name: str) -> set[int]:
    """The positions in the graph of the nodes whose operations a tensor of the file is named after."""
    return set(map(int, re.findall(r"(?:^|;)n(\d+)/", name)))


def _completed_later(graph: Graph, file: File) -> set[str]:
    """Graph tensors whose layer an operator of a later layer may complete, because it is named after both."""
    written = (_node_numbers(file.name(index)) for operator in file.operators for index in operator.outputs)
    former = set().union(*(numbers - {max(numbers)} for numbers in written if numbers))
    return set().union(*(graph.nodes[number].outputs for number in former))


def _only_call(graph: Graph, file: File, operator: Any, layer_of: Mapping[int, str]) -> Node | None:
    """The node that calls the layer whose weights the operator reads; None without such a layer, or with several calls."""
    rule = OPERATORS.get(file.operator_name(operator))
    key = None if rule is None or rule.kernel is None else layer_of.get(int(operator.inputs[rule.kernel]))
    calls = [node for node in graph.nodes if node.layer == key]
    return calls[0] if len(calls) == 1 else None


def _match_values(
    graph: Graph, candidates: dict[str, int], begun: Container[str], content: bytes, probe: Sequence[np.ndarray]
) -> dict[str, int]:
    """The candidates whose values on `probe` agree between graph and file; closer for those in `begun`."""
    runner = Runner(content, keep_all=True)
    runner.run(probe)
    matched = {}
    for tensor in graph.inputs:
        matched[tensor] = candidates[tensor]
    for node, live in graph.walk(probe):
        for tensor in node.outputs:
            index = candidates.get(tensor)
            if index is None:
                continue
            expected, found = np.asarray(live[tensor]), runner.value(index)
            expected = expected.astype(np.float64)  # truth values, too
            if found is None or not _alike(found.shape, expected.shape):
                continue
            scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
            bound = (_SAME_PART if tensor in begun else _SAME_VALUES) * scale
            if np.abs(found.reshape(expected.shape) - expected).max(initial=0.0) <= bound:
                matched[tensor] = index
    return matched


def _alike(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes differ at most by axes of length 1: the file computes sequences as images with one row."""
    return [size for size in shape if size > 1] == [size for size in other if size > 1]
