import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import build, every_kind, exported, folded, randomized

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import (
    find_layout,
    from_output_last,
    kernel_of,
    layout_of,
    mean_response,
    output_last,
    scale_inputs,
    with_kernel,
)
from tfdatafree.numerics.affine import weight_quantizer
from tfdatafree.numerics.second_moment import ROUNDING_DAMPING as DAMPING
from tfdatafree.numerics.second_moment import damped, output_variance
from tfdatafree.quantization.bias import correct_biases
from tfdatafree.quantization.empirical_bias import correct_biases_on_inputs
from tfdatafree.quantization.feedback import round_with_feedback
from tfdatafree.quantization.rounding import Rounding, round_equalized, round_graph, round_kernel


def kernels(graph: Graph):
    return [(key, layer, layout_of(layer)) for key, layer in graph.layers.items() if find_layout(layer)]


@every_kind
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_further_than_half_a_step(name, per_channel, bits):
    graph = folded(name)
    made = round_graph(graph, Rounding(bits=bits, per_channel=per_channel))
    rounded, integers = made.graph, made.kernels
    assert integers.keys() == {key for key, _, _ in kernels(graph)}
    for key, layer, layout in kernels(graph):
        found = integers[key]
        before, after = (output_last(kernel_of(g.layers[key]), layout).astype(np.float64) for g in (graph, rounded))
        scale = np.asarray(found.grid.scale, np.float64)
        assert scale.shape == ((before.shape[1],) if per_channel else ())
        assert np.all(np.abs(after - before) <= scale * 0.5 * (1 + 1e-5))
        # The largest weight of each channel (or of all) is the largest integer, so the whole grid is used.
        largest = np.abs(found.matrix.astype(int)).max(axis=0 if per_channel else None)
        used = np.abs(before).max(axis=0 if per_channel else None) > 0
        assert np.all(largest == np.where(used, 2 ** (bits - 1) - 1, 0))
        np.testing.assert_array_equal(after, (found.matrix * scale).astype(np.float32))
        assert layer.weights is not rounded.layers[key].weights


@every_kind
def test_a_step_per_channel_is_never_worse_than_one_for_all(name):
    graph = folded(name)
    errors = []
    for per_channel in (True, False):
        rounded = round_graph(graph, Rounding(bits=4, per_channel=per_channel)).graph
        errors.append(
            sum(np.sum((kernel_of(rounded.layers[k]) - kernel_of(layer)) ** 2) for k, layer, _ in kernels(graph))
        )
    assert errors[0] <= errors[1]


def test_a_step_per_channel_is_far_better_where_channels_differ():
    graph = folded("plain")
    layer = graph.layers["a_conv"]
    layer = with_kernel(layer, kernel_of(layer) * np.float32([1, 0.1, 0.01, 0.001]))
    matrix = output_last(kernel_of(layer), layout_of(layer))
    errors = []
    for per_channel in (True, False):
        found = round_kernel("layer", layer, Rounding(bits=8, per_channel=per_channel))
        noise = np.square(found.grid.dequantize(found.matrix) - matrix).sum(axis=0) / np.square(matrix).sum(axis=0)
        errors.append(noise.mean())
    assert errors[0] < errors[1] / 100


@every_kind
def test_kernels_survive_the_turn_of_their_axes(name):
    for key, layer, layout in kernels(folded(name)):
        kernel = kernel_of(layer)
        matrix = output_last(kernel, layout)
        assert matrix.shape[1] == (layer.weight("bias").size if layer.weight("bias") is not None else matrix.shape[1])
        np.testing.assert_array_equal(from_output_last(matrix, kernel.shape, layout), kernel, err_msg=key)


@every_kind
def test_each_column_of_the_turned_kernel_makes_one_output_channel(name):
    """Zeroing a column makes this output channel zero and no other."""
    graph = folded(name)
    for node in graph.nodes:
        layer = graph.layer_of(node)
        layout = find_layout(layer)
        if layout is None:
            continue
        x = np.random.default_rng(0).normal(size=(1, *graph.specs[node.inputs[0]].shape[1:])).astype(np.float32)
        matrix = output_last(kernel_of(layer), layout).copy()
        matrix[:, -1] = 0
        changed = with_kernel(layer, from_output_last(matrix, kernel_of(layer).shape, layout))
        other = graph.copy()
        other.layers[node.layer] = changed
        wanted, found = (np.asarray(g.call(node, {node.inputs[0]: x})[0]) for g in (graph, other))
        np.testing.assert_array_equal(found[..., :-1], wanted[..., :-1], err_msg=node.name)
        bias = layer.weight("bias")
        np.testing.assert_allclose(found[..., -1], 0 if bias is None else bias[-1], atol=1e-6, err_msg=node.name)


