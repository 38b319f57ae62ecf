"""Trains a changed network until its layers compute again what the layers of the network that it came from do.

    min over W'  mean over layers i of  || f_i / |f_i| - f'_i / |f'_i| ||          norms over a batch of images

f_i is the output of layer i of the teacher, f'_i that of the student: of each convolution or dense layer, behind its
BatchNorm where one follows. The norm itself and not its square: a layer that is nearly right keeps its pull. Adam with
warm-up and cosine decay moves kernels, biases and BatchNorms' gamma and beta by parts of their own size, channel by channel,

    kernel: rate * rms(w) / sqrt(n)         w: the output channel's n weights that are not zero
    gamma: rate * |gamma| / sqrt(c),        bias, beta: rate * rms(f) / sqrt(c)         f: one of the c channels of f_i
    rate = learning rate * the minimised mean at the start

so that channels of any scale learn alike: folding leaves some of a layer's a thousand times as large as others. Adam's first
steps have one size for all weights; where n of them agree, their sum moves sqrt(n) times as far as it would at random. So
that no step moves a feature much farther than a part of the way that it has to go, and a student that is nearly right is
not thrown off first.

BatchNorms compute with their stored statistics. Weights that a mask leaves out stay exact zeros; a kernel with a grid
is rounded to it in each step, its weights travel at most a few steps of it in all, and gradients pass the rounding as
if it were not there. Images are mirrored and moved a little. A part of them is held out, and judges: the step with the least
discrepancy there is taken, and where none is better than the start, the steps become smaller.

Source: Sobolev et al., FRanDI, eq. 2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import layout_of
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.numerics.affine import Quantizer

_TRAINED = ("kernel", "depthwise_kernel", "bias", "gamma", "beta")
# Part of the steps in which they grow to their full length.
_WARM_UP = 0.1
# Steps of its grid that a weight travels at most: rounding it was wrong by less than one.
_TRAVEL = 0.6
# Distance of features that are opposite.
_FARTHEST = 2.0
_BETAS, _STABILIZER = (0.9, 0.999), 1e-8
# Times that the held-out images are looked at.
_LOOKS = 20
# Where none of the looks in this part of the steps shows anything better, all goes back, and on in steps so many times smaller.
_PATIENCE, _SLOWER = 0.25, 4.0
# Part of its size that an image is moved by at most.
_FARTHEST_MOVE = 0.125


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How a network is trained; `tfdatafree.feature_regression` explains each."""

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
            raise ValueError(f"learning_rate is {self.learning_rate!r}; give a part of the way to go, e.g. 0.2.")


@dataclass(frozen=True)
class Images:
    """Inputs of a student and its teacher: what they train on, and what judges. One array (n, ...) per graph input."""

    student: list[np.ndarray]
    teacher: list[np.ndarray]
    held_student: list[np.ndarray]
    held_teacher: list[np.ndarray]


def feature_tensors(graph: Graph) -> dict[str, str]:
    """Node of each convolution or dense layer -> the tensor that it writes, or the BatchNorm right behind it."""
    consumers, found = graph.consumers(), {}
    for node in graph.nodes:
        if layout_of(graph.layer_of(node)) is None:
            continue
        readers = consumers[node.output]
        behind = len(readers) == 1 and is_batchnorm(graph.layer_of(readers[0])) and node.output not in graph.outputs
        found[node.name] = readers[0].output if behind else node.output
    return found


def feature_pairs(student: Graph, teacher: Graph) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """({layer node: (its feature in the student, in the teacher)}, {layer node: why it has no counterpart}).

    A BatchNorm behind no convolution is, folded, a layer with a kernel; its counterpart is the BatchNorm.
    """
    pairs, kept = {}, {}
    alone = {node.name: node.output for node in teacher.nodes if is_batchnorm(teacher.layer_of(node))}
    wanted = alone | feature_tensors(teacher)
    for name, tensor in feature_tensors(student).items():
        if name not in wanted:
            kept[name] = "the teacher has no layer of this name"
        elif student.specs[tensor].shape[1:] != teacher.specs[wanted[name]].shape[1:]:
            kept[name] = "the teacher's layer of this name has another shape"
        else:
            pairs[name] = (tensor, wanted[name])
    return pairs, kept


def zeros_of(graph: Graph) -> dict[str, np.ndarray]:
    """Layer -> where its kernel is not zero, bool in the kernel's shape."""
    return {key: _kernel(layer) != 0 for key, layer in graph.layers.items() if layout_of(layer)}


