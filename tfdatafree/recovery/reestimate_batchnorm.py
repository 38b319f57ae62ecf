"""BatchNorm statistics of a changed network, moved by as much as the change moved its layers.

    r = (v_s + e) / (v_t + e),     mean' = m_s + (mean* - m_t) sqrt(r),     variance' + e = (variance* + e) r

m and v are the mean and variance where the BatchNorm reads, of the student s and the teacher t on the same images; stars
mark what the teacher stores. Where the images have the training data's statistics these are the student's own; where they
have not, what the images get wrong cancels. Layers are put right in order: each sees the corrected ones before it.
So that on these images each BatchNorm's output has the channel means and variances that it has in the teacher.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph, Node


def reestimate_batchnorm(student: Graph, teacher: Graph, inputs: Sequence[Any]) -> Graph:
    """`student` with the statistics of every BatchNorm that both graphs have, called once, under the same name.

    Args:
        inputs: One batch, the same for both.
    """
    student, calls = student.copy(), student.calls()
    wanted: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def observe(node: Node, live: Mapping[str, Any]) -> tuple:
        if is_batchnorm(teacher.layer_of(node)):
            wanted[node.name] = _moments(teacher, node, live)
        return teacher.call(node, live)

    def correct(node: Node, live: Mapping[str, Any]) -> tuple:
        layer = student.layer_of(node)
        mean, variance = _moments(student, node, live) if is_batchnorm(layer) else (None, None)
        mean_t, variance_t = wanted.get(node.name, (None, None))
        if mean is not None and mean_t is not None and mean.shape == mean_t.shape and calls[node.layer] == 1:
            stored, epsilon = teacher.layers[node.layer], layer.operation.epsilon
            ratio = (variance + epsilon) / (variance_t + epsilon)
            student.layers[node.layer] = layer.with_weights(
                moving_mean=mean + (stored.weight("moving_mean") - mean_t) * np.sqrt(ratio),
                moving_variance=np.maximum((stored.weight("moving_variance") + epsilon) * ratio - epsilon, 0),
            )
        return student.call(node, live)

    for graph, call in ((teacher, observe), (student, correct)):
        for _ in graph.walk(inputs, call):
            pass
    return student


def _moments(graph: Graph, node: Node, live: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    x = live[node.inputs[0]]
    axis = graph.operation_of(node).axis % len(x.shape)
    mean, variance = tf.nn.moments(x, [other for other in range(len(x.shape)) if other != axis])
    return mean.numpy(), variance.numpy()
