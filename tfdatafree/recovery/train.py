"""Trains a changed network until its layers compute again what the teacher's layers compute.

    min over W'  mean over layers i of  || f_i / |f_i| - f'_i / |f'_i| ||          norms over a batch of images

f_i is the feature of layer i in the teacher, f'_i that in the student (`features.py`). The loss is the norm and not its
square, so that a layer that is nearly right keeps its gradient. Adam with warm-up and cosine decay moves kernels, biases and
BatchNorms' gamma and beta. The length of a step is a part of the size of what it moves (`parameters.py`):

    length = rate * size,       rate = learning rate * the minimised mean at the start

so that no step moves a feature much farther than a part of its distance to the teacher's. Else the first steps would harm a
student that is nearly right.

BatchNorms compute with their stored statistics. Weights outside a mask stay exact zeros. A kernel with a grid is rounded to
it in each step, and gradients pass the rounding unchanged. Its weights travel at most a few times its scale in all. Images
are mirrored and moved a little. A part of the images is held out and judges: the step with the least loss on them is taken.
Where no step is better than the start, the steps become smaller.

Source: Sobolev et al., FRanDI, eq. 2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.recovery.features import feature_pairs
from tfdatafree.recovery.parameters import Bounds, Parameter, Place, feature_sizes, trained_parameters, values_of
from tfdatafree.recovery.straight_through import along, straight_through
from tfdatafree.recovery.views import View, show

# Part of the steps during which their length grows to its full value.
_WARM_UP = 0.1
# The farthest that a weight travels, in scales of its grid: rounding moved it by less than one.
_TRAVEL = 0.6
# Distance of features with opposite signs, the largest that there is.
_LARGEST_DISTANCE = 2.0
_BETAS, _STABILIZER = (0.9, 0.999), 1e-8
# Number of times that the held-out images judge the student.
_CHECKS = 20
# If no check in this part of the steps is better than the start, training restarts with steps that are smaller by this factor.
_PATIENCE, _SLOWER = 0.25, 4.0


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How a network is trained; `tfdatafree.feature_regression` explains each option."""

    steps: int
    learning_rate: float
    batch_size: int
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        for name, least in (("steps", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}.")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; give a number above 0 and at most 1, e.g. 0.2.")


@dataclass(frozen=True)
class Images:
    """Inputs of a student and of its teacher for training, and those held out to judge; one array (n, ...) per graph input."""

    student: list[np.ndarray]
    teacher: list[np.ndarray]
    held_out_student: list[np.ndarray]
    held_out_teacher: list[np.ndarray]


