"""The layer-wise loss: each layer of the student beside the teacher's, on inputs drawn from BatchNorm statistics.

    L = sum_i  MSE( C_i^s(x_i), C_i^t(x_i) ),      x_i = sum_j N(beta_j, sd_j^2)   over the BatchNorms j that feed layer i

Channels and pixels of x_i are independent, and layers are linear. So with D = W_i^s - W_i^t, m and v the means and variances of
x_i, the mean over all x_i has a closed form, which is what is computed here:

    E MSE = mean over outputs of  sum_k v_k D_k^2 + (sum_k m_k D_k + b^s - b^t)^2                away from the border

so that L is 0 where the weights are the teacher's, and a step costs as much as reading the weights.
                                                        (Horton et al. 2021, LWDF, eq. 16, with eq. 12 without activations)
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.model.batchnorm import is_batchnorm, output_moments
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout, input_channels, kernel_of, output_last
from tfdatafree.recovery.distillation.student import Student
from tfdatafree.recovery.outputs import without_quantizers


@dataclass(frozen=True)
class _Term:
    """One layer of the teacher: kernel (rows, outputs), bias (outputs,), and moments of its inputs (rows, outputs or 1)."""

    kernel: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class LayerwiseLoss:
    """The loss of one student.

    Args:
        teacher: The separated graph with its BatchNorms.
        student: Layers are compared where the teacher has one of this name. Where the student has folded a BatchNorm, it is
            folded for the comparison.
    """

    def __init__(self, teacher: Graph, student: Student):
        self._student, graph = student, without_quantizers(student.graph)
        folded = fold(teacher).graph
        readers, moments = graph.consumers(), _input_moments(teacher)
        self._terms: dict[str, _Term] = {}
        for node in graph.nodes:
            layer, of_teacher = graph.layer_of(node), None
            if find_layout(layer) is None or student.kernel(node.layer) is None:
                continue
            normalized = any(is_batchnorm(graph.layer_of(reader)) for reader in readers[node.output])
            of_teacher = (teacher if normalized else folded).layers.get(node.layer)
            source = moments.get(node.name)
            if of_teacher is None or find_layout(of_teacher) is None or source is None:
                continue
            kernel, layout = kernel_of(of_teacher), find_layout(of_teacher)
            if kernel.shape != kernel_of(layer).shape or len(source[0]) != input_channels(of_teacher) or not layout:
                continue
            if layout.kind == "transpose":
                continue  # which of its taps reach an output depends on the place
            mean, variance = (_by_row(values, of_teacher, layout.kind) for values in source)
            bias = of_teacher.weight("bias")
            matrix = output_last(kernel, layout)
            bias = np.zeros(matrix.shape[1], np.float32) if bias is None else bias
            self._terms[node.layer] = _Term(matrix, bias, mean, variance)

    def __call__(self) -> tf.Tensor:
        """The loss for the student's present weights; 0 where no layer can be compared."""
        terms = [self._of_layer(key, term) for key, term in self._terms.items()]
        return tf.add_n(terms) if terms else tf.constant(0.0)

    def _of_layer(self, key: str, term: _Term) -> tf.Tensor:
        kernel, bias = self._student.kernel(key), self._student.bias(key)
        difference = tf.reshape(kernel, term.kernel.shape) - term.kernel
        shift = tf.reduce_sum(term.mean * difference, axis=0)
        if bias is not None:
            shift += bias - term.bias
        spread = tf.reduce_sum(term.variance * tf.square(difference), axis=0)
        return tf.reduce_mean(spread + tf.square(shift))


def _input_moments(teacher: Graph) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer node -> (means, variances) of its input channels: sums over the BatchNorms that feed it; without any, N(0, 1)."""
    producers, found = teacher.producers(), {}
    for node in teacher.nodes:
        if find_layout(teacher.layer_of(node)) is None:
            continue
        channels = teacher.specs[node.inputs[0]].shape[-1]
        batchnorms = _feeding(teacher, producers, node.inputs[0])
        moments = [output_moments(teacher.layer_of(batchnorm)) for batchnorm in batchnorms]
        if channels is None or any(len(mean) != channels for mean, _ in moments):
            continue
        if moments:
            means, deviations = zip(*moments, strict=True)
            found[node.name] = np.sum(means, axis=0), np.sum(np.square(deviations), axis=0)
        else:
            found[node.name] = np.zeros(channels), np.ones(channels)
    return found


def _feeding(graph: Graph, producers: dict[str, Node], tensor: str) -> list[Node]:
    """The nearest BatchNorms before a tensor, each once, on all ways to it that pass no other layer with a kernel."""
    nodes, waiting, seen = [], [tensor], set()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or (node := producers.get(tensor)) is None:
            continue
        seen.add(tensor)
        if is_batchnorm(graph.layer_of(node)):
            nodes.append(node)
        elif find_layout(graph.layer_of(node)) is None:
            waiting += node.inputs
    return nodes


def _by_row(values: np.ndarray, layer, kind: str) -> np.ndarray:
    """Values of input channels in the rows, or rows and columns, of the layer's kernel as a matrix."""
    kernel = kernel_of(layer)
    taps = int(np.prod(kernel.shape[:-2]))
    if kind == "depthwise":
        columns = np.repeat(values, kernel.shape[-1])  # output channel = input * multiplier + multiplier's index
        return np.broadcast_to(columns, (taps, len(columns))).astype(np.float32)
    groups, rows, outputs = input_channels(layer) // kernel.shape[-2], kernel.shape[-2], kernel.shape[-1]
    by_group = np.tile(values.reshape(groups, rows).T, (taps, 1))  # (taps * rows, groups)
    return (
        np.repeat(by_group, outputs // groups, axis=1).astype(np.float32) if groups > 1 else by_group.astype(np.float32)
    )
