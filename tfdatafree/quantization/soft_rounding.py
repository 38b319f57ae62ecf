"""The rounding that training can decide: a number between 0 (down) and 1 (up) for each weight.

h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)                       a rectified sigmoid, which reaches 0 and 1
penalty = 1 - |2 h(V) - 1|^beta,      beta: 20 -> 2           0 where h is 0 or 1; first near these only, then everywhere

so that a weight starts between its two neighbours on the grid, and ends on one of them.    (Nagel et al. 2020, eq. 23 and 24)
"""

import tensorflow as tf

STRETCH, OFFSET = 1.2, -0.1
# Part of the steps without the penalty.
WARM_UP = 0.2
_HIGHEST_POWER, _LOWEST_POWER = 20.0, 2.0


def start_of(fraction: tf.Tensor) -> tf.Tensor:
    """V with h(V) = `fraction`, which is from 0 to 1."""
    inside = tf.clip_by_value((fraction - OFFSET) / STRETCH, 1e-3, 1 - 1e-3)
    return tf.math.log(inside / (1 - inside))


def rectified_sigmoid(v: tf.Tensor) -> tf.Tensor:
    """h(v), before it is clipped to [0, 1]."""
    return STRETCH * tf.sigmoid(v) + OFFSET


def power_at(step: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """beta at this one of `steps` steps; both are float32 scalars."""
    progress = tf.clip_by_value((step / steps - WARM_UP) / (1 - WARM_UP), 0.0, 1.0)
    return _HIGHEST_POWER + (_LOWEST_POWER - _HIGHEST_POWER) * progress


def penalty(h: tf.Tensor, power: tf.Tensor) -> tf.Tensor:
    """How far each clipped h is from 0 and 1, between 0 and 1."""
    return 1 - tf.pow(tf.abs(2 * h - 1) + 1e-12, power)


def rounds_up(v: tf.Tensor) -> tf.Tensor:
    """1 where a weight rounds up, else 0."""
    return tf.cast(v >= 0, tf.float32)  # h(0) = 1 / 2