@every_kind
def test_scaled_inputs_are_a_scaled_kernel(name):
    graph = folded(name)
    for node in graph.nodes:
        layer, layout = graph.layer_of(node), find_layout(graph.layer_of(node))
        if layout is None or getattr(layer.operation, "groups", 1) > 1:
            continue
        random = np.random.default_rng(0)
        x = random.normal(size=(2, *graph.specs[node.inputs[0]].shape[1:])).astype(np.float32)
        factor = random.uniform(0.5, 2, x.shape[-1]).astype(np.float32)
        other = graph.copy()
        other.layers[node.layer] = with_kernel(layer, scale_inputs(kernel_of(layer), layout, factor))
        wanted = np.asarray(graph.call(node, {node.inputs[0]: x * factor})[0])
        found = np.asarray(other.call(node, {node.inputs[0]: x})[0])
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=node.name)


@every_kind
def test_corrected_biases_keep_every_channels_mean(name):
    """For inputs with the means that the correction got, at every pixel."""
    graph = folded(name)
    rounded = round_graph(graph, Rounding(bits=4, per_channel=False)).graph
    random = np.random.default_rng(0)
    means = {t: random.normal(size=spec.shape[-1]) for t, spec in graph.specs.items()}
    for node in graph.nodes:  # all calls of a layer see the same mean
        if find_layout(graph.layer_of(node)) is not None:
            means[node.inputs[0]] = means[graph.first_calls()[node.layer].inputs[0]]
    corrected, kept = correct_biases(rounded, graph, means)
    changed = 0.0
    for node in graph.nodes:
        layer = graph.layer_of(node)
        if find_layout(layer) is None:
            continue
        source = node.inputs[0]
        spatial = [9] * (len(graph.specs[source].shape) - 2)
        x = np.broadcast_to(means[source].astype(np.float32), (1, *spatial, len(means[source])))
        wanted, before, after = (
            interior(np.asarray(g.call(node, {source: x})[0]), layer) for g in (graph, rounded, corrected)
        )
        np.testing.assert_allclose(after, wanted, atol=2e-4 * np.abs(wanted).max(), err_msg=node.name)
        changed = max(changed, np.abs(before - wanted).max())
    assert not kept
    assert changed > 1e-3 or name == "zero_kernel", "nothing was left to correct"


def test_calls_of_one_layer_count_as_often_as_they_have_positions():
    """The bias of a layer that sees 4 x 4 and 8 x 8 positions keeps the mean of all its outputs."""
    conv = L.Conv2D(3, 1, name="conv")
    inputs = [keras.Input((size, size, 2), name=f"x{size}") for size in (4, 8)]
    reference = Graph.from_keras(randomized(keras.Model(inputs, [conv(x) for x in inputs])))
    rounded = round_graph(reference, Rounding(bits=4, per_channel=False)).graph
    random = np.random.default_rng(0)
    images = [random.normal(2 * at, 1, (5, size, size, 2)).astype("float32") for at, size in enumerate((4, 8))]
    means = {name: x.mean(axis=(0, 1, 2)) for name, x in zip(reference.inputs, images, strict=True)}

    def mean(graph: Graph) -> np.ndarray:
        return np.concatenate([y.reshape(-1, 3) for y in graph.predict(images)]).mean(axis=0)

    analytic = correct_biases(rounded, reference, means)[0]
    empirical = correct_biases_on_inputs(rounded, reference, images)[0]
    for corrected in (analytic, empirical):
        np.testing.assert_allclose(mean(corrected), mean(reference), atol=1e-5)
    assert np.abs(mean(rounded) - mean(reference)).max() > 1e-3
    assert set(correct_biases(rounded, reference, dict(list(means.items())[:1]))[1]) == {"conv"}, (
        "one mean is not known"
    )


