"""The compiled training step of all blocks of one shape.

    minimise over V, a, c, d    |f_q(x') - f(x)|^2 / e  +  strength * mean over weights of penalty(h(V))

f is the float block and f_q the rounded one (`parts.py`); e is the error before training, so that one strength serves all
blocks. Each value of the input x' is by chance the student's or the teacher's. Each value of an activation in the block is by
chance rounded or not. So the roundings do not adapt to the noise of a few inputs.      (Wei et al. 2022, arXiv 2203.05740, QDrop;
                                                                      Li et al. 2021, arXiv 2102.05426, BRECQ; Nagel et al. 2020)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Node
from tfdatafree.model.layer import Layer
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.quantization.soft_rounding import WARM_UP, penalty, power_at, rectified_sigmoid, rounds_up, start_of
from tfdatafree.recovery.reconstruction.parts import Parts
from tfdatafree.recovery.straight_through import round_between

# Chance that a value of the input is the teacher's, and that a value of an activation is not rounded.
_DROPPED = 0.5
_STRENGTH = 2.0
# Length of the first step of each kind of array. Roundings move at this length to the end, the others by less and less.
_RATES = {"up": 0.02, "scales": 1e-3, "biases": 1e-2, "steps": 2e-3}
_BETAS, _STABILIZER = (0.9, 0.999), 1e-12

# Lists of tensors by name, as `parts.Arrays`.
Tensors = dict[str, list[tf.Tensor]]


@dataclasses.dataclass
class State:
    """What a block has learned so far, and the moments of Adam."""

    learned: Tensors
    first: Tensors
    second: Tensors

    @classmethod
    def of(cls, parts: Parts) -> "State":
        learned = _tensors({name: arrays for name, arrays in parts.start.items() if name != "fraction"})
        learned["up"] = [start_of(tf.constant(fraction)) for fraction in parts.start["fraction"]]
        zeros = [tf.nest.map_structure(tf.zeros_like, learned) for _ in range(2)]
        return cls(learned, *zeros)

    def result(self) -> dict[str, list[np.ndarray]]:
        """What was learned; "up" is 1 where a weight rounds up, else 0."""
        arrays = {name: [value.numpy() for value in values] for name, values in self.learned.items()}
        return arrays | {"up": [rounds_up(value).numpy() for value in self.learned["up"]]}


class Step:
    """One step of training, traced once for all blocks of the same `Parts.shape`.

    Args:
        parts: Any block of that shape.

    Attributes:
        traces: How often the step was traced.
    """

    def __init__(self, parts: Parts):
        self._parts, self.traces = parts, 0
        self._graph = differentiable(parts.block.student)
        self._compiled = tf.function(self._step, autograph=False)

    def __call__(
        self,
        state: State,
        fixed: Tensors,
        batch: tuple[Sequence[np.ndarray], Sequence[np.ndarray], Sequence[np.ndarray]],
        at: tuple[int, int, int],
        error: float,
    ) -> float:
        """Moves `state`; the loss before the step.

        Args:
            fixed: `Parts.fixed` of the block.
            batch: Inputs in the student, inputs in the teacher, compared results of the teacher.
            at: Seed, number of the step, number of steps.
            error: The block's error before training.
        """
        arrays = [[tf.constant(array) for array in part] for part in batch]
        seed, step, steps = at
        numbers = (tf.constant([seed, step], tf.int32), tf.constant(step, tf.float32), tf.constant(steps, tf.float32))
        values = (state.learned, state.first, state.second)
        loss, *values = self._compiled(values, fixed, arrays, numbers, tf.constant(error, tf.float32))
        state.learned, state.first, state.second = values
        return float(loss)

    # Compiled ---------------------------------------------------------------------------------------------------------

    def _step(self, values, fixed, arrays, numbers, error):
        self.traces += 1
        (learned, first, second), (own, floats, targets), (seed, step, steps) = values, arrays, numbers
        inputs = [_mixed(a, b, seed, -1 - n) for n, (a, b) in enumerate(zip(own, floats, strict=True))]
        with tf.GradientTape() as tape:
            tape.watch(learned)
            loss = self._error(learned, fixed, inputs, targets, seed) / error
            far, weights = [], []
            for v, mask in zip(learned["up"], fixed["mask"], strict=True):
                h = tf.clip_by_value(rectified_sigmoid(v), 0.0, 1.0)
                far.append(tf.reduce_sum(mask * penalty(h, power_at(step, steps))))
                weights.append(tf.reduce_sum(mask * tf.ones_like(h)))
            strength = tf.where(step >= WARM_UP * steps, _STRENGTH, 0.0)
            total = loss + strength * tf.add_n(far) / tf.maximum(tf.add_n(weights), 1.0)
        gradients = tape.gradient(total, learned, unconnected_gradients="zero")
        decay = 0.5 * (1 + tf.cos(np.float32(np.pi) * step / steps))
        unbias = [1 - tf.pow(beta, step + 1) for beta in _BETAS]
        new: tuple[Tensors, Tensors, Tensors] = ({}, {}, {})
        for name, rate in _RATES.items():
            length = rate if name == "up" else rate * decay
            columns = zip(learned[name], first[name], second[name], gradients[name], strict=True)
            moved = [_adam(*column, length, unbias) for column in columns]
            for part, values in zip(new, zip(*moved, strict=True) if moved else ([], [], []), strict=True):
                part[name] = list(values)
        return loss, *new

    def _error(self, learned: Tensors, fixed: Tensors, inputs, targets, seed) -> tf.Tensor:
        """Mean squared error of the compared results, each relative to its size, which `targets` are divided by."""
        parts, graph = self._parts, self._with_weights(learned, fixed)
        wanted = [tensor for tensor, _ in parts.block.compared]
        graph = dataclasses.replace(graph, outputs=list(dict.fromkeys(wanted)))
        rounding = [node.name for node in graph.nodes if isinstance(graph.operation_of(node), Quantization)]
        numbers = {name: at for at, name in enumerate(rounding)}

        def call(node: Node, live: Mapping[str, Any]) -> tuple:
            if node.name not in numbers:
                return graph.call(node, live)
            at, x = numbers[node.name], tf.cast(live[node.inputs[0]], tf.float32)
            size = fixed["step"][at]
            if node.name in parts.group_at:
                size *= tf.exp(learned["steps"][parts.group_at[node.name]])
            y = round_between(x, size, fixed["lowest"][at], fixed["highest"][at], list(range(len(x.shape))))
            return (_mixed(y, x, seed, at),)

        live = dict(zip(graph.inputs, inputs, strict=True))
        for _, live in graph.walk(inputs, call):
            pass
        return tf.add_n([mean_error(live[tensor], target) for tensor, target in zip(wanted, targets, strict=True)])

    def _with_weights(self, learned: Tensors, fixed: Tensors):
        parts, graph = self._parts, self._graph.copy()
        weights = {key: list(layer.weights) for key, layer in graph.layers.items()}
        for (key, at), values in zip(parts.others, fixed["weights"], strict=True):
            weights[key][at] = values
        for n, (key, at) in enumerate(parts.kernels):
            up = tf.clip_by_value(rectified_sigmoid(learned["up"][n]), 0.0, 1.0)
            integers = tf.clip_by_value(fixed["base"][n] + up, fixed["low"][n], fixed["high"][n])
            scale = fixed["scale"][n] * tf.exp(learned["scales"][n])
            weights[key][at] = scale * integers * fixed["mask"][n]
        for n, (key, at) in enumerate(parts.biases):
            weights[key][at] = fixed["bias"][n] + fixed["size"][n] * learned["biases"][n]
        graph.layers = {key: Layer(layer.operation, tuple(weights[key])) for key, layer in graph.layers.items()}
        return graph


def mean_error(values: Any, target: Any) -> Any:
    """Mean squared difference as a part of the mean square of `target`; 0 for two tensors of zeros."""
    size = tf.maximum(tf.reduce_mean(tf.square(target)), 1e-12)
    return tf.reduce_mean(tf.square(values - target)) / size


def _mixed(a: tf.Tensor, b: tf.Tensor, seed: tf.Tensor, stream: int) -> tf.Tensor:
    """Each value of `a`, or by chance that of `b`; the same for the same seed (2,) and stream."""
    if not (a.dtype.is_floating and b.dtype.is_floating):
        return a
    random = tf.random.stateless_uniform(tf.shape(a), seed + tf.constant([stream, 0]))
    return tf.where(random < _DROPPED, b, a)


def _tensors(arrays: Mapping[str, list[np.ndarray]]) -> Tensors:
    return {name: [tf.constant(array) for array in values] for name, values in arrays.items()}


def fixed_tensors(parts: Parts) -> Tensors:
    """`parts.fixed` as tensors."""
    return _tensors(parts.fixed)


def _adam(value, first, second, gradient, length, unbias):
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    first = _BETAS[0] * first + (1 - _BETAS[0]) * gradient
    second = _BETAS[1] * second + (1 - _BETAS[1]) * tf.square(gradient)
    return value - length * (first / unbias[0]) / (tf.sqrt(second / unbias[1]) + _STABILIZER), first, second
