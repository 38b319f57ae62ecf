import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import block, head, image, outputs_of, random_inputs, randomized, relative_difference, separated

from tfdatafree import Generate, Recipe, compress
from tfdatafree.canonical.separate import separate
from tfdatafree.measuring.patches import tap_shares
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of, with_kernel
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.pruning.channel_budget import Kernel, choose_channel_counts
from tfdatafree.pruning.channel_order import Reader, order_channels, output_energy, refit_without, shrink_correlations
from tfdatafree.pruning.channels import find_spaces, prune_channels
from tfdatafree.pruning.remove_channels import find_channels
from tfdatafree.recipe.prune import Prune

RANGE = (-1.0, 1.0)


def pruned(graph: Graph, sparsity: float, **options):
    return prune_channels(graph, Prune(sparsity=sparsity, method="channel", images=32, **options), input_ranges=RANGE)


@functools.cache
def network(width: int = 16) -> Graph:
    """Two residual blocks with a bottleneck, wide enough to meet a budget."""
    x = image()
    y = block(x, width, "stem")
    for at in range(2):
        z = block(block(y, 2 * width, f"wide_{at}"), width, f"narrow_{at}")
        y = L.Add(name=f"add_{at}")([y, z])
    return separate(Graph.from_keras(randomized(keras.Model(x, head(y), name="network")))).graph


def kernels_of(graph: Graph) -> int:
    return sum(kernel_of(layer).size for layer in graph.layers.values() if find_layout(layer))


# What removing costs, and what refitting saves ------------------------------------------------------------------------


def problem(inputs: int = 12, outputs: int = 5, per_channel: int = 2) -> Reader:
    random = np.random.default_rng(0)
    mixed = random.normal(size=(inputs, inputs)) * random.uniform(0.2, 2, (inputs, 1))
    rows = np.arange(inputs).reshape(per_channel, -1).T
    return Reader(mixed @ mixed.T, random.normal(size=(inputs, outputs)), rows)


def test_refitted_weights_lose_least_and_as_much_as_the_order_says():
    reader = problem()
    (correlation, deviation), first = shrink_correlations(reader.covariance), reader.rows[0]
    h = correlation.astype(np.float64) * deviation[:, None] * deviation
    gone = np.isin(np.arange(12), first)
    refitted = refit_without(reader.weights, reader.covariance, gone)
    loss = output_energy(refitted - reader.weights, reader.covariance)
    assert not refitted[gone].any()
    assert loss < 0.9 * output_energy(np.where(gone[:, None], reader.weights, 0), reader.covariance)
    # The gradient of the loss is zero at the weights that stay: nothing else loses less.
    assert np.abs((h @ (refitted - reader.weights))[~gone]).max() < 1e-5 * np.abs(h @ reader.weights).max()
    order, losses = order_channels([reader])
    single_losses = {}
    for channel, rows in enumerate(reader.rows):
        refitted = refit_without(reader.weights, reader.covariance, np.isin(np.arange(12), rows))
        single_losses[channel] = output_energy(refitted - reader.weights, reader.covariance)
    assert order[0] == min(single_losses, key=single_losses.get)
    assert losses[0] == pytest.approx(single_losses[order[0]], rel=1e-3)
    assert sorted(order) == list(range(6)) and len(losses) == 6


def test_losses_of_an_order_add_up_to_the_loss_of_removing_all_of_them():
    reader = problem()
    order, losses = order_channels([reader])
    gone = np.isin(np.arange(12), reader.rows[order[:3]])
    together = output_energy(refit_without(reader.weights, reader.covariance, gone) - reader.weights, reader.covariance)
    assert losses[:3].sum() == pytest.approx(together, rel=1e-3)


