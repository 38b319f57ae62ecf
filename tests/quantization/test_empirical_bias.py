import numpy as np
import pytest
from tiny_models import build, every_kind, folded, random_inputs, without_metadata

import tfdatafree
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.quantization.empirical_bias import correct_biases_on_inputs
from tfdatafree.quantization.rounding import Rounding, round_graph
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Generate, Recipe


def channel_means(graph: Graph, inputs) -> dict[str, np.ndarray]:
    """Mean per channel of the output of each layer with a kernel."""
    found = {}
    for node, live in graph.walk(inputs):
        if find_layout(graph.layer_of(node)) is not None:
            value = np.asarray(live[node.output], np.float64)
            found[node.output] = value.reshape(-1, value.shape[-1]).mean(axis=0)
    return found


@every_kind
def test_every_layers_channels_get_the_float_networks_means(name):
    reference = folded(name)
    rounded = round_graph(reference, Rounding(bits=4, per_channel=False)).graph
    inputs = random_inputs(reference)
    corrected, kept = correct_biases_on_inputs(rounded, reference, inputs)
    wanted, before, after = (channel_means(graph, inputs) for graph in (reference, rounded, corrected))
    calls = reference.calls()
    assert not kept
    shared = [node for node in reference.nodes if calls[node.layer] > 1 and node.output in wanted]
    for node in reference.nodes:
        if node.output in wanted and not shared:
            atol = 1e-4 * max(np.abs(wanted[node.output]).max(), np.abs(before[node.output]).max(), 1e-6)
            np.testing.assert_allclose(after[node.output], wanted[node.output], atol=atol, err_msg=node.name)
    for key, layer in corrected.layers.items():
        if find_layout(layer) is not None:
            np.testing.assert_array_equal(kernel_of(layer), kernel_of(rounded.layers[key]))
    if name != "zero_kernel":
        assert max(np.abs(before[tensor] - wanted[tensor]).max() for tensor in wanted) > 1e-3, "nothing to correct"


def test_the_graphs_given_are_not_changed():
    reference = folded("plain")
    rounded = round_graph(reference, Rounding(bits=4, per_channel=False)).graph
    before = [[w.copy() for w in layer.weights] for graph in (reference, rounded) for layer in graph.layers.values()]
    correct_biases_on_inputs(rounded, reference, random_inputs(reference))
    after = [layer.weights for graph in (reference, rounded) for layer in graph.layers.values()]
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_it_is_an_option_of_the_recipe():
    results = {}
    for way in ("analytic", True, "empirical", False):
        quantize = Quantize(weight_bits=4, bias_correction=way)
        recipe = Recipe(quantize=quantize, generate=Generate(images=4), level_activations=False)
        results[str(way)] = tfdatafree.compress(build("plain"), recipe, input_range=(-1, 1), verbose=0)
    files = {way: without_metadata(result.tflite) for way, result in results.items()}
    assert files["analytic"] == files["True"]
    assert len(set(files.values())) == 3
    # On the inputs that it used, the empirical correction restores the means of the float network.
    reference = folded("plain")
    inputs = make_inputs(reference, 4, (-1, 1))
    wanted = channel_means(reference, inputs)

    def miss(result) -> float:
        found = channel_means(result.built.graph, inputs)
        return sum(np.abs(found[tensor] - wanted[tensor]).sum() for tensor in wanted)

    assert miss(results["empirical"]) < miss(results["analytic"]) / 2