def interior(y: np.ndarray, layer) -> np.ndarray:
    """Mean over pixels without padding; over several, for the phases of a transposed convolution."""
    for axis in range(1, y.ndim - 1):
        size = y.shape[axis]
        middle = size // 2 - size // 2 % 2
        y = np.take(y, range(middle - 2, middle + 2) if size >= 8 else [size // 2], axis=axis)
    return y.mean(axis=tuple(range(y.ndim - 1)))


def test_the_response_to_a_mean_is_linear_in_the_kernel():
    layer = folded("plain").layers["a_conv"]
    mean = np.array([0.3, -1.0, 2.0])
    kernel = kernel_of(layer)
    np.testing.assert_allclose(mean_response(layer, 2 * kernel, mean), 2 * mean_response(layer, kernel, mean))
    np.testing.assert_allclose(mean_response(layer, kernel, mean), np.einsum("hwio,i->o", kernel, mean), rtol=1e-5)


def test_layers_whose_mean_is_unknown_are_left_alone():
    graph = folded("plain")
    rounded = round_graph(graph, Rounding(bits=4)).graph
    corrected, kept = correct_biases(rounded, graph, {"image": np.zeros(3)})
    assert kept == {"b_conv": "the mean of its input is not known", "head": "the mean of its input is not known"}
    np.testing.assert_array_equal(corrected.layers["b_conv"].weight("bias"), rounded.layers["b_conv"].weight("bias"))


def test_a_layer_without_bias_gets_one():
    graph = folded("no_bias")
    assert graph.layers["conv"].weight("bias") is None
    found = exported("no_bias")
    assert found.rounded.layers["conv"].weight("bias").shape == (4,)
    assert build("no_bias").get_layer("conv").bias is None


@pytest.mark.parametrize(
    "name", ["plain", "depthwise", "branch_add", "grouped", "conv_transpose", "depthwise_multiplier"]
)
@pytest.mark.slow
def test_rounding_between_buffers_keeps_the_function_and_loses_less(name):
    made = exported(name)
    reference = made.reference.copy()
    for (
        key,
        layer,
    ) in reference.layers.items():  # channels of very different size, for which one scale per tensor is bad
        if find_layout(layer) is not None and kernel_of(layer).shape[-1] > 1:
            scale = np.logspace(0, 2, kernel_of(layer).shape[-1])
            reference.layers[key] = with_kernel(layer, kernel_of(layer) * scale)
    wanted = reference.predict(made.inputs)

    def error(graph):
        return max(
            np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(graph.predict(made.inputs), wanted, strict=True)
        )

    fine = round_equalized(reference, Rounding(bits=16, per_channel=False))
    assert error(fine.graph) < 1e-3
    assert all(kernel.grid.channel_axis is None for kernel in fine.kernels.values())
    six_bits = Rounding(bits=6, per_channel=False)
    coarse, plain = round_equalized(reference, six_bits), round_graph(reference, six_bits)
    assert error(coarse.graph) < 1.05 * error(plain.graph)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_below_8_bits_what_feedback_rounds_is_improved(bits, per_channel):
    graph, random, errors = folded("plain"), np.random.default_rng(0), []
    for _, layer, layout in kernels(graph):
        matrix = output_last(kernel_of(layer), layout)
        mixed = random.normal(size=(4 * len(matrix), len(matrix))) @ random.normal(size=(len(matrix), len(matrix)))
        covariance = (mixed.T @ mixed / len(mixed))[None].astype(np.float32)
        grid = weight_quantizer(matrix, bits, 1 if per_channel else None)
        first = round_with_feedback(matrix, covariance, grid)
        rounding = Rounding(bits=bits, per_channel=per_channel, covariances={"layer": covariance})
        found = round_kernel("layer", layer, rounding)
        if bits == 8:
            np.testing.assert_array_equal(found.matrix, first)
            continue
        errors.append([
            output_variance(on.dequantize(values) - matrix, damped(covariance, DAMPING)).sum()
            for values, on in ((first, grid), (found.matrix, found.grid))
        ])  # fmt: skip
        assert per_channel or found.grid == grid
    assert all(after <= before * (1 + 1e-4) for before, after in errors)
    assert not errors or np.sum(errors, axis=0)[1] < 0.99 * np.sum(errors, axis=0)[0]
