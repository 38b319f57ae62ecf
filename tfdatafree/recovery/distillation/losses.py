"""What is compared of student and teacher.

    divergence         T^2 mean_n KL( softmax(t_n / T) || softmax(s_n / T) )             (Hinton et al. 2015)
    relative_error     |s - t|^2 / |t|^2, for results without classes
    feature_distance   mean_l | s_l / |s_l| - t_l / |t_l| |                               (Sobolev et al., FRanDI, eq. 2)
    relation_distance  mean_l mean|S(s_l) - S(t_l)| + mean|C(s_l) - C(t_l)|               (Liu et al. 2021, ZAQ)
        f of shape (positions, channels), its channels normalized over the positions:
        S(f) = r softmax(f f^T) f + f,     C(f) = r f softmax(max(E) - E) + f,     E = f^T f,     r = 0.1
so that each is 0 where student and teacher agree.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

_SMALL = 1e-12
# Rounding errors of a cosine; and the gradient of a root is not defined at 0.
_ROUNDING = 1e-7
_RELATION = 0.1
# More positions than this make a relation map larger than the feature; it is then averaged over blocks.
_MOST_POSITIONS = 256


def divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """Mean over all but the last axis, which has the classes; of logits."""
    probabilities = tf.nn.softmax(teacher / temperature)
    return temperature**2 * tf.reduce_mean(
        _cross_entropy(probabilities, student / temperature) - _entropy_of(probabilities)
    )


def symmetric_divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """1 - their Jensen-Shannon divergence, between 0 and 1: what Deep Inversion's competition makes small."""
    p, q = (tf.clip_by_value(tf.nn.softmax(x / temperature), 0.01, 0.99) for x in (teacher, student))
    middle = (p + q) / 2
    found = (keras.losses.kl_divergence(p, middle) + keras.losses.kl_divergence(q, middle)) / 2
    return 1 - tf.clip_by_value(tf.reduce_mean(found), 0.0, 1.0)


def absolute_difference(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(keras.losses.mean_absolute_error(teacher, student))


def relative_error(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(student - teacher)) / (tf.reduce_sum(tf.square(teacher)) + _SMALL)


def label_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Cross-entropy to one class per image; the last axis of the logits has the classes."""
    flat = tf.reshape(logits, (-1, logits.shape[-1]))
    return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, flat, from_logits=True))


def feature_distance(teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
    """Norms run over the whole batch."""
    return tf.add_n([_direction_distance(t, s) for t, s in zip(teacher, student, strict=True)]) / len(teacher)


def relation_distance(teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
    """Of feature maps (n, height, width, channels)."""
    terms = []
    for t, s in zip(teacher, student, strict=True):
        (spatial_t, channels_t), (spatial_s, channels_s) = _relations(t), _relations(s)
        terms += [tf.reduce_mean(tf.abs(spatial_t - spatial_s)), tf.reduce_mean(tf.abs(channels_t - channels_s))]
    return tf.add_n(terms) / len(teacher)


def instance_entropy(logits: tf.Tensor) -> tf.Tensor:
    """Mean over images of the entropy of their classes."""
    return tf.reduce_mean(_entropy_of(tf.nn.softmax(logits)))


def negated_batch_entropy(logits: tf.Tensor) -> tf.Tensor:
    """- entropy of the classes' mean probabilities: lowest where all classes occur alike."""
    probabilities = tf.nn.softmax(logits)
    return -_entropy_of(tf.reduce_mean(tf.reshape(probabilities, (-1, logits.shape[-1])), axis=0))


def _cross_entropy(probabilities: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return keras.losses.categorical_crossentropy(probabilities, logits, from_logits=True)


def _entropy_of(probabilities: tf.Tensor) -> tf.Tensor:
    return -tf.reduce_sum(probabilities * tf.math.log(probabilities + _SMALL), axis=-1)


def _direction_distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """| a / |a| - b / |b| | = sqrt(2 - 2 cos), from three sums: these features are the largest arrays of a step."""
    squares = tf.reduce_sum(tf.square(a)) * tf.reduce_sum(tf.square(b))
    cosine = tf.reduce_sum(a * b) * tf.math.rsqrt(squares + _SMALL)
    return tf.sqrt(tf.maximum(2 - 2 * cosine, 0.0) + _ROUNDING)


def _relations(feature: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(S, C) of a feature map, both of its (reduced) shape."""
    while feature.shape[1] * feature.shape[2] > _MOST_POSITIONS:
        feature = tf.nn.avg_pool2d(feature, 2, 2, "SAME")
    f = tf.reshape(feature, (-1, feature.shape[1] * feature.shape[2], feature.shape[3]))
    f = tf.math.l2_normalize(f, axis=1, epsilon=_SMALL)
    spatial = _RELATION * tf.matmul(tf.nn.softmax(tf.matmul(f, f, transpose_b=True)), f) + f
    energy = tf.matmul(f, f, transpose_a=True)
    energy = tf.nn.softmax(tf.reduce_max(energy, axis=-1, keepdims=True) - energy)
    return spatial, _RELATION * tf.matmul(f, energy, transpose_b=True) + f