def regress(
    student: Graph,
    teacher: Graph,
    images: Images,
    options: Regression,
    *,
    masks: Mapping[str, np.ndarray],
    grids: Mapping[str, Quantizer],
    trained: Callable[[str], bool] = lambda key: True,
    on_step: Callable[[float], None] = lambda loss: None,
) -> tuple[Graph, int]:
    """(the student with its weights trained, the step that they are from: 0 where none was better than the start).

    Args:
        student, teacher: Separated graphs whose layers have the same names; any BatchNorm may be folded in either.
        masks: Layer -> bool in its kernel's shape, False for weights that stay zero.
        grids: Layer -> grid of its kernel.
        trained: Whether the layer of this key may change.
        on_step: Called with the loss before each step.
    """
    pairs, _ = feature_pairs(student, teacher)
    if not pairs or not options.steps:
        return student, 0
    trainer = _Trainer(student, teacher, list(pairs.values()), images, options, masks, grids, trained)
    random = np.random.default_rng(options.seed)
    count = len(images.student[0])
    batch, order = min(options.batch_size, count), np.empty(0, np.intp)
    least, best, taken = trainer.judge(), trainer.weights(), 0
    rate, begun, length = options.learning_rate * min(least, _FARTHEST), 0, options.steps
    interval = max(1, options.steps // _LOOKS)
    for step in range(options.steps):
        while len(order) < batch:
            order = np.concatenate([order, random.permutation(count)])
        rows, order = order[:batch], order[batch:]
        view = _View(batch, random) if options.flip else None
        loss = trainer.step(
            [_seen(array[rows], view) for array in images.student],
            [_seen(array[rows], view) for array in images.teacher],
            rate,
            step - begun,
            length,
        )
        on_step(loss)
        if (step + 1) % interval == 0 or step + 1 == options.steps:
            judged = trainer.judge()
            if judged < least:
                least, best, taken = judged, trainer.weights(), step + 1
            elif taken <= begun and step + 1 - begun >= _PATIENCE * length:
                rate, begun, length = rate / _SLOWER, step + 1, options.steps - step - 1
                trainer.restart(best)
    return trainer.graph(best), taken


class _View:
    """How the images of a batch are looked at: some mirrored, all moved. What the teacher makes of those is known, too."""

    def __init__(self, n: int, random: np.random.Generator):
        self.mirrored = random.random(n) < 0.5
        self.moves = random.uniform(-_FARTHEST_MOVE, _FARTHEST_MOVE, (2, n))

    def of(self, array: np.ndarray) -> np.ndarray:
        """Pictures (n, height, width, channels), reflected at their borders; anything else as it is."""
        if array.ndim != 4:
            return array
        down, right = (
            _reflected(np.rint(move * size).astype(int)[:, None] + np.arange(size), size)
            for move, size in zip(self.moves, array.shape[1:3], strict=True)
        )
        right = np.where(self.mirrored[:, None], right[:, ::-1], right)
        return array[np.arange(len(array))[:, None, None], down[:, :, None], right[:, None, :]]


def _reflected(index: np.ndarray, size: int) -> np.ndarray:
    last = size - 1
    return last - np.abs(last - np.abs(index))


def _seen(array: np.ndarray, view: _View | None) -> tf.Tensor:
    return tf.constant(array if view is None else view.of(array))


class _Trainer:
    """The variables, and one compiled step."""

    def __init__(self, student: Graph, teacher: Graph, pairs, images: Images, options, masks, grids, trained):
        self._student, self._options, self._pairs, self._images = student, options, pairs, images
        self._teacher = _shared(teacher)
        self._fixed = _shared(student)
        self._grids = grids
        self._variables: dict[tuple[str, int], tf.Variable] = {}
        self._masks: dict[tuple[str, int], tf.Tensor] = {}
        self._sizes: dict[tuple[str, int], np.ndarray] = {}
        self._limits: dict[tuple[str, int], np.ndarray] = {}
        sizes = self._feature_sizes()
        for key, layer in student.layers.items():
            if not trained(key):
                continue
            for at, variable in enumerate(layer.operation.weights if layer.weights else ()):
                if variable.name not in _TRAINED or (layout_of(layer) is None and not is_batchnorm(layer)):
                    continue
                values = layer.weights[at]
                if "kernel" in variable.name and key in masks:
                    self._masks[key, at] = tf.constant(masks[key].astype(np.float32))
                    values = np.where(masks[key], values, 0).astype(np.float32)
                axes = _within_channel(layer, values)
                size = sizes.get(key, np.float32(0)) if variable.name in ("bias", "beta") else _rms(values, axes)
                # What one output sums up: the weights of a kernel's channel; the next layer sums over channels.
                terms = np.count_nonzero(values, axis=axes, keepdims=True) if axes else len(values)
                self._variables[key, at] = tf.Variable(values)
                self._sizes[key, at] = (size / np.sqrt(np.maximum(1, terms))).astype(np.float32)
                grid = grids.get(key) if "kernel" in variable.name else None
                farthest = np.float32(np.inf) if grid is None else _along(grid.scale, grid, values.ndim)
                # With its decay, training is as long as half of its steps at full length.
                self._limits[key, at] = 2 * _TRAVEL * farthest / options.steps
        self._first = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables.values()]
        self._second = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables.values()]
        self._compiled = tf.function(self._step, autograph=False)
        self._judge = tf.function(self._loss, autograph=False)

    def step(self, student_inputs, teacher_inputs, rate: float, step: int, steps: int) -> float:
        """The loss before step number `step` of `steps`."""
        numbers = (tf.constant(number, tf.float32) for number in (rate, step, steps))
        return float(self._compiled(student_inputs, teacher_inputs, *numbers))

    def restart(self, weights: Mapping[tuple[str, int], np.ndarray]) -> None:
        """Back to these weights; what Adam remembers is forgotten."""
        for place, variable in self._variables.items():
            variable.assign(weights[place])
        for variable in (*self._first, *self._second):
            variable.assign(tf.zeros_like(variable))

    def judge(self) -> float:
        """The loss on the held-out images."""
        held, size = self._images, self._options.batch_size
        n, total = len(held.held_student[0]), 0.0
        for at in range(0, n, size):
            parts = (
                [tf.constant(array[at : at + size]) for array in arrays]
                for arrays in (held.held_student, held.held_teacher)
            )
            total += float(self._judge(*parts)) * min(size, n - at) / n
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
        """Layer -> rms of each channel of the teacher's feature there; the BatchNorm behind it as the layer itself."""
        few = [array[: min(8, len(array))] for array in self._images.held_teacher]
        names = {tensor for _, tensor in self._pairs}
        found = _collect(self._teacher, [tf.constant(array) for array in few], names)
        sizes = {}
        producers = self._student.producers()
        for of_student, of_teacher in self._pairs:
            node = producers[of_student]
            feature, layer = np.asarray(found[of_teacher]), self._student.layer_of(node)
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
        for variable, m, v, g, length in zip(variables, self._first, self._second, gradients, lengths, strict=True):
            g = tf.where(tf.math.is_finite(g), g, 0.0)
            m.assign(_BETAS[0] * m + (1 - _BETAS[0]) * g)
            v.assign(_BETAS[1] * v + (1 - _BETAS[1]) * tf.square(g))
            variable.assign_sub(decay * length * m / (tf.sqrt(v) + _STABILIZER))
        return loss

    def _loss(self, student_inputs, teacher_inputs) -> tf.Tensor:
        wanted = _collect(self._teacher, teacher_inputs, {tensor for _, tensor in self._pairs})
        found = _collect(self._live(), student_inputs, {tensor for tensor, _ in self._pairs})
        return tf.add_n([_distance(found[a], wanted[b]) for a, b in self._pairs]) / len(self._pairs)

    def _live(self) -> Graph:
        """The student computing with the variables."""
        graph = self._fixed.copy()
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


