"""Trains a kernel with a soft threshold (Soft Threshold Reparameterization), one layer at a time.

    W_s = sign(W) ReLU(|W| - sigmoid(s)),        L = E || C(x; W_s) - C(x; W_t) ||^2 / outputs
W_t is the fixed float kernel, and biases are frozen. Each layer has one s. Weight decay lambda on s < 0 drives the threshold up.
                                                        (Kusupati et al. 2020; Horton et al. 2021, eq. 15-16, section IV)

The loss of a linear layer needs no samples, only their second moments: L = tr (W_s - W_t)^T H (W_s - W_t) / outputs. This is
exactly the mean over the inputs on which H was measured. A step costs inputs^2 * outputs, for any number of inputs. H is damped
as in `second_moment.damped`; otherwise the weights would adapt to what the generated inputs have in common by chance.

If a number of weights is given instead of a strength, the threshold is not learned. It is a quantile of |W|, which rises by a
cubic schedule over the first 60 % of the steps and then stays. At the end, exactly the given number of largest weights is kept.
Two things then differ from the paper's rule, because |W| decides what stays:
  - Inputs are scaled to unit variance and kernels to unit mean square, so that |W| is what a weight contributes, in every layer.
  - Adam divides by the root of the mean square gradient of the layer, not of each weight. Its own rule moves weights that the
    loss hardly depends on as far as those that it depends on most. With inputs that share one strong component, all weights of
    an output drift along it, the small ones above the threshold. What is kept is then worse than the largest untrained weights.
At a constant threshold, training converges to the least-squares solution on the weights above it: `second_moment.refit`.

Steps run in one compiled function for kernels of every shape.
"""

import math

import numpy as np
import tensorflow as tf

from tfdatafree.numerics.second_moment import DAMPING, by_group, damped, from_groups

# Length of Adam's steps, decayed to 0 by a cosine (Horton et al. 2021, section IV). The second is for scheduled thresholds, on
# weights of unit mean square: 0.2 gives a smaller loss of the layers than 0.5 or 0.1.
_RATE, _SCHEDULED_RATE = 1e-3, 0.2
# Steps of s are longer by this factor: s then travels as far in a few hundred steps as with 1e-3 in the paper's 1e5.
_THRESHOLD_RATE = 50.0
_STEPS = 400
_STEPS_PER_CALL = 10
_SCHEDULED_PART = 0.6
# s_0: a threshold of 0.0067, below most weights.
_FIRST_S = -5.0

_MATRIX = tf.TensorSpec([None, None, None], tf.float32)


@tf.function(input_signature=[_MATRIX] * 5 + [tf.TensorSpec([3], tf.float32), tf.TensorSpec([6], tf.float32)])
def _take_steps(h, original, weights, first, second, threshold_state, schedule):
    """Takes `_STEPS_PER_CALL` Adam steps on `weights` and, if `learned` is 1, on s = threshold_state[0].

    `schedule` is (steps taken, steps in all, rate, weight decay of s, fixed threshold, learned). If `learned` is 0, the fixed
    threshold holds, and all weights share one second moment. Shapes (groups, inputs, outputs); h (groups, inputs, inputs).
    """
    outputs = tf.cast(tf.shape(weights)[-1] * tf.shape(weights)[0], tf.float32)
    s, s_first, s_second = tf.unstack(threshold_state)
    step, total, rate, decay, fixed, learned = tf.unstack(schedule)
    for _ in tf.range(_STEPS_PER_CALL):
        sigmoid = tf.sigmoid(s)
        threshold = learned * sigmoid + (1 - learned) * fixed
        above = tf.abs(weights) - threshold
        soft = tf.sign(weights) * tf.nn.relu(above)
        gradient = 2 * tf.matmul(h, soft - original) / outputs
        active = tf.cast(above > 0, tf.float32)
        by_threshold = -tf.reduce_sum(gradient * active * tf.sign(weights))
        gradient *= active
        step += 1
        size = rate * 0.5 * (1 + tf.cos(math.pi * tf.minimum(step / total, 1)))
        first = 0.9 * first + 0.1 * gradient
        squares = tf.square(gradient)
        second = 0.999 * second + 0.001 * (learned * squares + (1 - learned) * tf.reduce_mean(squares))
        unbias, unbias_second = 1 - tf.pow(0.9, step), 1 - tf.pow(0.999, step)
        weights -= size * (first / unbias) / (tf.sqrt(second / unbias_second) + 1e-8)
        # The derivative of the sigmoid vanishes smoothly on both sides, so a threshold of zero gives no infinite logarithm.
        s_gradient = by_threshold * sigmoid * (1 - sigmoid) + decay * s
        s_first = 0.9 * s_first + 0.1 * s_gradient
        s_second = 0.999 * s_second + 0.001 * tf.square(s_gradient)
        s -= learned * _THRESHOLD_RATE * size * (s_first / unbias) / (tf.sqrt(s_second / unbias_second) + 1e-8)
    return weights, first, second, tf.stack([s, s_first, s_second])


