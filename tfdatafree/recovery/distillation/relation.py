"""Tells whether a student is a compressed form of a teacher, before it is trained for minutes.

Compression changes the direction of an output channel's weights, but it keeps most of it: w_s . w_t / (|w_s| |w_t|) is near 1, or
-1 where a BatchNorm was folded. Channels of unrelated networks have a cosine of about 1 / sqrt(n) for n weights.
"""

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of, output_last

# With so few weights per channel, chance alone makes cosines large.
_FEWEST = 8
# Mean of |cosine| sqrt(n): 0.8 for unrelated channels. 5 % of the weights of one channel with n = 64 keep 2 or more.
_LEAST = 1.1


def require_related(student: Graph, teacher: Graph) -> None:
    """Raises ValueError unless the student's kernels have something of the teacher's."""
    for what, ours, theirs in (
        ("inputs", student.inputs, teacher.inputs),
        ("outputs", student.outputs, teacher.outputs),
    ):
        shapes = [
            [graph.specs[tensor].shape[1:] for tensor in tensors]
            for graph, tensors in ((student, ours), (teacher, theirs))
        ]
        if shapes[0] != shapes[1]:
            _refuse(student, teacher, f"its {what} have the shapes {_listed(shapes[0])}, not {_listed(shapes[1])}")
    closeness = [
        value
        for key, layer in student.layers.items()
        if key in teacher.layers
        for value in _closeness(layer, teacher.layers[key])
    ]
    if closeness and np.mean(closeness) < _LEAST:
        _refuse(student, teacher, "its kernels point in other directions than those of the same names")


def _closeness(ours, theirs) -> np.ndarray:
    """|cosine| sqrt(n) of each output channel that has weights in both layers; empty where they cannot be compared."""
    layout = find_layout(ours)
    if layout is None or find_layout(theirs) != layout or kernel_of(ours).shape != kernel_of(theirs).shape:
        return np.empty(0)
    a, b = (output_last(kernel_of(layer), layout).astype(np.float64) for layer in (ours, theirs))
    norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    if len(a) < _FEWEST:
        return np.empty(0)
    return np.abs((a * b).sum(axis=0))[norms > 0] / norms[norms > 0] * np.sqrt(len(a))


def _refuse(student: Graph, teacher: Graph, why: str) -> None:
    raise ValueError(
        f"'{student.name}' is no compressed form of '{teacher.name}': {why}; give the network that the student was made from."
    )


def _listed(shapes) -> str:
    return ", ".join(map(str, shapes))