def regress(
    student: Graph,
    teacher: Graph,
    images: Images,
    options: Regression,
    bounds: Bounds,
    *,
    on_step: Callable[[float], None] = lambda loss: None,
) -> tuple[Graph, int]:
    """(the student with trained weights, the step that they are from: 0 where no step was better than the start).

    Args:
        student, teacher: Separated graphs whose layers have the same names; any BatchNorm may be folded in either.
        on_step: Called with the loss before each step.
    """
    pairs, _ = feature_pairs(student, teacher)
    if not pairs or not options.steps:
        return student, 0
    trainer = _Trainer(student, teacher, list(pairs.values()), images, options, bounds)
    random = np.random.default_rng(options.seed)
    count = len(images.student[0])
    batch_size, order = min(options.batch_size, count), np.empty(0, np.intp)
    best_loss, best_weights, best_step = trainer.judge(), trainer.weights(), 0
    rate, start, length = options.learning_rate * min(best_loss, _LARGEST_DISTANCE), 0, options.steps
    interval = max(1, options.steps // _CHECKS)
    for step in range(options.steps):
        while len(order) < batch_size:
            order = np.concatenate([order, random.permutation(count)])
        rows, order = order[:batch_size], order[batch_size:]
        view = View(batch_size, random) if options.flip else None
        student_inputs, teacher_inputs = (show(arrays, rows, view) for arrays in (images.student, images.teacher))
        loss = trainer.step(student_inputs, teacher_inputs, rate, step - start, length)
        on_step(loss)
        if (step + 1) % interval == 0 or step + 1 == options.steps:
            held_out_loss = trainer.judge()
            if held_out_loss < best_loss:
                best_loss, best_weights, best_step = held_out_loss, trainer.weights(), step + 1
            elif best_step <= start and step + 1 - start >= _PATIENCE * length:
                rate, start, length = rate / _SLOWER, step + 1, options.steps - step - 1
                trainer.restart(best_weights)
    return trainer.graph(best_weights), best_step


class _Trainer:
    """The variables that are trained, and one compiled step."""

    def __init__(self, student: Graph, teacher: Graph, pairs, images: Images, options: Regression, bounds: Bounds):
        self._student, self._options, self._pairs, self._images = student, options, pairs, images
        self._teacher = teacher.with_tensors()
        self._student_with_tensors = differentiable(student.with_tensors())
        sizes = feature_sizes(student, teacher, pairs, images.held_out_teacher)
        self._parameters = trained_parameters(student, sizes, bounds)
        self._variables = {place: tf.Variable(parameter.values) for place, parameter in self._parameters.items()}
        # With cosine decay, all steps together are as long as half of them at full length.
        self._limits = [2 * _TRAVEL * _scale_of(parameter) / options.steps for parameter in self._parameters.values()]
        self._first_moments = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables.values()]
        self._second_moments = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables.values()]
        self._compiled = tf.function(self._step, autograph=False)
        self._judge = tf.function(self._loss, autograph=False)

    def step(self, student_inputs, teacher_inputs, rate: float, step: int, steps: int) -> float:
        """Takes step number `step` of `steps`; the loss before it."""
        numbers = (tf.constant(number, tf.float32) for number in (rate, step, steps))
        return float(self._compiled(student_inputs, teacher_inputs, *numbers))

    def restart(self, weights: Mapping[tuple[str, int], np.ndarray]) -> None:
        """Sets these weights, and Adam's moments to zero."""
        for place, variable in self._variables.items():
            variable.assign(weights[place])
        for variable in (*self._first_moments, *self._second_moments):
            variable.assign(tf.zeros_like(variable))

    def judge(self) -> float:
        """The loss on the held-out images."""
        images, size = self._images, self._options.batch_size
        n, total = len(images.held_out_student[0]), 0.0
        for at in range(0, n, size):
            batches = (
                [tf.constant(array[at : at + size]) for array in arrays]
                for arrays in (images.held_out_student, images.held_out_teacher)
            )
            total += float(self._judge(*batches)) * min(size, n - at) / n
        return total if np.isfinite(total) else np.inf

    def weights(self) -> dict[tuple[str, int], np.ndarray]:
        return {place: variable.numpy() for place, variable in self._variables.items()}

    def graph(self, weights: Mapping[tuple[str, int], np.ndarray]) -> Graph:
        """The student with these weights, on their grids."""
        graph = self._student.copy()
        for key, layer in graph.layers.items():
            values = [
                self._final((key, at), weights[key, at]) if (key, at) in weights else value
                for at, value in enumerate(layer.weights)
            ]
            graph.layers[key] = Layer(layer.operation, tuple(values))
        return graph

    def _final(self, place: Place, values: np.ndarray) -> np.ndarray:
        parameter = self._parameters[place]
        values = values if parameter.grid is None else parameter.grid(values)
        return values if parameter.mask is None else np.where(parameter.mask > 0, values, 0).astype(values.dtype)

    # Compiled ---------------------------------------------------------------------------------------------------------

    def _step(self, student_inputs, teacher_inputs, rate, step, steps):
        variables = list(self._variables.values())
        with tf.GradientTape() as tape:
            loss = self._loss(student_inputs, teacher_inputs)
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        sizes = [parameter.size for parameter in self._parameters.values()]
        decay = 0.5 * (1 + tf.cos(np.float32(np.pi) * step / steps)) * tf.minimum(1.0, (step + 1) / (_WARM_UP * steps))
        decay *= tf.sqrt(1 - _BETAS[1] ** (step + 1)) / (1 - _BETAS[0] ** (step + 1))
        lengths = (tf.minimum(rate * size, limit) for size, limit in zip(sizes, self._limits, strict=True))
        updates = (variables, self._first_moments, self._second_moments, gradients, lengths)
        for variable, m, v, g, length in zip(*updates, strict=True):
            g = tf.where(tf.math.is_finite(g), g, 0.0)
            m.assign(_BETAS[0] * m + (1 - _BETAS[0]) * g)
            v.assign(_BETAS[1] * v + (1 - _BETAS[1]) * tf.square(g))
            variable.assign_sub(decay * length * m / (tf.sqrt(v) + _STABILIZER))
        return loss

    def _loss(self, student_inputs, teacher_inputs) -> tf.Tensor:
        targets = values_of(self._teacher, teacher_inputs, {tensor for _, tensor in self._pairs})
        features = values_of(self._student_with_variables(), student_inputs, {tensor for tensor, _ in self._pairs})
        return tf.add_n([_distance(features[a], targets[b]) for a, b in self._pairs]) / len(self._pairs)

    def _student_with_variables(self) -> Graph:
        graph = self._student_with_tensors.copy()
        for key, layer in graph.layers.items():
            values = list(layer.weights)
            for at in range(len(values)):
                if (key, at) not in self._variables:
                    continue
                parameter = self._parameters[key, at]
                values[at] = tf.convert_to_tensor(self._variables[key, at])
                if parameter.mask is not None:
                    values[at] *= parameter.mask
                if parameter.grid is not None:
                    values[at] = straight_through(values[at], parameter.grid)
            graph.layers[key] = Layer(layer.operation, tuple(values))
        return graph


def _distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    difference = a / (tf.norm(a) + 1e-12) - b / (tf.norm(b) + 1e-12)
    # The gradient of a norm is not defined at 0.
    return tf.sqrt(tf.reduce_sum(tf.square(difference)) + 1e-12)


def _scale_of(parameter: Parameter) -> np.ndarray:
    """The distance of neighbouring values on the parameter's grid; inf for a float."""
    grid = parameter.grid
    return np.asarray(np.inf, np.float32) if grid is None else along(grid.scale, grid, parameter.values.ndim)