def test_losses_of_readers_add_up_and_constant_channels_go_first():
    reader = problem()
    constant = reader.covariance.copy()
    constant[reader.rows[4]] = constant[:, reader.rows[4]] = 0
    order, losses = order_channels([Reader(constant, reader.weights, reader.rows)] * 2)
    assert order[0] == 4 and losses[0] < 1e-5 * losses.sum()
    _, once = order_channels([Reader(constant, reader.weights, reader.rows)])
    np.testing.assert_allclose(losses, 2 * once, rtol=1e-4)


# How many ---------------------------------------------------------------------------------------------------------------


def test_weights_are_counted_with_both_sides_of_a_kernel():
    chain = [Kernel(9, (3, {}), (0, {0: 1})), Kernel(1, (0, {0: 1}), (0, {1: 1})), Kernel(1, (0, {1: 1}), (10, {}))]
    counts = choose_channel_counts([np.ones(40), np.ones(40)], chain, 0.5)
    total = sum(kernel.size([40, 40]) for kernel in chain)
    assert sum(kernel.size(counts) for kernel in chain) == pytest.approx(0.5 * total, abs=0.005 * total)
    counts = choose_channel_counts([np.ones(40), np.full(40, 100.0)], chain, 0.3)
    assert counts[1] == 40 and counts[0] < 40
    for multiple in (4, 8):
        assert all(
            count % multiple == 0 for count in choose_channel_counts([np.ones(40)] * 2, chain, 0.5, multiple=multiple)
        )
    assert choose_channel_counts([np.ones(40)] * 2, chain, 0.0) == [40, 40]
    assert min(choose_channel_counts([np.ones(40)] * 2, chain, 0.999)) == 1


def test_taps_at_the_border_count_less_where_padding_replaces_inputs():
    plain = L.Conv2D(2, 3, padding="same")
    plain.build((None, 4, 4, 1))
    (layer,) = [Graph.from_keras(keras.Sequential([keras.Input((4, 4, 1)), plain])).layers[plain.name]]
    np.testing.assert_allclose(tap_shares(layer, (4, 4)), np.outer([0.75, 1, 0.75], [0.75, 1, 0.75]))
    np.testing.assert_allclose(tap_shares(layer, (None, 4))[0], [0.75, 1, 0.75])


# Whole networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.6])
@pytest.mark.slow
def test_the_budget_is_met_by_a_model_that_is_smaller(sparsity):
    graph = network()
    result = pruned(graph, sparsity)
    assert 1 - kernels_of(result.graph) / kernels_of(graph) == pytest.approx(sparsity, abs=0.02)
    assert result.sparsity == pytest.approx(1 - kernels_of(result.graph) / kernels_of(graph))
    assert result.graph.inputs == graph.inputs and result.graph.outputs == graph.outputs
    assert result.reasons == {"head": "channels not removed: its channels stay: 'head' is an output of the model"}


@pytest.mark.slow
def test_channels_per_layer_are_multiples():
    result = pruned(network(), 0.4, multiple=8)
    widths = {spec.shape[-1] for tensor, spec in result.graph.specs.items() if "conv" in tensor}
    assert all(width % 8 == 0 for width in widths) and widths != {16, 32}


def test_spaces_are_residual_streams_and_insides_of_bottlenecks():
    channels = find_channels(network())
    spaces = find_spaces(channels)
    assert sorted(len(space) for space in spaces) == [16, 32, 32]
    assert np.array_equal(channels.written["stem_conv"], channels.written["narrow_1_conv"])


@pytest.mark.slow
def test_refitting_and_correcting_means_loses_less():
    graph, inputs = network(), random_inputs(network(), 16)
    expected = graph.predict(inputs)[0]

    def error(**options) -> float:
        return relative_error(pruned(graph, 0.3, **options).graph.predict(inputs)[0], expected)

    assert error() < error(refit=False) < error(refit=False, correct=False)


