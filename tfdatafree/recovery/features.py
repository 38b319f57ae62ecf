"""Finds the tensors of a student and of its teacher that recovery compares.

The feature of a convolution or dense layer is its output, or that of the BatchNorm right after it. Layers are paired by name.
"""

import numpy as np

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of


def feature_tensors(graph: Graph) -> dict[str, str]:
    """Node of each convolution or dense layer -> the tensor that it writes, or that of the BatchNorm right after it."""
    consumers, features = graph.consumers(), {}
    for node in graph.nodes:
        if find_layout(graph.layer_of(node)) is None:
            continue
        readers = consumers[node.output]
        normalized = len(readers) == 1 and is_batchnorm(graph.layer_of(readers[0])) and node.output not in graph.outputs
        features[node.name] = readers[0].output if normalized else node.output
    return features


def feature_pairs(student: Graph, teacher: Graph) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """({layer node: (its feature in the student, in the teacher)}, {layer node: why it has no counterpart}).

    A BatchNorm without a convolution before it becomes, once folded, a layer with a kernel. Its counterpart is the BatchNorm.
    """
    pairs, reasons = {}, {}
    batchnorms = {node.name: node.output for node in teacher.nodes if is_batchnorm(teacher.layer_of(node))}
    teacher_features = batchnorms | feature_tensors(teacher)
    for name, tensor in feature_tensors(student).items():
        if name not in teacher_features:
            reasons[name] = "the teacher has no layer of this name"
        elif student.specs[tensor].shape[1:] != teacher.specs[teacher_features[name]].shape[1:]:
            reasons[name] = "the teacher's layer of this name has another shape"
        else:
            pairs[name] = (tensor, teacher_features[name])
    return pairs, reasons


def nonzero_masks(graph: Graph) -> dict[str, np.ndarray]:
    """Layer -> mask of its kernel's weights that are not zero."""
    return {key: kernel_of(layer) != 0 for key, layer in graph.layers.items() if find_layout(layer)}
