"""The means and variances that the BatchNorms of a network store, beside those of a batch of images.

    KL = ( (v + e) / (v* + e) - 1 - log((v + e) / (v* + e)) + (m - m*)^2 / (v* + e) ) / 2          per channel

m and v are the mean and variance of what a BatchNorm reads for the batch. It stores m* and v*, and e is its epsilon.
"""

import numpy as np
import tensorflow as tf

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.batchnorm import is_batchnorm, scale_and_shift
from tfdatafree.model.graph import Graph, Layer


class StoredStatistics:
    """The statistics that the BatchNorms of a graph hold, their channels side by side in one vector."""

    def __init__(self, graph: Graph):
        self._layers: dict[str, Layer] = {
            node.layer: graph.layer_of(node) for node in graph.nodes if is_batchnorm(graph.layer_of(node))
        }
        self.keys = list(self._layers)
        self.nodes = [node for node in graph.nodes if node.layer in self._layers]
        if not self._layers:
            low_high = f"procedural_images(n, {graph.specs[graph.inputs[0]].shape[1:]}, low, high)"
            raise UnsupportedModelError(
                f"'{graph.name}' has no BatchNormalization, whose statistics images could be matched to. Use images made "
                f"without a model: tfdatafree.inputs.procedural.{low_high}."
            )
        sizes = [len(layer.required_weight("moving_mean")) for layer in self._layers.values()]
        self.channels, self._sizes = sum(sizes), sizes
        self._ends = np.cumsum(sizes)[:-1]
        epsilon = np.repeat([layer.operation.epsilon for layer in self._layers.values()], sizes)
        variance = np.concatenate([layer.required_weight("moving_variance") for layer in self._layers.values()])
        self._epsilon, self._variance = (array.astype(np.float32) for array in (epsilon, variance))
        self._weights = np.repeat(1 / np.array(sizes), sizes).astype(np.float32)

    def observe(self, key: str, x: tf.Tensor, *, by_image: bool = False) -> tf.Tensor:
        """(mean - m*, variance + (mean - m*)^2) of x, (2, channels): these can be averaged over batches and calls.

        Args:
            by_image: Of each image alone, (2, n, channels).
        """
        axis = self._layers[key].operation.axis % len(x.shape)
        kept = {0, axis} if by_image else {axis}
        mean, variance = tf.nn.moments(x, [other for other in range(len(x.shape)) if other not in kept])
        offset = mean - self._layers[key].required_weight("moving_mean").astype(np.float32)
        return tf.stack([offset, variance + tf.square(offset)])

    def normalize(self, key: str, x: tf.Tensor) -> tf.Tensor:
        """What the BatchNorm makes of x at inference."""
        axis = self._layers[key].operation.axis % len(x.shape)
        shape = [-1 if other == axis else 1 for other in range(len(x.shape))]
        g, t = (array.astype(np.float32).reshape(shape) for array in scale_and_shift(self._layers[key]))
        return x * g + t

    def divergence(self, moments: tf.Tensor) -> tf.Tensor:
        """KL divergence per channel, (..., channels) of moments (2, ..., channels)."""
        offset, square = moments[0], moments[1]
        variance = tf.maximum(square - tf.square(offset), 0.0)
        stored = self._variance + self._epsilon
        ratio = (variance + self._epsilon) / stored
        return (ratio - 1 - tf.math.log(ratio) + tf.square(offset) / stored) / 2

    def loss(self, moments: tf.Tensor) -> tf.Tensor:
        """The divergences, mean over the channels of each BatchNorm, summed over these; mean over images where there are some."""
        return tf.reduce_mean(tf.reduce_sum(self.divergence(moments) * self._weights, axis=-1))

    def differences(self, moments: tf.Tensor) -> tf.Tensor:
        """(mean - m*, variance - v*), (2, channels)."""
        offset, square = moments[0], moments[1]
        return tf.stack([offset, square - tf.square(offset) - self._variance])

    def parts(self, values: tf.Tensor) -> list[tf.Tensor]:
        """`values` (..., channels) of each BatchNorm."""
        return tf.split(values, self._sizes, axis=-1)

    def split(self, values: np.ndarray) -> dict[str, float]:
        """Mean over the channels of each BatchNorm."""
        return {key: float(part.mean()) for key, part in zip(self.keys, np.split(values, self._ends), strict=True)}
