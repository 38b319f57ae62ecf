"""Which tensors are read only by functions that saturate: sigmoid, tanh and softmax.

Values far out change the results of such a function by less than the rounding of its output. A grid need not reach them.
"""

import math
from typing import Literal

import keras

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.operations import operation_of

Saturating = Literal["LOGISTIC", "TANH", "SOFTMAX"]
_KINDS: tuple[Saturating, ...] = ("LOGISTIC", "TANH", "SOFTMAX")


def saturating_reader(graph: Graph, tensor: str, readers: list[Node]) -> Saturating | None:
    """The function that all `readers` of the tensor compute, if it is one that saturates; None also for an output."""
    kinds = {_kind(graph, node) for node in readers}
    return kinds.pop() if len(kinds) == 1 and tensor not in graph.outputs else None


def softmax_inputs(graph: Graph) -> list[str]:
    """Tensors that only softmaxes over the channels read."""
    return [
        tensor
        for tensor, readers in graph.consumers().items()
        if saturating_reader(graph, tensor, readers) == "SOFTMAX"
    ]


def reach(kind: Saturating, bits: int, channels: int = 1) -> float:
    """How far values matter for an output of this many bits: beyond, it changes by less than half a step.

    Sigmoid and tanh: distance from 0. Softmax: distance from the largest of the `channels` values. Values at that distance sum
    up to half a step, even if all but the largest are there.
    """
    half_step = 2.0 ** -(bits + 1)
    if kind == "TANH":
        return math.atanh(1 - 2 * half_step)
    return math.log((1 - half_step) / half_step) if kind == "LOGISTIC" else math.log(channels / half_step)


def over_channels(graph: Graph, node: Node) -> bool:
    """Whether a softmax runs along the last axis."""
    operation = graph.operation_of(node)
    axis = -1 if isinstance(operation, keras.layers.Activation) else getattr(operation, "axis", -1)
    return axis in (-1, len(graph.specs[node.inputs[0]].shape) - 1)


def _kind(graph: Graph, node: Node) -> Saturating | None:
    operator = operation_of(graph.layer_of(node), by_name=True).operator
    found = next((kind for kind in _KINDS if kind == operator), None)
    if found == "SOFTMAX" and not over_channels(graph, node):
        return None
    return found
