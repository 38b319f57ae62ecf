"""How far the statistics of a batch are from those that BatchNorms store, as published methods measure it.

m_l, v_l are mean and variance of what BatchNorm l reads, starred those that it stores; L BatchNorms.

    mean_square_distance    1/L sum_l  mean_c (m_l - m*_l)^2 + mean_c (v_l - v*_l)^2                  (Xu et al. 2020, GDFQ)
    gaussian_divergence     sum_l sum_c  KL( N(m_l, v_l) || N(m*_l, v*_l) )                         (Choi et al. 2020, AKD)
    euclidean_distance      sum_l  c_l ( |m_l - m*_l| + |v_l - v*_l| ),   c_1 = 10, else 1  (Yin et al. 2020, Deep Inversion)
so that each is 0 only for the stored statistics.
"""

import tensorflow as tf

from tfdatafree.inputs.stored_statistics import StoredStatistics

_FIRST_COUNTS = 10.0
# The gradient of a norm is not defined at 0.
_SMALL = 1e-12


def mean_square_distance(stored: StoredStatistics, moments: tf.Tensor) -> tf.Tensor:
    """GDFQ's; `moments` (2, channels) as `StoredStatistics.observe` gives them."""
    parts = [tf.reduce_mean(tf.square(part), axis=-1) for part in stored.parts(stored.differences(moments))]
    return tf.add_n([tf.reduce_sum(part) for part in parts]) / len(parts)


def gaussian_divergence(stored: StoredStatistics, moments: tf.Tensor) -> tf.Tensor:
    """AKD's."""
    return tf.reduce_sum(stored.divergence(moments))


def euclidean_distance(stored: StoredStatistics, moments: tf.Tensor) -> tf.Tensor:
    """Deep Inversion's."""
    norms = [
        tf.reduce_sum(tf.sqrt(tf.reduce_sum(tf.square(part), axis=-1) + _SMALL))
        for part in stored.parts(stored.differences(moments))
    ]
    return tf.add_n([_FIRST_COUNTS * norms[0], *norms[1:]])
