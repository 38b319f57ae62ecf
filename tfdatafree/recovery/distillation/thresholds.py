"""Zeros that training finds: the weights of a kernel that are below its threshold are zero.

    learned      w = sign(v) ReLU(|v| - t),   t = size * sigmoid(s)      s is trained, with weight decay `strength`; one per layer
    scheduled    w = v where |v| > t, else 0 from then on                one t for all layers: the quantile of all |w|
                 part of zeros = sparsity (1 - (1 - k)^3)                k: from 0 to 1 over the first 60 % of the steps

so that at the end of the schedule exactly the asked part of all weights is zero. After 60 % of the steps thresholds stay, and the
weights that are left learn to do without the others.

Sources: Kusupati et al. 2020, arXiv 2002.03231; Horton et al. 2021 (LWDF), eq. 15; Zhu and Gupta 2017, arXiv 1710.01878.
"""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfdatafree.recipe.distillation import Thresholds
from tfdatafree.recovery.parameters import Place

# Part of the steps in which thresholds move.
SETTLING = 0.6
# s before training: a threshold of 0.7 % of the kernel's size, below most weights.
_FIRST_S = -5.0
# A step of size 1 moves s as far as this.
_S_SIZE = 0.1
# Steps from one scheduled threshold to the next.
_INTERVAL = 5


class KernelThresholds:
    """The thresholds of a student's kernels.

    Args:
        kernels: The kernels before training.
    """

    def __init__(self, options: Thresholds, kernels: Mapping[Place, np.ndarray]):
        self._options = options
        self._sizes = {place: np.sqrt(np.mean(np.square(kernel))) for place, kernel in kernels.items()}
        self._learned = {place: tf.Variable(0.0) for place in kernels} if options.strength is not None else {}
        self._masks = {} if self._learned else {place: tf.Variable(np.ones_like(v)) for place, v in kernels.items()}
        self._moves = tf.Variable(1.0, trainable=False)

    @property
    def trained(self) -> list[tf.Variable]:
        """What an optimizer moves."""
        return list(self._learned.values())

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables but the trained ones."""
        return [*self._masks.values(), self._moves]

    def apply(self, place: Place, latent: tf.Tensor) -> tf.Tensor:
        """The kernel with its zeros; `latent` itself for a kernel without a threshold."""
        if place not in self._sizes:
            return latent
        if place in self._learned:
            threshold = self._sizes[place] * tf.sigmoid(self._s(place))
            return tf.sign(latent) * tf.nn.relu(tf.abs(latent) - threshold)
        return latent * self._masks[place]

    def penalty(self) -> tf.Tensor:
        """The loss of weight decay, which drives learned thresholds up."""
        if self._options.strength is None:
            return tf.constant(0.0)
        return self._options.strength / 2 * tf.add_n([tf.square(self._s(place)) for place in self._learned])

    def settle(self, latents: Mapping[Place, tf.Tensor], step: int, steps: int) -> None:
        """Sets what the schedule says before this step of all.

        Args:
            latents: The present kernels, before their zeros are set.
        """
        end = first_settled(steps)
        if step > end:
            return
        if step == end:
            self._moves.assign(0.0)
        if self._options.sparsity is None or (step % _INTERVAL and step != end):
            return
        zeros = self._options.sparsity * (1 - (1 - step / end) ** 3)
        sizes = {place: np.abs(latents[place].numpy() * mask.numpy()) for place, mask in self._masks.items()}
        together = np.concatenate([array.ravel() for array in sizes.values()])
        if count := math.ceil(zeros * len(together)):
            threshold = np.partition(together, count - 1)[count - 1]
            for place, mask in self._masks.items():
                mask.assign(sizes[place] > threshold)

    def _s(self, place: Place) -> tf.Tensor:
        """s, which stays where it is once thresholds have settled."""
        s = _FIRST_S + _S_SIZE * self._learned[place]
        return self._moves * s + (1 - self._moves) * tf.stop_gradient(s)


def first_settled(steps: int) -> int:
    """The first step whose thresholds are the last ones."""
    return max(1, int(SETTLING * steps))