def train_to_count(matrix: np.ndarray, covariance: np.ndarray, count: int, *, damping: float = DAMPING) -> np.ndarray:
    """The layer's kernel with exactly `count` weights that are not zero (fewer if it has fewer), by a scheduled threshold.

    Args:
        matrix: The float weights (taps * inputs per group, outputs).
        covariance: Covariance of each group's inputs, (groups, inputs, inputs).
    """
    if count >= matrix.size:
        return matrix
    if count <= 0 or not matrix.any():
        return np.zeros_like(matrix)
    trained, soft = _train(matrix, covariance, damping, count=count)
    chosen = np.zeros(matrix.size, bool)
    chosen[np.argsort(-np.abs(trained).reshape(-1), kind="stable")[:count]] = True
    mask = chosen.reshape(matrix.shape)
    # A weight that the count includes, but that is below the threshold, keeps its float value, which is small, too.
    return np.where(mask, np.where(soft != 0, soft, matrix), 0).astype(matrix.dtype)


def train_with_strength(
    matrix: np.ndarray, covariance: np.ndarray, strength: float, *, damping: float = DAMPING
) -> np.ndarray:
    """The layer's kernel with the zeros that the learned threshold makes at this weight decay."""
    if not matrix.any():
        return matrix
    return _train(matrix, covariance, damping, strength=strength)[1].astype(matrix.dtype)


def _train(
    matrix: np.ndarray, covariance: np.ndarray, damping: float, *, count: int | None = None, strength: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(W, whose size decides which weights stay, W_s) after all steps, each (rows, outputs); W_s in the kernel's own unit."""
    groups, inputs, _ = covariance.shape
    scheduled = count is not None
    h = damped(covariance, damping)
    original = by_group(matrix, groups, inputs).astype(np.float32)
    # The paper's rule works on unscaled weights.
    unit = np.ones((groups, inputs, 1), np.float32)
    if scheduled:
        deviation = np.sqrt(np.einsum("gii->gi", h))[:, :, None]
        unit = float(np.sqrt(np.mean(np.square(original * deviation, dtype=np.float64)))) / deviation
        h = h / (deviation * np.swapaxes(deviation, 1, 2))
    original = tf.constant((original / unit).astype(np.float32))
    weights, first, second = original, tf.zeros_like(original), tf.zeros_like(original)
    state = tf.constant([_FIRST_S, 0.0, 0.0])
    moments = tf.constant(h)
    threshold = 0.0
    rate = _SCHEDULED_RATE if scheduled else _RATE
    for step in range(0, _STEPS, _STEPS_PER_CALL):
        if count is not None and step < _SCHEDULED_PART * _STEPS:
            progress = (step + _STEPS_PER_CALL) / (_SCHEDULED_PART * _STEPS)
            dropped = int((matrix.size - count) * (1 - (1 - min(progress, 1.0)) ** 3))
            threshold = float(np.partition(np.abs(weights.numpy()).reshape(-1), dropped)[dropped])
        schedule = tf.constant([step, _STEPS, rate, strength, threshold, not scheduled], tf.float32)
        weights, first, second, state = _take_steps(moments, original, weights, first, second, state, schedule)
    if not scheduled:
        threshold = float(tf.sigmoid(state[0]))
    trained = weights.numpy()
    soft = np.sign(trained) * np.maximum(np.abs(trained) - threshold, 0)
    return from_groups(trained, matrix.shape), from_groups(soft * unit, matrix.shape)
