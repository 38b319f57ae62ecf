"""Images of classes, found by gradient descent on the pixels (Deep Inversion).

    L(x) = labels CE(t(x), y) + statistics R_f + total_variation TV + l2 mean_n |x_n| + competition (1 - JS(t(x), s(x)))

TV is the sum of the norms of the differences to the right, below and both diagonal neighbours. R_f is in `statistics_losses.py`.
JS compares teacher and student at temperature 3. Before each step the images of a group move by a few pixels, wrapped around, and
half of the time they are mirrored. Pixels stay within the input range.

Source: Yin et al. 2020, arXiv 1912.08795.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.recipe.distillation import InvertedImages
from tfdatafree.recovery.distillation.losses import label_loss, symmetric_divergence
from tfdatafree.recovery.distillation.pool import Pool
from tfdatafree.recovery.distillation.statistics_losses import euclidean_distance
from tfdatafree.recovery.distillation.student import Student
from tfdatafree.recovery.distillation.teacher import Teacher
from tfdatafree.recovery.outputs import OutputPair

_BETAS = (0.5, 0.99)
_TEMPERATURE = 3.0
_SMALL = 1e-12
# Quarters of the range: the usual standard deviation of pictures is 1 then.
_UNITS = 4.0


class Inverter:
    """Makes images group by group; every step of every group runs one compiled function.

    Args:
        ends: (low, high) of each input.
        output: The result that has classes; None if there is none.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        options: InvertedImages,
        ends: Sequence[tuple[float, float]],
        output: OutputPair | None,
        *,
        seed: int,
    ):
        if not teacher.has_statistics:
            raise UnsupportedModelError(
                f"'{teacher.graph.name}' has no BatchNormalization, whose statistics images could be matched to; give images."
            )
        self._teacher, self._student, self.options, self._output, self._seed = (
            teacher,
            student,
            options,
            output,
            seed % 2**30,
        )
        self._units = [(high - low) / _UNITS for low, high in ends]
        self._middles = [(high + low) / 2 for low, high in ends]
        shapes = [teacher.graph.specs[tensor].example_shape for tensor in teacher.graph.inputs]
        self._pixels = [tf.Variable(tf.zeros((options.group, *shape))) for shape in shapes]
        rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
        self._optimizer = keras.optimizers.Adam(rate, *_BETAS)
        self._optimizer.build(self._pixels)
        self._first = [np.array(variable) for variable in self._optimizer.variables]
        self._compiled = tf.function(self._step, autograph=False)

    @property
    def groups(self) -> int:
        """How many groups all images are."""
        return -(-self.options.images // self.options.group)

    def group(self, number: int, on_step: Callable[[float], None] = lambda loss: None) -> Pool:
        """The images of one group, which depend on nothing but its number and the seed.

        Args:
            on_step: Called with the loss of each step.
        """
        for at, x in enumerate(self._pixels):
            x.assign(tf.random.stateless_normal(x.shape, (self._seed + at, number)))
        for variable, value in zip(self._optimizer.variables, self._first, strict=True):
            variable.assign(value)
        labels = ((np.arange(self.options.group) + number * self.options.group) % max(1, self._classes)).astype(
            np.int32
        )
        for step in range(self.options.steps):
            on_step(float(self._compiled(tf.constant(labels), tf.constant([self._seed + number, step], tf.int32))))
        images = [x.numpy() for x in self._images([tf.convert_to_tensor(x) for x in self._pixels])]
        return Pool(images, labels if self._classes else None)

    @property
    def _classes(self) -> int:
        return 0 if self._output is None else self._output.classes

    def _images(self, pixels: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [middle + unit * x for x, unit, middle in zip(pixels, self._units, self._middles, strict=True)]

    # Compiled ---------------------------------------------------------------------------------------------------------

    def _step(self, labels, seed):
        with tf.GradientTape() as tape:
            loss = self._loss(self._moved(seed), labels)
        gradients = tape.gradient(loss, self._pixels, unconnected_gradients="zero")
        self._optimizer.apply([tf.where(tf.math.is_finite(g), g, 0.0) for g in gradients], self._pixels)
        for x in self._pixels:
            x.assign(tf.clip_by_value(x, -_UNITS / 2, _UNITS / 2))
        return loss

    def _loss(self, pixels, labels):
        options, output = self.options, self._output
        names = [] if output is None else [output.teacher]
        images = self._images(pixels)
        seen = self._teacher.see(images, names, statistics=True)
        loss = options.statistics * euclidean_distance(self._teacher.stored, seen.moments)
        if output is not None and output.classes and options.labels:
            loss += options.labels * label_loss(seen.values[output.teacher], labels)
        if output is not None and output.classes and options.competition:
            student = self._student.values_of(images, [output.student])[output.student]
            loss += options.competition * symmetric_divergence(seen.values[output.teacher], student, _TEMPERATURE)
        for x in pixels:
            if options.l2:
                loss += options.l2 * tf.reduce_mean(tf.norm(tf.reshape(x, (x.shape[0], -1)), axis=1))
            if options.total_variation and len(x.shape) == 4:
                loss += options.total_variation * _total_variation(x)
        return loss

    def _moved(self, seed):
        """The pixels of a group, moved and perhaps mirrored."""
        drawn = tf.random.stateless_uniform((3,), seed)
        reach = 2 * self.options.jitter + 1
        moves = tf.cast(tf.floor(drawn[:2] * reach), tf.int32) - self.options.jitter
        moved = []
        for variable in self._pixels:
            x = tf.convert_to_tensor(variable)
            if len(x.shape) == 4:
                x = tf.roll(x, moves, (1, 2))
                x = tf.cond(drawn[2] < 0.5, lambda x=x: tf.reverse(x, (2,)), lambda x=x: x)
            moved.append(x)
        return moved


def _total_variation(x):
    differences = (
        x[:, :, 1:] - x[:, :, :-1],
        x[:, 1:] - x[:, :-1],
        x[:, 1:, 1:] - x[:, :-1, :-1],
        x[:, 1:, :-1] - x[:, :-1, 1:],
    )
    return tf.add_n([tf.sqrt(tf.reduce_sum(tf.square(difference)) + _SMALL) for difference in differences])
