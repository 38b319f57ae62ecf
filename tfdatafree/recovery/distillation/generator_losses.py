"""What a generator of images minimises: the sum of the losses that its options weigh.

    labels CE(t, y) + statistics MSE + divergence KL + instance_entropy H(p_n) - batch_entropy H(mean p_n)
      - adversary D(t, s) - activations mean|f|

t and s are the logits of teacher and student, y the classes asked for, f the teacher's last features, and D what the student
minimises of the results. The statistics are in `statistics_losses.py`, the others in `losses.py`.
"""

import tensorflow as tf

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.recipe.distillation import ImageGenerator
from tfdatafree.recovery.distillation.losses import instance_entropy, label_loss, negated_batch_entropy
from tfdatafree.recovery.distillation.statistics_losses import gaussian_divergence, mean_square_distance
from tfdatafree.recovery.distillation.teacher import Seen, Teacher


def require_possible(options: ImageGenerator, teacher: Teacher, classes: int) -> None:
    """Raises UnsupportedModelError where the teacher lacks what these losses, or the generator itself, read."""
    name = teacher.graph.name
    if (options.statistics or options.divergence) and not teacher.has_statistics:
        raise UnsupportedModelError(
            f"'{name}' has no BatchNormalization, whose statistics this generator learns from; use the method 'zaq', or give "
            "images."
        )
    if (options.conditional or options.instance_entropy or options.batch_entropy) and not classes:
        raise UnsupportedModelError(
            f"'{name}' chooses no classes, which this generator learns from; use the method 'matched', or give images."
        )


def generator_loss(
    options: ImageGenerator,
    teacher: Teacher,
    seen: Seen,
    logits: tf.Tensor,
    labels: tf.Tensor,
    last_feature: tf.Tensor,
) -> tf.Tensor:
    """The sum without the adversary.

    Args:
        seen: What the teacher makes of the generated images; with moments where statistics count.
        logits: The teacher's, among `seen`.
        last_feature: The teacher's last feature with more than one position, or its last one.
    """
    loss = tf.constant(0.0)
    if options.labels:
        loss += options.labels * label_loss(logits, labels)
    if options.statistics:
        loss += options.statistics * mean_square_distance(teacher.stored, seen.moments)
    if options.divergence:
        loss += options.divergence * gaussian_divergence(teacher.stored, seen.moments)
    if options.instance_entropy:
        loss += options.instance_entropy * instance_entropy(logits)
    if options.batch_entropy:
        loss += options.batch_entropy * negated_batch_entropy(logits)
    if options.activations:
        loss -= options.activations * tf.reduce_mean(tf.abs(last_feature))
    return loss
