"""Moves the BatchNorm statistics of a changed network by as much as the change moved its layers.

    r = (v_s + e) / (v_t + e),     mean' = m_s + (mean* - m_t) sqrt(r),     variance' + e = (variance* + e) r

m and v are the mean and variance of what the BatchNorm reads, in the student s and the teacher t on the same images. Stars mark
what the teacher stores. If the images have the training data's statistics, the results are the student's own statistics. If
not, the error of the images cancels. Layers are corrected in order. Each reads the outputs of the corrected ones before it,
so that on these images each BatchNorm's output has the channel means and variances that it has in the teacher.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph, Node


def reestimate_batchnorm(student: Graph, teacher: Graph, inputs: Sequence[Any]) -> Graph:
    """`student` with new statistics in every BatchNorm that both graphs have under the same name and that is called once.

    Args:
        inputs: One batch, the same for both.
    """
    student, calls = student.copy(), student.calls()
    moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def observe(node: Node, live: Mapping[str, Any]) -> tuple:
        if is_batchnorm(teacher.layer_of(node)):
            moments[node.name] = _channel_moments(teacher, node, live)
        return teacher.call(node, live)

    def correct(node: Node, live: Mapping[str, Any]) -> tuple:
        layer = student.layer_of(node)
        mean, variance = _channel_moments(student, node, live) if is_batchnorm(layer) else (None, None)
        mean_t, variance_t = moments.get(node.name, (None, None))
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


def _channel_moments(graph: Graph, node: Node, live: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    x = live[node.inputs[0]]
    axis = graph.operation_of(node).axis % len(x.shape)
    mean, variance = tf.nn.moments(x, [other for other in range(len(x.shape)) if other != axis])
    return mean.numpy(), variance.numpy()
