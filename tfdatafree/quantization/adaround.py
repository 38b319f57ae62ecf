"""AdaRound: learns whether each weight rounds up or down, from the error of the layer's output.

A weight becomes W_q = S * (floor(W / S) + h(V)), h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1) (a rectified sigmoid), where V minimises

    E || (W_q - W)^T (x - E x) ||^2 / (S^2 mean var x)  +  lambda sum (1 - |2 h(V) - 1|^beta),      beta: 20 -> 2

with Adam. The second term is off at first, and then moves every h to 0 or 1. The expectation over generated inputs is computed
in closed form, tr (W_q - W)^T cov(x) (W_q - W). The shift of the mean is left to the bias correction,
so that every integer is W / S rounded up or down, and the same inputs give the same integers.
                                                     (Nagel et al. 2020, arXiv 2004.10568, eq. 20-24, there on batches)
"""

import numpy as np
import tensorflow as tf

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.quantization.soft_rounding import (
    STRETCH,
    WARM_UP,
    power_at,
    rectified_sigmoid,
    rounds_up,
    start_of,
)

STEPS = 300
RATE = 0.02
STRENGTH = 0.1
# Every input's variance is increased by this fraction of the mean variance, because there are few samples.
DAMPING = 0.1


def round_adaptively(
    matrix: np.ndarray, covariance: np.ndarray, quantizer: Quantizer, *, steps: int = STEPS
) -> np.ndarray:
    """Integers of `matrix` on the grid of `quantizer`, each rounded up or down.

    Args:
        matrix, covariance, quantizer: As for `feedback.round_with_feedback`.
        steps: Number of steps of Adam.
    """
    groups, inputs, _ = covariance.shape
    taps, outputs = len(matrix) // inputs, matrix.shape[1]
    scale = np.broadcast_to(np.asarray(quantizer.scale, np.float64), (outputs,))
    zero_point = np.broadcast_to(np.asarray(quantizer.zero_point), (outputs,))
    exact = np.clip(matrix / scale + zero_point, quantizer.qmin, quantizer.qmax)
    lower = np.floor(exact)

    def by_group(values: np.ndarray) -> np.ndarray:
        split = values.reshape(taps, inputs, groups, outputs // groups)
        return split.transpose(2, 1, 0, 3).reshape(groups, inputs, -1).astype(np.float32)

    mean_variance = np.maximum(np.einsum("gii->g", covariance) / inputs, 1e-12)[:, None, None]
    normal = covariance / mean_variance + DAMPING * np.eye(inputs)
    up = _learn(by_group(exact - lower), normal.astype(np.float32), tf.constant(steps)).numpy()
    up = up.reshape(groups, inputs, taps, -1).transpose(2, 1, 0, 3).reshape(matrix.shape)
    return np.clip(lower + up, quantizer.qmin, quantizer.qmax).astype(quantizer.dtype)


@tf.function(autograph=False)
def _learn(fraction: tf.Tensor, covariance: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """1 where a weight rounds up, else 0. Traced once for all layers of one shape.

    Args:
        fraction: W / S - floor(W / S), (groups, inputs, columns).
        covariance: (groups, inputs, inputs), with a mean variance of 1.
    """
    start = start_of(fraction)  # the float layer
    total = tf.cast(steps, tf.float32)

    def step(at, v, first, second):
        now = tf.cast(at, tf.float32)
        power = power_at(now, total)
        weight = tf.where(now >= WARM_UP * total, STRENGTH, 0.0)
        sigmoid = tf.sigmoid(v)
        h = rectified_sigmoid(v)
        slope = tf.where((h > 0) & (h < 1), STRETCH * sigmoid * (1 - sigmoid), 0.0)
        h = tf.clip_by_value(h, 0.0, 1.0)
        side = 2 * h - 1
        regular = -2 * weight * power * tf.sign(side) * tf.pow(tf.abs(side) + 1e-12, power - 1)
        gradient = (2 * covariance @ (h - fraction) + regular) * slope
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * tf.square(gradient)
        unbiased = tf.sqrt(second / (1 - tf.pow(0.999, now + 1))) + 1e-8
        return at + 1, v - RATE * first / (1 - tf.pow(0.9, now + 1)) / unbiased, first, second

    empty = tf.zeros_like(start)
    _, v, _, _ = tf.while_loop(lambda at, *_: at < steps, step, (tf.constant(0), start, empty, empty))
    return rounds_up(v)
