"""Which outputs of a file choose one of several classes, by the rule of `model/classes.py`, and the scores that choose them."""

from typing import Any

from tfdatafree.tflite.flatbuffer import File

# Operators that return the values of their input, perhaps on another grid or in another shape.
_KEEP = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_AVERAGE = ("MEAN", "AVERAGE_POOL_2D")
_WEIGHTED = ("FULLY_CONNECTED", "CONV_2D")
_SQUASHED = ("SOFTMAX", "LOG_SOFTMAX", "LOGISTIC", "TANH")


def class_outputs(content: bytes) -> list[bool]:
    """For each output of the file, whether its largest entry along the last axis chooses a class."""
    file = File.parse(content)
    writers = {index: operator for operator in file.operators for index in operator.outputs}
    ends = [_end(file, writers, index, _KEEP) for index in file.outputs]
    names = [None if end is None else file.operator_name(end) for end in ends]
    squashed = any(name in _SQUASHED for name in names)
    found = []
    for index, name in zip(file.outputs, names, strict=True):
        shape = file.shape(index)
        logits = _end(file, writers, index, _KEEP + _AVERAGE) if len(shape) == 2 and not squashed else None
        is_linear = logits is not None and file.operator_name(logits) in _WEIGHTED and not _activated(logits)
        found.append(len(shape) > 1 and shape[-1] > 1 and (name in _SQUASHED[:2] or is_linear))
    return found


def with_scores(content: bytes) -> bytes:
    """The file with what a softmax reads as output, in place of the softmax. Scores are finer there: probabilities of many
    classes are less than one step of 8 bits.
    """
    file = File.parse(content).copy()
    writers = {index: operator for operator in file.operators for index in operator.outputs}
    ends = [_end(file, writers, index, _KEEP) for index in file.outputs]
    scores = [
        end.inputs[0] if end is not None and file.operator_name(end) in _SQUASHED[:2] else index
        for index, end in zip(file.outputs, ends, strict=True)
    ]
    if scores == file.outputs:
        return content
    file.graph.outputs, file.model.signatureDefs = scores, None
    return file.serialize()


def _end(file: File, writers: dict[int, Any], index: int, passed: tuple[str, ...]) -> Any:
    """The last operator before `index` that is not one of `passed`, or that changes the last axis; None for an input."""
    operator = writers.get(index)
    while operator is not None and file.operator_name(operator) in passed:
        before, after = file.shape(operator.inputs[0]), file.shape(operator.outputs[0])
        if before[-1:] != after[-1:]:
            break
        operator = writers.get(operator.inputs[0])
    return operator


def _activated(operator: Any) -> bool:
    return bool(getattr(operator.builtinOptions, "fusedActivationFunction", 0))
