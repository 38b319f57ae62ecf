"""What a student minimises: the sum of the losses that a `Comparison` weighs."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfdatafree.recipe.distillation import Comparison
from tfdatafree.recovery.distillation.layerwise import LayerwiseLoss
from tfdatafree.recovery.distillation.losses import (
    absolute_difference,
    divergence,
    feature_distance,
    label_loss,
    relation_distance,
    relative_error,
)
from tfdatafree.recovery.distillation.student import Student
from tfdatafree.recovery.distillation.teacher import Teacher
from tfdatafree.recovery.outputs import OutputPair


class StudentLoss:
    """The loss, and the tensors that it reads.

    Args:
        features: (feature of the student, of the teacher) of each layer, in order.
        outputs: The results.

    Attributes:
        student_tensors, teacher_tensors: Names of the tensors that it reads.
    """

    def __init__(
        self,
        options: Comparison,
        student: Student,
        teacher: Teacher,
        features: Sequence[tuple[str, str]],
        outputs: Sequence[OutputPair],
    ):
        self._options, self._outputs = options, list(outputs)
        self._features = list(features) if options.features else []
        self._maps = last_maps(teacher, features) if options.relations else []
        self._layerwise = LayerwiseLoss(teacher.graph, student) if options.layers else None
        pairs = [*((pair.student, pair.teacher) for pair in outputs), *self._features, *self._maps]
        self.student_tensors = list(dict.fromkeys(name for name, _ in pairs))
        self.teacher_tensors = list(dict.fromkeys(name for _, name in pairs))

    def __call__(self, student: Mapping[str, Any], teacher: Mapping[str, Any], labels: tf.Tensor | None) -> tf.Tensor:
        """The loss of a batch.

        Args:
            student, teacher: The values of `student_tensors` and `teacher_tensors`.
            labels: The classes that the images were made for, (n,); read only where they count.
        """
        options, loss = self._options, self.difference(student, teacher)
        classifiers = [pair for pair in self._outputs if pair.classes]
        if options.labels and labels is not None and classifiers:
            loss += options.labels * label_loss(student[classifiers[0].student], labels)
        if self._features:
            theirs, ours = self._values(self._features, student, teacher)
            loss += options.features * feature_distance(theirs, ours)
        if self._layerwise is not None:
            loss += options.layers * self._layerwise()
        return loss

    def difference(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> tf.Tensor:
        """What an adversary makes large: results and relation maps."""
        options, loss = self._options, tf.constant(0.0)
        for pair in self._outputs:
            t, s = teacher[pair.teacher], student[pair.student]
            if options.logits:
                loss += options.logits * (
                    divergence(t, s, options.temperature) if pair.classes else relative_error(t, s)
                )
            if options.l1:
                loss += options.l1 * absolute_difference(t, s)
        if self._maps:
            theirs, ours = self._values(self._maps, student, teacher)
            loss += options.relations * relation_distance(theirs, ours)
        return loss

    @staticmethod
    def _values(pairs: Sequence[tuple[str, str]], student, teacher) -> tuple[list, list]:
        return [teacher[name] for _, name in pairs], [student[name] for name, _ in pairs]


def last_maps(teacher: Teacher, features: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The last of the features (n, height, width, channels) of each image size, from the largest size to the smallest."""
    by_size = {}
    for pair in features:
        shape = teacher.graph.specs[pair[1]].shape
        if len(shape) == 4 and None not in shape[1:] and shape[1:3] != (1, 1):
            by_size[shape[1:3]] = pair
    return list(by_size.values())
