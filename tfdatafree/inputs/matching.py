"""Images whose statistics at every BatchNorm are those of the training data, found by gradient descent on the pixels.

    L(x) = sum over BatchNorms of  mean over channels of  KL( N(m, v) || N(m*, v*) )
    KL   = ( (v + e) / (v* + e) - 1 - log((v + e) / (v* + e)) + (m - m*)^2 / (v* + e) ) / 2

m and v are the mean and variance of what a BatchNorm reads for the batch x. It stores m* and v*, and e is its epsilon. A channel
that never moved in training has v* = 0. The mean over channels, in place of the sum over them, gives wide layers no more weight
than narrow ones. Options add these terms to L:

    total variation    w mean|x_i - x_j| / (high - low)   over neighbours i, j          (Yin et al. 2020, Deep Inversion)
    l2                 w mean((x - middle)^2) / (high - low)^2                          (the same)
    targets            w cross-entropy to class labels, or w |y - t|^2 / |t|^2 to outputs t

Adam with cosine decay minimises L. Values are clipped to the input range after each step. BatchNorms compute with their stored
statistics, so that each layer sees what it would see at inference.

Sources: Sobolev et al., FRanDI, eq. 1; Yin et al. 2020, arXiv 1912.08795; Jeon et al. 2023, arXiv 2206.04400 (swing
convolution).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.inputs.stored_statistics import StoredStatistics
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout
from tfdatafree.recipe.check import require_whole

# Bytes that the activations of one batch may take; gradients and workspace take about as much again.
_BATCH_BYTES = 2**30
# Below this many images the variance of a batch says little.
_FEWEST = 4
_BETAS, _STABILIZER = (0.9, 0.999), 1e-8


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How images are optimised; `tfdatafree.generate_images` explains each."""

    steps: int
    learning_rate: float
    total_variation: float = 0.0
    l2: float = 0.0
    target_weight: float = 0.0
    swing: bool = False
    whole_set: bool = False
    by_image: bool = False

    def __post_init__(self):
        require_whole("steps", self.steps, 1)
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; give a part of the input range, e.g. 0.03.")
        for name in ("total_variation", "l2", "target_weight"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a weight of at least 0.")


@dataclass
class State:
    """Unfinished images, and all that is needed to continue to the same bytes.

    Attributes:
        images: One array (batches, batch size, *shape) per input.
        first, second: Adam's moments, as `images`.
        moments: (batches, 2, channels of all BatchNorms): those of each batch at its last step, relative to the stored means.
        loss: (steps, batches); NaN for steps still to come.
        done: Number of steps taken, of all batches together.
    """

    images: list[np.ndarray]
    first: list[np.ndarray]
    second: list[np.ndarray]
    moments: np.ndarray
    loss: np.ndarray
    done: int


class Matcher:
    """Optimises images for one graph, in batches of one size: every step of every batch runs the same compiled function.

    Args:
        graph: A separated graph with its BatchNorms.
        shapes: Shape of each input without the batch; it may differ from the graph's own.
        ranges: (low, high) of each input.
        targets: None; class labels, int (n,); or outputs, float (n, ...).
        seed: Seed of the swings.

    Raises:
        UnsupportedModelError: There is no BatchNorm; or a layer cannot work at `shapes` (when the first batch is made).
    """

    def __init__(
        self,
        graph: Graph,
        options: Matching,
        *,
        shapes: Sequence[tuple[int, ...]],
        ranges: Sequence[tuple[float, float]],
        targets: np.ndarray | None = None,
        seed: int = 0,
    ):
        self.options = options
        self.shapes, self.ranges, self.targets, self.seed = list(shapes), list(ranges), targets, seed
        self._native = list(shapes) == [graph.specs[tensor].shape[1:] for tensor in graph.inputs]
        self._stored = StoredStatistics(graph)
        self._classes = targets is not None and targets.ndim == 1 and targets.dtype.kind in "iu"
        self._graph = differentiable(_shortened(graph, self._stored, targets is not None, self._classes))
        self._compiled = tf.function(self._step, autograph=False)
        self._observe = tf.function(self._observed, autograph=False)
        self._others = np.zeros((2, self._stored.channels), np.float32)

    def batch_size(self, n: int) -> int:
        """The size of equal batches, as few as memory allows, that hold at least n images."""
        ratio = max(
            np.prod(shape) / np.prod(self._graph.specs[tensor].example_shape)
            for shape, tensor in zip(self.shapes, self._graph.inputs, strict=True)
        )
        elements = sum(np.prod([size or 1 for size in spec.shape[1:]]) for spec in self._graph.specs.values())
        most = max(_FEWEST, int(_BATCH_BYTES / (4 * elements * ratio)))
        return -(-n // -(-n // most))

    def start(self, images: Sequence[np.ndarray], batch: int) -> State:
        """The state before the first step; images are repeated to fill the last batch."""
        count = -(-len(images[0]) // batch)
        filled = [np.resize(array, (count * batch, *array.shape[1:])) for array in images]
        batches = [array.reshape(count, batch, *array.shape[1:]).astype(np.float32) for array in filled]
        return State(
            batches,
            [np.zeros_like(array) for array in batches],
            [np.zeros_like(array) for array in batches],
            np.zeros((count, 2, self._stored.channels), np.float32),
            np.full((self.options.steps, count), np.nan, np.float32),
            0,
        )

    def advance(self, state: State) -> Iterator[tuple[float, bool]]:
        """Takes the steps that `state` lacks, in place.

        Yields (loss, whether this is a good moment to save the state) after each. Batches are finished one after the
        other. With `whole_set` all advance together, and each step completes the last moments of the other batches.
        """
        steps, count = state.loss.shape
        together = self.options.whole_set and count > 1
        if together and state.done == 0:
            for at in range(count):
                state.moments[at] = self._observe([tf.constant(array[at]) for array in state.images])
        live: tuple[list[tf.Tensor], ...] = ([], [], [])
        while state.done < steps * count:
            step, at = divmod(state.done, count) if together else divmod(state.done, steps)[::-1]
            if together or not live[0] or step == 0:
                live = tuple([tf.constant(array[at]) for array in part] for part in self._parts(state))
            others = state.moments.sum(axis=0) - state.moments[at] if together else self._others
            loss, moments, live = self._compiled(
                live,
                tf.constant(others),
                self._target(at, state),
                np.int32(step),
                np.int32(at),
                count if together else 1,
            )
            state.loss[step, at], state.moments[at] = loss, moments
            state.done += 1
            finished = step == steps - 1
            if together or finished:
                for part, values in zip(self._parts(state), live, strict=True):
                    for array, value in zip(part, values, strict=True):
                        array[at] = value
            yield float(loss), (at == count - 1 and (step + 1) % max(1, steps // 10) == 0) if together else finished

    def divergence(self, images: Sequence[np.ndarray], batch: int) -> dict[str, float]:
        """BatchNorm -> mean over channels of KL(N(images) || N(stored)), over all the images together."""
        moments, n = np.zeros((2, self._stored.channels), np.float64), len(images[0])
        for at in range(0, n, batch):
            part = [tf.constant(array[at : at + batch], tf.float32) for array in images]
            moments += np.asarray(self._observe(part), np.float64) * (len(part[0]) / n)
        return self._stored.split(np.asarray(self._stored.divergence(tf.constant(moments, tf.float32))))

    @staticmethod
    def _parts(state: State) -> tuple[list[np.ndarray], ...]:
        return state.images, state.first, state.second

    def _target(self, at: int, state: State) -> tf.Tensor:
        if self.targets is None:
            return tf.constant(0.0)
        batch = state.images[0].shape[1]
        rows = np.arange(at * batch, (at + 1) * batch) % len(self.targets)
        return tf.constant(self.targets[rows], tf.int32 if self._classes else tf.float32)

    # Compiled ---------------------------------------------------------------------------------------------------------

    def _step(self, live, others, target, step, at, count):
        """One step of Adam on one batch; returns (loss, moments, live)."""
        images, first, second = live
        with tf.GradientTape() as tape:
            tape.watch(images)
            moments, outputs = self._run(images, (step, at), by_image=self.options.by_image)
            loss = self._stored.loss(moments if count == 1 else (moments + others) / count)
            if self.options.by_image:
                moments = tf.reduce_mean(moments, axis=1)
            loss += self._priors(images)
            if self.options.target_weight and self.targets is not None:
                loss += self.options.target_weight * self._distance(outputs, target)
        gradients = tape.gradient(loss, images, unconnected_gradients="zero")
        time = tf.cast(step, tf.float32)
        rate = self.options.learning_rate * 0.5 * (1 + tf.cos(np.float32(np.pi) * time / self.options.steps))
        rate *= tf.sqrt(1 - _BETAS[1] ** (time + 1)) / (1 - _BETAS[0] ** (time + 1))
        updated: tuple[list, list, list] = ([], [], [])
        for x, m, v, g, (low, high) in zip(images, first, second, gradients, self.ranges, strict=True):
            g = tf.where(tf.math.is_finite(g), g, 0.0)
            m = _BETAS[0] * m + (1 - _BETAS[0]) * g
            v = _BETAS[1] * v + (1 - _BETAS[1]) * tf.square(g)
            x = tf.clip_by_value(x - rate * (high - low) * m / (tf.sqrt(v) + _STABILIZER), low, high)
            for part, value in zip(updated, (x, m, v), strict=True):
                part.append(value)
        return loss, moments, updated

    def _observed(self, images):
        return self._run(images, None)[0]

    def _run(self, images, swing_seed, *, by_image: bool = False) -> tuple[tf.Tensor, list]:
        """(moments at all BatchNorms (2, channels), or of each image (2, n, channels); outputs)."""
        moments_of: dict[str, list] = {key: [] for key in self._stored.keys}

        def call(node: Node, live: Mapping[str, Any]) -> tuple:
            if node.layer in moments_of:
                x = live[node.inputs[0]]
                moments_of[node.layer].append(self._stored.observe(node.layer, x, by_image=by_image))
                return (self._stored.normalize(node.layer, x),)
            if self.options.swing and swing_seed is not None:
                live = _swung(self._graph, node, live, (swing_seed[0], swing_seed[1] + self.seed))
            return self._call(node, live)

        live = dict(zip(self._graph.inputs, images, strict=True))
        for _, live in self._graph.walk(images, call):
            pass
        # A layer called several times stored the statistics of all its calls.
        moments = tf.concat([tf.add_n(moments_of[key]) / len(moments_of[key]) for key in moments_of], axis=-1)
        return moments, [live[tensor] for tensor in self._graph.outputs]

    def _call(self, node: Node, live: Mapping[str, Any]) -> tuple:
        if self._native:
            return self._graph.call(node, live)
        try:
            outputs = self._graph.call(node, live)
            if any(0 in output.shape for output in outputs):
                raise ValueError("nothing is left of the image there")
            return outputs
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            built = ", ".join(str(self._graph.specs[tensor].shape[1:]) for tensor in self._graph.inputs)
            wanted = ", ".join(map(str, self.shapes))
            layer = self._graph.layer_of(node).class_name
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedModelError(
                f"'{node.name}' ({layer}) cannot work on inputs of shape {wanted}, only on {built}: {reason} "
                "Leave image_size out."
            ) from error

    def _priors(self, images) -> tf.Tensor:
        total = tf.constant(0.0)
        for x, (low, high) in zip(images, self.ranges, strict=True):
            span = high - low
            if self.options.l2:
                total += self.options.l2 * tf.reduce_mean(tf.square((x - (low + high) / 2) / span))
            if self.options.total_variation:
                for axis in range(1, len(x.shape) - 1):
                    if (size := x.shape[axis]) > 1:
                        after, before = (tf.gather(x, range(i, size - 1 + i), axis=axis) for i in (1, 0))
                        total += self.options.total_variation * tf.reduce_mean(tf.abs(after - before)) / span
        return total

    def _distance(self, outputs, target) -> tf.Tensor:
        if self._classes:
            logits, labels = outputs[0], np.asarray(self.targets)
            if any(size != 1 for size in logits.shape[1:-1]):
                raise ValueError(
                    f"targets are one class label for each image, but the model decides for {logits.shape[1:-1]} places "
                    "of it; give outputs, float (n, ...)."
                )
            if not 0 <= labels.min() <= labels.max() < logits.shape[-1]:
                raise ValueError(
                    f"targets are from {labels.min()} to {labels.max()}, but the model has "
                    f"{logits.shape[-1]} classes; give labels from 0 to {logits.shape[-1] - 1}."
                )
            logits = tf.reshape(logits, (-1, logits.shape[-1]))  # a classifier may be a convolution of 1x1 features
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=logits))
        return tf.reduce_sum(tf.square(outputs[0] - target)) / (tf.reduce_sum(tf.square(target)) + 1e-12)


def _shortened(graph: Graph, stored: StoredStatistics, to_the_end: bool, classes: bool) -> Graph:
    """The graph up to its last BatchNorm, or to its outputs; weights as tensors, which a compiled function shares."""
    graph = graph.copy()
    outputs = []
    if to_the_end:
        outputs = (decision_tensors(graph) if classes else list(graph.outputs)) or list(graph.outputs)
        if len(graph.outputs) != 1:
            raise ValueError(f"targets are for models with one output; '{graph.name}' has {len(graph.outputs)}.")
    graph.outputs = outputs + [node.output for node in stored.nodes]
    graph.drop_unread()
    graph.outputs = outputs
    # The statistics of BatchNorms are read as arrays.
    graph.layers = graph.with_tensors().layers | {key: graph.layers[key] for key in stored.keys}
    return graph


def _swung(graph: Graph, node: Node, live: Mapping[str, Any], seed) -> Mapping[str, Any]:
    """`live` with the input of a strided convolution moved by a random part of its stride, mirrored at the border.

    A strided convolution reads some pixels less often than others. Pixels that it hardly reads learn nothing.
    """
    layer = graph.layer_of(node)
    layout = find_layout(layer)
    strides = getattr(layer.operation, "strides", ())
    if layout is None or layout.kind not in ("conv", "depthwise") or max(strides, default=1) == 1:
        return live
    x = live[node.inputs[0]]
    most = [0, *(stride - 1 for stride in strides), 0]
    padded = tf.pad(x, [(m, m) for m in most], "SYMMETRIC")
    at = tf.cast(graph.nodes.index(node) * 1_000_003, tf.int32) + seed[1]
    drawn = tf.random.stateless_uniform([len(most)], seed=tf.stack([at, tf.cast(seed[0], tf.int32)]))
    offsets = tf.cast(tf.floor(drawn * (2 * np.array(most, np.float32) + 1)), tf.int32)
    moved = tf.ensure_shape(tf.slice(padded, offsets, tf.shape(x)), x.shape)
    return {**live, node.inputs[0]: moved}
