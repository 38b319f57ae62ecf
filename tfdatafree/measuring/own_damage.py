"""Measures what each tensor's own rounding costs the results, for all tensors by a few backward passes.

    e_t   = Q_t(f_t(x)) - g_t(x),     f_t the written layers that compute t, g_t the float ones, both on the float tensors x
    damage_t^2 = E ||J_t e_t||^2 / ||y||^2 = E (r . J_t e_t)^2 / ||y||^2,     r random signs

y are the results before softmax, without the mean of their last axis, and J_t their derivative with regard to t. So an error
counts as much as it moves the results: one that a later ReLU cuts off, or that all classes have in common, costs nothing. The
squares of all tensors add up to about the square of the noise at the output, because errors of different layers are hardly
correlated. The derivative holds for small errors; a damage above a third is only known to be large.
                                                                             (Hutchinson 1989 for the random signs)
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfdatafree.measuring.variants import up_to_decisions
from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer

_INPUTS, _PROJECTIONS = 2, 4
# A backward pass keeps all activations of one input. It is left out where they take more bytes.
_MOST_BYTES = 2**29


def own_damages(
    reference: Graph,
    written: Graph,
    grids: Mapping[str, Quantizer],
    inputs: Sequence[np.ndarray],
    *,
    moved: frozenset[str] = frozenset(),
    seed: int = 0,
) -> dict[str, float]:
    """Tensor -> its damage, of the tensors with a grid that the results depend on; {} where there are no gradients.

    The random signs make it uncertain by about a third.

    Args:
        reference: The float graph.
        written: The graph with the same tensors, and with the kernels and biases that the file holds.
        grids: Tensor -> its grid.
        inputs: Arrays (n, ...), one per graph input; the first two are used.
        moved: Tensors whose operator only moves integers, and so rounds nothing.
    """
    if sum(4 * math.prod(size or 1 for size in spec.shape[1:]) for spec in reference.specs.values()) > _MOST_BYTES:
        return {}
    whole, reference = reference, differentiable(up_to_decisions(reference))
    written = written.up_to(reference.outputs).with_tensors()
    random = np.random.default_rng(seed)
    squares: dict[str, float] = {}
    count = min(_INPUTS, len(inputs[0]))
    for at in range(count):
        arrays = [tf.convert_to_tensor(array[at : at + 1]) for array in inputs]
        with tf.GradientTape(persistent=True) as tape:
            tensors = _tensors(reference, arrays, grids, tape)
            projections = [
                _projection([tensors[name] for name in reference.outputs], random) for _ in range(_PROJECTIONS)
            ]
        errors = _own_errors(written, arrays, tensors, {key: grids[key] for key in grids if key not in moved})
        for name in set(reference.outputs).difference(whole.outputs) & errors.keys():
            # What reads it saturates, and its range leaves out what would make no difference there.
            values = np.asarray(tensors[name])
            errors[name] = np.where((values < grids[name].low) | (values > grids[name].high), 0.0, errors[name])
        sources = [name for name in tensors if name in grids]
        for projection in projections:
            try:
                gradients = tape.gradient(projection, [tensors[name] for name in sources])
            except LookupError:  # TensorFlow has no gradient of an operation
                return {}
            for name, gradient in zip(sources, gradients, strict=True):
                if gradient is not None:
                    slope = np.asarray(tf.convert_to_tensor(gradient), np.float64)
                    moves = float(np.sum(slope * errors.get(name, 0.0)))
                    squares[name] = squares.get(name, 0.0) + moves**2 / (count * _PROJECTIONS)
        del tape
    return {name: math.sqrt(square) for name, square in squares.items() if math.isfinite(square)}


def _tensors(
    graph: Graph, inputs: Sequence[tf.Tensor], wanted: Mapping[str, Quantizer], tape: tf.GradientTape
) -> dict[str, tf.Tensor]:
    """The float tensors in `wanted`, and the graph's outputs, under the tape."""
    tensors = dict(zip(graph.inputs, inputs, strict=True))
    for tensor in inputs:
        if tensor.dtype.is_floating:
            tape.watch(tensor)
    for node, live in graph.walk(inputs):
        kept = [name for name in node.outputs if name in wanted or name in graph.outputs]
        tensors |= {name: live[name] for name in kept}
    return tensors


def _projection(results: Sequence[tf.Tensor], random: np.random.Generator) -> tf.Tensor:
    """The sum of the results times random signs, each result divided by its length."""
    total = tf.zeros(())
    for values in results:
        centred = values - tf.reduce_mean(values, -1, keepdims=True) if values.shape[-1] > 1 else values
        signs = random.choice(np.array([-1, 1], np.float32), size=values.shape)
        length = tf.stop_gradient(tf.maximum(tf.norm(centred), 1e-20))
        total += tf.reduce_sum(centred * signs) / length
    return total


def _own_errors(
    written: Graph, inputs: Sequence[tf.Tensor], exact: Mapping[str, tf.Tensor], grids: Mapping[str, Quantizer]
) -> dict[str, np.ndarray]:
    """Tensor -> the error that arises where it is computed. What it is computed from has no error."""
    errors = {
        name: grids[name](np.asarray(array)) - np.asarray(array, np.float64)
        for name, array in zip(written.inputs, inputs, strict=True)
        if name in grids
    }
    for node, live in written.walk(inputs):
        for name in node.outputs:
            if name not in exact:
                continue
            if name in grids:
                errors[name] = grids[name](np.asarray(live[name])) - np.asarray(exact[name], np.float64)
            live[name] = exact[name]
    return errors
