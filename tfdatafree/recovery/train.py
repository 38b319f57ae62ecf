"""Trains a changed network until its layers compute again what the teacher's layers compute.

    min over W'  mean over layers i of  || f_i / |f_i| - f'_i / |f'_i| ||          norms over a batch of images

f_i is the feature of layer i in the teacher, f'_i that in the student (`features.py`). The loss is the norm and not its
square, so that a layer that is nearly right keeps its gradient. Adam with warm-up and cosine decay moves kernels, biases and
BatchNorms' gamma and beta. The length of a step is a part of the size of what it moves, channel by channel:

    kernel: rate * rms(w) / sqrt(n)         w: the output channel's n weights that are not zero
    gamma: rate * |gamma| / sqrt(c),        bias, beta: rate * rms(f) / sqrt(c)         f: one of the c channels of f_i
    rate = learning rate * the minimised mean at the start

Channels of any scale thus learn alike: folding leaves some channels of a layer a thousand times as large as others. Adam's
first steps have one size for all weights. Where n of them agree, their sum moves sqrt(n) times as far as with random signs.
The division takes this back, so that no step moves a feature much farther than a part of its distance to the teacher's. Else
the first steps would harm a student that is nearly right.

BatchNorms compute with their stored statistics. Weights outside a mask stay exact zeros. A kernel with a grid is rounded to
it in each step, and gradients pass the rounding unchanged. Its weights travel at most a few times its scale in all. Images
are mirrored and moved a little. A part of the images is held out and judges: the step with the least loss on them is taken.
Where no step is better than the start, the steps become smaller.

Source: Sobolev et al., FRanDI, eq. 2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recovery.features import feature_pairs

_TRAINED = ("kernel", "depthwise_kernel", "bias", "gamma", "beta")
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
# The largest move of an image, as a part of its size.
_LARGEST_MOVE = 0.125


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
    *,
    masks: Mapping[str, np.ndarray],
    grids: Mapping[str, Quantizer],
    is_trained: Callable[[str], bool] = lambda key: True,
    on_step: Callable[[float], None] = lambda loss: None,
) -> tuple[Graph, int]:
    """(the student with trained weights, the step that they are from: 0 where no step was better than the start).

    Args:
        student, teacher: Separated graphs whose layers have the same names; any BatchNorm may be folded in either.
        masks: Layer -> mask of its kernel.
        grids: Layer -> grid of its kernel.
        is_trained: Whether the layer of this key may change.
        on_step: Called with the loss before each step.
    """
    pairs, _ = feature_pairs(student, teacher)
    if not pairs or not options.steps:
        return student, 0
    trainer = _Trainer(student, teacher, list(pairs.values()), images, options, masks, grids, is_trained)
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
        view = _View(batch_size, random) if options.flip else None
        loss = trainer.step(
            [_viewed(array[rows], view) for array in images.student],
            [_viewed(array[rows], view) for array in images.teacher],
            rate,
            step - start,
            length,
        )
        on_step(loss)
        if (step + 1) % interval == 0 or step + 1 == options.steps:
            held_out_loss = trainer.judge()
            if held_out_loss < best_loss:
                best_loss, best_weights, best_step = held_out_loss, trainer.weights(), step + 1
            elif best_step <= start and step + 1 - start >= _PATIENCE * length:
                rate, start, length = rate / _SLOWER, step + 1, options.steps - step - 1
                trainer.restart(best_weights)
    return trainer.graph(best_weights), best_step


class _View:
    """How the images of a batch are shown: some mirrored, all moved. The teacher's features are computed from the same view."""

    def __init__(self, n: int, random: np.random.Generator):
        self.mirrored = random.random(n) < 0.5
        self.moves = random.uniform(-_LARGEST_MOVE, _LARGEST_MOVE, (2, n))

    def of(self, array: np.ndarray) -> np.ndarray:
        """Images (n, height, width, channels), reflected at their borders; any other array unchanged."""
        if array.ndim != 4:
            return array
        rows, columns = (
            _reflect(np.rint(move * size).astype(int)[:, None] + np.arange(size), size)
            for move, size in zip(self.moves, array.shape[1:3], strict=True)
        )
        columns = np.where(self.mirrored[:, None], columns[:, ::-1], columns)
        return array[np.arange(len(array))[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Indices beyond either end of an axis of `size` values, reflected into it."""
    last = size - 1
    return last - np.abs(last - np.abs(index))


def _viewed(array: np.ndarray, view: _View | None) -> tf.Tensor:
    return tf.constant(array if view is None else view.of(array))


class _Trainer:
    """The variables that are trained, and one compiled step."""

    def __init__(self, student: Graph, teacher: Graph, pairs, images: Images, options, masks, grids, is_trained):
        self._student, self._options, self._pairs, self._images = student, options, pairs, images
        self._teacher = teacher.with_tensors()
        self._student_with_tensors = differentiable(student.with_tensors())
        self._grids = grids
        self._variables: dict[tuple[str, int], tf.Variable] = {}
        self._masks: dict[tuple[str, int], tf.Tensor] = {}
        self._sizes: dict[tuple[str, int], np.ndarray] = {}
        self._limits: dict[tuple[str, int], np.ndarray] = {}
        sizes = self._feature_sizes()
        for key, layer in student.layers.items():
            if not is_trained(key):
                continue
            for at, variable in enumerate(layer.operation.weights if layer.weights else ()):
                if variable.name not in _TRAINED or (find_layout(layer) is None and not is_batchnorm(layer)):
                    continue
                values = layer.weights[at]
                if "kernel" in variable.name and key in masks:
                    self._masks[key, at] = tf.constant(masks[key].astype(np.float32))
                    values = np.where(masks[key], values, 0).astype(np.float32)
                axes = _within_channel(layer, values)
                size = sizes.get(key, np.float32(0)) if variable.name in ("bias", "beta") else _rms(values, axes)
                # Number of terms that one output sums: a kernel sums its channel's weights, the next layer sums channels.
                terms = np.count_nonzero(values, axis=axes, keepdims=True) if axes else len(values)
                self._variables[key, at] = tf.Variable(values)
                self._sizes[key, at] = (size / np.sqrt(np.maximum(1, terms))).astype(np.float32)
                grid = grids.get(key) if "kernel" in variable.name else None
                scale = np.float32(np.inf) if grid is None else _broadcast(grid.scale, grid, values.ndim)
                # With cosine decay, all steps together are as long as half of them at full length.
                self._limits[key, at] = 2 * _TRAVEL * scale / options.steps
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
                self._final(key, at, weights[key, at]) if (key, at) in weights else value
                for at, value in enumerate(layer.weights)
            ]
            graph.layers[key] = Layer(layer.operation, tuple(values))
        return graph

    def _final(self, key: str, at: int, values: np.ndarray) -> np.ndarray:
        is_kernel = "kernel" in self._student.layers[key].operation.weights[at].name
        values = self._grids[key](values) if is_kernel and key in self._grids else values
        return np.where(self._masks[key, at], values, 0).astype(values.dtype) if (key, at) in self._masks else values

    def _feature_sizes(self) -> dict[str, np.ndarray]:
        """Layer -> rms of each channel of its feature in the teacher; the BatchNorm after a layer gets the same."""
        inputs = [tf.constant(array[: min(8, len(array))]) for array in self._images.held_out_teacher]
        features = _collect(self._teacher, inputs, {tensor for _, tensor in self._pairs})
        sizes = {}
        producers = self._student.producers()
        for of_student, of_teacher in self._pairs:
            node = producers[of_student]
            feature, layer = np.asarray(features[of_teacher]), self._student.layer_of(node)
            if is_batchnorm(layer):
                sizes[node.layer] = _channels_rms(feature, layer.operation.axis)
                node = producers[node.inputs[0]]
            sizes[node.layer] = _channels_rms(feature, -1)
        return sizes

    # Compiled ---------------------------------------------------------------------------------------------------------

    def _step(self, student_inputs, teacher_inputs, rate, step, steps):
        variables = list(self._variables.values())
        with tf.GradientTape() as tape:
            loss = self._loss(student_inputs, teacher_inputs)
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        sizes, limits = self._sizes.values(), self._limits.values()
        decay = 0.5 * (1 + tf.cos(np.float32(np.pi) * step / steps)) * tf.minimum(1.0, (step + 1) / (_WARM_UP * steps))
        decay *= tf.sqrt(1 - _BETAS[1] ** (step + 1)) / (1 - _BETAS[0] ** (step + 1))
        lengths = (tf.minimum(rate * size, limit) for size, limit in zip(sizes, limits, strict=True))
        updates = (variables, self._first_moments, self._second_moments, gradients, lengths)
        for variable, m, v, g, length in zip(*updates, strict=True):
            g = tf.where(tf.math.is_finite(g), g, 0.0)
            m.assign(_BETAS[0] * m + (1 - _BETAS[0]) * g)
            v.assign(_BETAS[1] * v + (1 - _BETAS[1]) * tf.square(g))
            variable.assign_sub(decay * length * m / (tf.sqrt(v) + _STABILIZER))
        return loss

    def _loss(self, student_inputs, teacher_inputs) -> tf.Tensor:
        targets = _collect(self._teacher, teacher_inputs, {tensor for _, tensor in self._pairs})
        features = _collect(self._student_with_variables(), student_inputs, {tensor for tensor, _ in self._pairs})
        return tf.add_n([_distance(features[a], targets[b]) for a, b in self._pairs]) / len(self._pairs)

    def _student_with_variables(self) -> Graph:
        graph = self._student_with_tensors.copy()
        for key, layer in graph.layers.items():
            values = list(layer.weights)
            for at, variable in enumerate(layer.operation.weights if layer.weights else ()):
                if (key, at) not in self._variables:
                    continue
                values[at] = tf.convert_to_tensor(self._variables[key, at])
                if (key, at) in self._masks:
                    values[at] *= self._masks[key, at]
                if "kernel" in variable.name and key in self._grids:
                    values[at] = _straight_through(values[at], self._grids[key])
            graph.layers[key] = Layer(layer.operation, tuple(values))
        return graph


def _collect(graph: Graph, inputs: Sequence[Any], tensors: set[str]) -> dict[str, Any]:
    """The values of the named tensors; only nodes that they need are executed."""
    shortened = graph.up_to(sorted(tensors))

    def call(node: Node, live: Mapping[str, Any]) -> tuple:
        operation = shortened.operation_of(node)
        if isinstance(operation, Quantization):
            return (_straight_through(live[node.inputs[0]], operation.quantizer),)
        return shortened.call(node, live)

    live = dict(zip(shortened.inputs, inputs, strict=True))
    for _, live in shortened.walk(inputs, call):
        pass
    return {tensor: live[tensor] for tensor in tensors}


def _straight_through(x: tf.Tensor, grid: Quantizer) -> tf.Tensor:
    """x on the grid; the gradient is that of clipping, without rounding."""
    scale, low, high = (_broadcast(values, grid, len(x.shape)) for values in (grid.scale, grid.low, grid.high))
    x = tf.cast(x, tf.float32)
    clipped = tf.clip_by_value(x, low, high)
    return clipped + tf.stop_gradient(tf.round(clipped / scale) * scale - clipped)


def _broadcast(values: float | np.ndarray, grid: Quantizer, rank: int) -> np.ndarray:
    """`values` of the grid's channels in a shape that broadcasts with an array of that rank."""
    shape = [1] * rank
    if grid.channel_axis is not None:
        shape[grid.channel_axis] = -1
    return np.asarray(values, np.float32).reshape(shape if np.ndim(values) else ())


def _distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    difference = a / (tf.norm(a) + 1e-12) - b / (tf.norm(b) + 1e-12)
    # The gradient of a norm is not defined at 0.
    return tf.sqrt(tf.reduce_sum(tf.square(difference)) + 1e-12)


def _rms(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Root mean square of the values that are not zero, along `axes`, which stay with length 1."""
    count = np.maximum(1, np.count_nonzero(values, axis=axes, keepdims=True))
    return np.sqrt(np.square(values, dtype=np.float64).sum(axis=axes, keepdims=True) / count).astype(np.float32)


def _channels_rms(feature: np.ndarray, axis: int) -> np.ndarray:
    return _rms(feature, tuple(set(range(feature.ndim)) - {axis % feature.ndim})).ravel()


def _within_channel(layer: Layer, values: np.ndarray) -> tuple[int, ...]:
    """Axes of a kernel along which the output channel is the same; () for a vector over channels."""
    layout = find_layout(layer)
    if layout is None or values.ndim == 1:
        return ()
    last = {"depthwise": (-2, -1), "transpose": (-2,)}.get(layout.kind, (-1,))
    return tuple(set(range(values.ndim)) - {axis % values.ndim for axis in last})
