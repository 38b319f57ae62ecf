"""One compiled step of a student, and one of a generator: what moves, and by which optimizer.

    student     minimises its loss on a batch of a pool, or on what the generator makes of noise
    generator   minimises its loss minus  adversary * (what the student minimises of the results)

Step number k of either draws its noise from (seed, k), so that it depends on nothing that was drawn before.
"""

import keras
import numpy as np
import tensorflow as tf

from tfdatafree.recipe.distillation import Distillation, ImageGenerator
from tfdatafree.recovery.distillation.generator_losses import generator_loss
from tfdatafree.recovery.distillation.generator_network import draw_noise
from tfdatafree.recovery.distillation.pool import Batches
from tfdatafree.recovery.distillation.student import Student
from tfdatafree.recovery.distillation.student_loss import StudentLoss
from tfdatafree.recovery.distillation.teacher import Teacher

_NESTEROV = 0.9
# Gradients are in units of the sizes of what moves, which makes them small.
_STABILIZER = 1e-10
_GENERATOR_BETAS = (0.5, 0.999)
# Streams of random numbers.
_OF_STUDENT, _OF_GENERATOR = 0, 2**20


class Adversary:
    """A generator, and what it reads of the networks.

    Attributes:
        network: The generator.
        options: How it is trained.
        classes: Number of classes; 0 for none.
        logits: The teacher's tensor with the classes, or its first result.
        last_feature: The teacher's last feature map.
    """

    def __init__(self, network: keras.Model, options: ImageGenerator, classes: int, logits: str, last_feature: str):
        self.network, self.options, self.classes = network, options, classes
        self.logits, self.last_feature = logits, last_feature
        self.optimizer = keras.optimizers.Adam(options.learning_rate, *_GENERATOR_BETAS)
        self.optimizer.build(network.trainable_variables)

    def draw(self, n: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(images, the classes asked for), the same for the same seed (2,)."""
        z, labels = draw_noise(n, self.options.latent, self.classes, seed)
        return self.network([z, labels], training=True), labels

    @property
    def variables(self) -> list:
        return [*self.network.variables, *self.optimizer.variables]


class Trainer:
    """Takes steps.

    Args:
        source: Batches of a pool, or a generator.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        loss: StudentLoss,
        source: Batches | Adversary,
        options: Distillation,
        *,
        seed: int,
    ):
        self.student, self._teacher, self._loss, self.source = student, teacher, loss, source
        self._options, self._seed = options, seed % 2**31
        self._optimizer = _optimizer(options)
        self._optimizer.build(student.trained)
        self._on_images = tf.function(self._student_step, autograph=False)
        self._on_noise = tf.function(self._student_step_on_noise, autograph=False)
        self._alone = tf.function(lambda seed: self._generator_step(seed, adversary=0.0), autograph=False)
        self._against = tf.function(self._generator_step_against, autograph=False)

    @property
    def variables(self) -> list:
        """All that a checkpoint holds, in an order that is always the same."""
        adversary = self.source.variables if isinstance(self.source, Adversary) else []
        return [*self.student.variables, *self._optimizer.variables, *adversary]

    def warm_up(self, number: int) -> float:
        """Step `number` of the generator alone, before the student's first; its loss."""
        return float(self._alone(self._seeded(_OF_GENERATOR + number)))

    def step(self, number: int, rate: float) -> float:
        """Step `number` of the student, after one of the generator where it is its turn; the student's loss before it.

        Args:
            rate: Length of the student's step.
        """
        self._optimizer.learning_rate.assign(rate)
        self.student.settle(number, self._options.steps)
        if isinstance(self.source, Batches):
            batch = self.source.at(number)
            return float(self._on_images(batch.inputs, batch.labels))
        options = self.source.options
        if number % options.student_steps == 0 and self._generator_moves:
            turn = options.warm_up + number // options.student_steps
            self._against(self._seeded(_OF_GENERATOR + turn))
        return float(self._on_noise(self._seeded(_OF_STUDENT + number)))

    def restart(self, values: list[np.ndarray]) -> None:
        """Sets the student's variables to these values, and forgets its earlier steps."""
        assign(self.student.variables, values)
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))

    @property
    def _generator_moves(self) -> bool:
        options = self.source.options if isinstance(self.source, Adversary) else None
        names = ("labels", "statistics", "divergence", "instance_entropy", "batch_entropy", "adversary", "activations")
        return options is not None and any(getattr(options, name) for name in names)

    def _seeded(self, number: int) -> tf.Tensor:
        return tf.constant([self._seed, number], tf.int32)

    # Compiled ---------------------------------------------------------------------------------------------------------

    def _student_step(self, inputs, labels):
        variables = self.student.trained
        seen = self._teacher.see(inputs, self._loss.teacher_tensors)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            values = self.student.values_of(inputs, self._loss.student_tensors, training=True)
            loss = self._loss(values, seen.values, labels) + self.student.penalty()
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        self._optimizer.apply(_finite(gradients), variables)
        return loss

    def _student_step_on_noise(self, seed):
        assert isinstance(self.source, Adversary)
        images, labels = self.source.draw(self._options.batch_size, seed)
        return self._student_step([images], labels)

    def _generator_step_against(self, seed):
        assert isinstance(self.source, Adversary)
        return self._generator_step(seed, adversary=self.source.options.adversary)

    def _generator_step(self, seed, *, adversary: float):
        source = self.source
        assert isinstance(source, Adversary)
        options, variables = source.options, source.network.trainable_variables
        names = [*self._loss.teacher_tensors, source.logits, source.last_feature]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            images, labels = source.draw(self._options.batch_size, seed)
            seen = self._teacher.see([images], names, statistics=bool(options.statistics or options.divergence))
            feature = seen.values[source.last_feature]
            loss = generator_loss(options, self._teacher, seen, seen.values[source.logits], labels, feature)
            if adversary:
                values = self.student.values_of([images], self._loss.student_tensors)
                loss -= adversary * self._loss.difference(values, seen.values)
        gradients = tape.gradient(loss, [variable.value for variable in variables], unconnected_gradients="zero")
        source.optimizer.apply(_finite(gradients), variables)
        return loss


def _finite(gradients):
    return [tf.where(tf.math.is_finite(gradient), gradient, 0.0) for gradient in gradients]


def _optimizer(options: Distillation) -> keras.optimizers.Optimizer:
    """The optimizer of a student; each step sets its rate."""
    if options.optimizer == "adam":
        return keras.optimizers.Adam(epsilon=_STABILIZER)
    return keras.optimizers.SGD(momentum=_NESTEROV, nesterov=True, weight_decay=options.weight_decay or None)


def assign(variables: list, values: list[np.ndarray]) -> None:
    """Sets the variables to these values, in their order."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