def with_dead_channels(name: str) -> Graph:
    """`name` with weights that make half of the removable channels constant: zero, as padding is."""
    graph = separated(name).copy()
    channels = find_channels(graph)
    dead = set(np.concatenate([space[: len(space) // 2] for space in find_spaces(channels)]).tolist())
    for node in graph.nodes:
        layer, ids = graph.layer_of(node), channels.of.get(node.output)
        if ids is None:
            continue
        mask = np.isin(ids, list(dead))
        if is_batchnorm(layer):
            graph.layers[node.layer] = layer.with_weights(
                **{
                    key: np.where(mask, 0, layer.weight(key))
                    for key in ("gamma", "beta")
                    if layer.weight(key) is not None
                }
            )
        elif find_layout(layer) is not None:
            shape = kernel_of(layer).shape
            if layout_of(layer).kind == "transpose":
                kernel = kernel_of(layer) * ~mask[:, None]
            else:
                kernel = (kernel_of(layer).reshape(*shape[:-2], -1, shape[-1]) * ~mask[: shape[-1]]
                          if layout_of(layer).kind != "depthwise" else kernel_of(layer) * ~mask[:, None])  # fmt: skip
            layer = with_kernel(layer, kernel)
            bias = layer.weight("bias")
            graph.layers[node.layer] = layer if bias is None else layer.with_weights(bias=np.where(mask, 0, bias))
    return graph


@pytest.mark.parametrize(
    "name", ["plain", "branch_add", "depthwise", "squeeze_excite", "concatenate", "flatten_dense", "conv_transpose"]
)
@pytest.mark.slow
def test_dead_channels_go_first_and_the_function_stays(name):
    graph = with_dead_channels(name)
    inputs = random_inputs(graph)
    expected = graph.predict(inputs)
    result = pruned(graph, 0.2)
    assert result.sparsity > 0.1
    assert relative_difference(outputs_of(result.graph.to_keras(), inputs), expected) < 2e-5


def test_constant_channels_go_into_the_biases_where_nothing_is_padded():
    x = image()
    y = L.Activation("sigmoid", name="sigmoid")(block(x, 8, "a"))
    y = L.Conv2D(6, 3, name="valid")(y)
    model = randomized(keras.Model(x, head(y), name="constants"))
    gamma = model.get_layer("a_bn").gamma.numpy()
    gamma[[1, 4, 6]] = 0
    model.get_layer("a_bn").gamma.assign(gamma)
    graph = separate(Graph.from_keras(model)).graph
    inputs = random_inputs(graph)
    result = pruned(graph, 243 / 678)  # what three of the eight channels take
    assert result.graph.specs["a_conv"].shape[-1] == 5
    assert relative_difference(result.graph.predict(inputs), graph.predict(inputs)) < 1e-4


@pytest.mark.slow
def test_the_file_is_smaller_and_the_report_says_so():
    model = network().to_keras()
    quick = Generate(images=4, samples=200, effort="fast")
    dense = compress(model, Recipe(generate=quick), input_range=RANGE, verbose=0)
    options = Prune(sparsity=0.5, method="channel", images=16)
    small = compress(model, Recipe(prune=options, generate=quick), input_range=RANGE, verbose=0)
    assert len(small.tflite) < 0.75 * len(dense.tflite)
    assert small.report.pruning.method == "channel"
    assert small.report.pruning.sparsity == pytest.approx(0.5, abs=0.02)
    assert "removed     " in str(small.report) and "Removed by layer:" in str(small.report)
    assert "float outputs move by" in small.report.notes["channels removed"]
    kernels = [layer for layer in small.model.layers if isinstance(layer, L.Conv2D)]
    assert kernels_of(Graph.from_keras(small.model)) == pytest.approx(0.5 * kernels_of(network()), rel=0.04)
    assert kernels and model.count_params() == network().to_keras().count_params()


def test_options_of_channels():
    with pytest.raises(ValueError, match="multiple is for the method 'channel', not 'obs'"):
        Prune(sparsity=0.5, method="obs", multiple=8)
    with pytest.raises(ValueError, match="multiple is 0; give a whole number of at least 1"):
        Prune(sparsity=0.5, method="channel", multiple=0)