def _shared(graph: Graph) -> Graph:
    """`graph` with its weights as tensors, which a compiled function refers to in place of copying them."""
    graph = graph.copy()
    graph.layers = {
        key: Layer(layer.operation, tuple(map(tf.constant, layer.weights))) for key, layer in graph.layers.items()
    }
    return graph


def _collect(graph: Graph, inputs: Sequence[Any], tensors: set[str]) -> dict[str, Any]:
    """The named tensors; nodes behind the last of them are not executed."""
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
    """x on the grid; the gradient is that of clipping alone."""
    scale, low, high = (_along(values, grid, len(x.shape)) for values in (grid.scale, grid.low, grid.high))
    x = tf.cast(x, tf.float32)
    clipped = tf.clip_by_value(x, low, high)
    return clipped + tf.stop_gradient(tf.round(clipped / scale) * scale - clipped)


def _along(values: float | np.ndarray, grid: Quantizer, rank: int) -> np.ndarray:
    """`values` of the grid's channels, such that they broadcast with an array of that rank."""
    shape = [1] * rank
    if grid.channel_axis is not None:
        shape[grid.channel_axis] = -1
    return np.asarray(values, np.float32).reshape(shape if np.ndim(values) else ())


def _distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    difference = a / (tf.norm(a) + 1e-12) - b / (tf.norm(b) + 1e-12)
    # The gradient of a norm at 0 is none.
    return tf.sqrt(tf.reduce_sum(tf.square(difference)) + 1e-12)


def _rms(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Root mean square along `axes`, which stay with length 1, of what is not zero."""
    count = np.maximum(1, np.count_nonzero(values, axis=axes, keepdims=True))
    return np.sqrt(np.square(values, dtype=np.float64).sum(axis=axes, keepdims=True) / count).astype(np.float32)


def _channels_rms(feature: np.ndarray, axis: int) -> np.ndarray:
    return _rms(feature, tuple(set(range(feature.ndim)) - {axis % feature.ndim})).ravel()


def _within_channel(layer: Layer, values: np.ndarray) -> tuple[int, ...]:
    """Axes of a kernel along which the output channel is the same; none of a vector over channels."""
    layout = layout_of(layer)
    if layout is None or values.ndim == 1:
        return ()
    last = {"depthwise": (-2, -1), "transpose": (-2,)}.get(layout.kind, (-1,))
    return tuple(set(range(values.ndim)) - {axis % values.ndim for axis in last})


def _kernel(layer: Layer) -> np.ndarray:
    return next(
        value
        for variable, value in zip(layer.operation.weights, layer.weights, strict=True)
        if "kernel" in variable.name
    )
