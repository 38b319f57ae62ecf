"""Pruning of whole graphs, and its effect on the file."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from tiny_models import QUICK, build, each, folded, network_of, random_inputs, separated

import tfdatafree
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.make import drawing
from tfdatafree.measuring import sensitivity
from tfdatafree.measuring.covariances import input_covariances
from tfdatafree.measuring.sensitivity import channel_sensitivities
from tfdatafree.model.batchnorm import output_moments
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of, output_last
from tfdatafree.numerics.second_moment import output_variance
from tfdatafree.pruning import problem as problem_module
from tfdatafree.pruning.methods import METHODS
from tfdatafree.pruning.problem import pose
from tfdatafree.pruning.prune import prune
from tfdatafree.pruning.support import with_class_means
from tfdatafree.recipe.prune import PRUNE_METHODS, Prune
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Recipe

pytestmark = pytest.mark.slow

RANGE = (-1.0, 1.0)


@pytest.fixture(scope="module", autouse=True)
def sensitivities_once():
    """Those of a pair of graphs are computed once: they are most of the work, and most tests prune the same networks."""
    real, known = problem_module.channel_sensitivities, {}

    def once(unfolded, folded, results, input_range, *, seed):
        key = (id(unfolded), id(folded), tuple(results), input_range, seed)
        if key not in known:  # the graphs are kept with it, so that no others get their ids
            known[key] = unfolded, folded, real(unfolded, folded, results, input_range, seed=seed)
        return known[key][2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problem_module, "channel_sensitivities", once)
        yield


def graphs(name: str) -> tuple[Graph, Graph]:
    return separated(name), folded(name)


@functools.cache
def pruned(name: str, **options):
    unfolded, reference = graphs(name)
    means = {tensor: np.zeros(spec.shape[-1]) for tensor, spec in reference.specs.items()}
    return prune(network_of(unfolded, reference, RANGE), Prune(images=8, **options), means=means)


def prunable(graph: Graph) -> dict[str, np.ndarray]:
    layouts = {key: find_layout(layer) for key, layer in graph.layers.items()}
    return {
        key: output_last(kernel_of(graph.layers[key]), layout)
        for key, layout in layouts.items()
        if layout is not None and layout.kind != "depthwise"
    }


@pytest.mark.parametrize(
    "method, sparsity",
    [*((method, 0.6) for method in sorted(set(PRUNE_METHODS) - {"channel"})), ("obs", 0.0), ("uniform", 0.0)],
)
def test_every_method_meets_the_budget_of_the_network(method, sparsity):
    result = pruned("branch_add", sparsity=sparsity, method=method)
    kernels = prunable(result.current)
    zeros = sum(np.count_nonzero(kernel == 0) for kernel in kernels.values())
    assert zeros == round(sparsity * sum(kernel.size for kernel in kernels.values()))
    assert result.pruning.sparsity == pytest.approx(sparsity, abs=5e-3)
    assert result.masks.keys() == result.pruning.layers.keys() == kernels.keys()


@pytest.mark.parametrize("method", ["obs", "str", "budget", "energy"])
def test_layers_without_a_covariance_count_for_the_budget_too(method):
    unfolded, reference = graphs("branch_add")
    means = {tensor: np.zeros(spec.shape[-1]) for tensor, spec in reference.specs.items()}
    options = Prune(sparsity=0.5, method=method, images=8)
    problem = pose(network_of(unfolded, reference, RANGE), options, means=means, seed=0)
    unknown = list(problem.covariances)[::2]
    known = {key: matrix for key, matrix in problem.covariances.items() if key not in unknown}
    weights = METHODS[method](dataclasses.replace(problem, covariances=known))
    total = sum(problem.sizes.values())
    assert sum(np.count_nonzero(values) for values in weights.values()) == total - round(0.5 * total)
    assert any(np.count_nonzero(weights[key]) < weights[key].size for key in unknown)


@each(["grouped", "conv_transpose", "shared_layer", "conv1d", "squeeze_excite", "dead_channels"])
def test_every_layout_can_be_pruned(name, monkeypatch):
    monkeypatch.setattr(sensitivity, "_IMAGES", 4)  # how well a layer's part is known does not matter here
    result = pruned(name, sparsity=0.5, method="obs")
    kernels = prunable(result.current)
    zeros = sum(np.count_nonzero(kernel == 0) for kernel in kernels.values())
    total = sum(kernel.size for kernel in kernels.values())
    assert zeros >= round(0.5 * total)
    assert all(np.isfinite(kernel).all() for kernel in kernels.values())


def test_depthwise_kernels_stay_dense_with_a_reason_unless_the_option_is_set():
    result, reference = pruned("depthwise", sparsity=0.5, method="uniform"), graphs("depthwise")[1]
    dense = [
        key for key, layer in reference.layers.items() if find_layout(layer) and layout_of(layer).kind == "depthwise"
    ]
    assert dense and all("depthwise" in result.reasons[key] for key in dense)
    for key in dense:
        np.testing.assert_array_equal(kernel_of(result.current.layers[key]), kernel_of(reference.layers[key]))
    assert set(dense) <= pruned("depthwise", sparsity=0.5, method="uniform", depthwise=True).masks.keys()


def test_the_reference_does_not_change():
    reference = graphs("branch_add")[1]
    before = {key: [np.array(w) for w in layer.weights] for key, layer in reference.layers.items()}
    pruned("branch_add", sparsity=0.7, method="obs")
    for key, weights in before.items():
        for old, new in zip(weights, reference.layers[key].weights, strict=True):
            np.testing.assert_array_equal(old, new)


def test_auto_takes_the_candidate_whose_outputs_differ_least():
    result = pruned("branch_add", sparsity=0.6, method="auto")
    assert {"obs", "energy", "global", "global_unfolded", "uniform", "erk"} == result.pruning.discrepancies.keys()
    assert result.pruning.discrepancies[result.pruning.method] == min(result.pruning.discrepancies.values())
    assert len(set(result.pruning.discrepancies.values())) > 2


def test_auto_takes_another_candidate_where_obs_fails(monkeypatch):
    monkeypatch.setitem(METHODS, "obs", lambda problem: {key: 0 * matrix for key, matrix in problem.matrices.items()})
    result = pruned.__wrapped__("branch_add", sparsity=0.6, method="auto", refit=False)
    assert result.pruning.method != "obs" and result.pruning.sparsity == pytest.approx(0.6, abs=5e-3)
    single = pruned("branch_add", sparsity=0.6, method=result.pruning.method, refit=False)
    for key, mask in single.masks.items():
        np.testing.assert_array_equal(result.masks[key], mask)


def test_supports_and_repair_beat_magnitudes_on_unseen_inputs():
    unfolded, reference = graphs("branch_add")
    x = random_inputs(reference, 64)
    errors = {}
    for method in ("obs", "uniform", "energy"):
        graph = pruned("branch_add", sparsity=0.5, method=method).current
        errors[method] = np.linalg.norm(graph.predict(x)[0] - reference.predict(x)[0])
    assert errors["obs"] < 0.9 * min(errors["uniform"], errors["energy"])


def test_global_masks_of_unfolded_and_folded_weights_are_those_of_their_magnitudes():
    unfolded, reference = graphs("branch_add")
    for method, graph in (("global", reference), ("global_unfolded", unfolded)):
        masks = pruned("branch_add", sparsity=0.5, method=method, restore=False).masks
        magnitudes = prunable(graph)
        kept = np.concatenate([np.abs(magnitudes[key])[masks[key]] for key in masks])
        dropped = np.concatenate([np.abs(magnitudes[key])[~masks[key]] for key in masks])
        assert kept.min() >= dropped.max()


def test_budget_has_the_counts_of_str_and_the_weights_of_the_reference():
    learned = pruned("branch_add", sparsity=0.5, method="str", restore=False)
    budget = pruned("branch_add", sparsity=0.5, method="budget", restore=False)
    assert learned.pruning.layers == pytest.approx(budget.pruning.layers)
    for key, kernel in prunable(graphs("branch_add")[1]).items():
        values = prunable(budget.current)[key]
        np.testing.assert_array_equal(values[budget.masks[key]], kernel[budget.masks[key]])
        assert not np.allclose(prunable(learned.current)[key][learned.masks[key]], kernel[learned.masks[key]])


def test_restored_channels_have_the_variance_of_the_float_layer():
    unfolded, reference = graphs("plain")
    covariances = input_covariances(unfolded, reference, drawing(unfolded, RANGE), images=8)
    # The classifier's is restored under the covariance that it is judged by, with its class means in it.
    classifier = reference.producers()[decision_tensors(reference)[0]].layer
    layers = [key for key in covariances if key != classifier]
    assert len(layers) > 1
    gaps = []
    for restore in (False, True):
        result = pruned("plain", sparsity=0.5, method="uniform", restore=restore)
        ratio = [
            output_variance(prunable(result.current)[key], covariances[key])
            / output_variance(prunable(reference)[key], covariances[key])
            for key in layers
        ]
        gaps.append(np.abs(np.concatenate(ratio) - 1).mean())
    assert gaps[1] < 0.2 * gaps[0]


def test_covariances_of_normal_inputs_are_diagonal_and_those_of_images_are_not():
    unfolded, reference = graphs("branch_add")
    for inputs, activations in (("standard", True), ("gaussian", True), ("gaussian", False)):
        covariances = input_covariances(
            unfolded, reference, drawing(unfolded, RANGE), inputs=inputs, activations=activations
        )
        assert covariances.keys() == prunable(reference).keys()
        for matrix in covariances.values():
            np.testing.assert_array_equal(matrix[0], np.diag(np.diag(matrix[0])))
    # Without its ReLU a layer sees more variance.
    with_relu, without = (
        input_covariances(unfolded, reference, drawing(unfolded, RANGE), inputs="gaussian", activations=flag)
        for flag in (True, False)
    )
    assert any(np.trace(without[key][0]) > 1.2 * np.trace(with_relu[key][0]) for key in without)
    images = input_covariances(unfolded, reference, drawing(unfolded, RANGE), images=8)
    assert any(np.abs(m[0] - np.diag(np.diag(m[0]))).max() > 0.1 * np.diag(m[0]).mean() for m in images.values())


@pytest.mark.parametrize("keepdims", [False, True])
def test_what_reads_an_average_is_shown_the_pixels(keepdims):
    inputs = keras.Input((8, 8, 3))
    y = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(24, 3, name="conv")(inputs))
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=keepdims)(y)
    head = keras.layers.Conv2D(4, 1, name="head") if keepdims else keras.layers.Dense(4, name="head")
    unfolded = separate(Graph.from_keras(keras.Model(inputs, keras.layers.ReLU()(head(pooled))))).graph
    matrix = input_covariances(unfolded, fold(unfolded).graph, drawing(unfolded, RANGE), images=6)["head"][0]
    assert matrix.shape == (24, 24)
    # Six means span five dimensions at most; pixels behind a BatchNorm have its variances.
    assert np.linalg.matrix_rank(matrix, tol=1e-5 * matrix.trace()) > 10
    np.testing.assert_allclose(np.diag(matrix), np.square(output_moments(unfolded.layers["bn"])[1]), rtol=0.3)


def test_behind_a_flattened_map_nothing_is_a_pixel():
    inputs = keras.Input((6, 6, 3))
    y = keras.layers.AveragePooling2D(2)(keras.layers.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5, name="head")(keras.layers.Flatten()(y)))
    unfolded = separate(Graph.from_keras(model)).graph
    assert input_covariances(unfolded, fold(unfolded).graph, drawing(unfolded, RANGE), images=6)["head"].shape == (
        1,
        16,
        16,
    )


def test_only_a_classifier_is_shown_its_classes():
    """The generated covariance is left as it is in front of every other layer, and of results that are not classes."""
    unfolded, reference = graphs("plain")
    generated = input_covariances(unfolded, reference, drawing(unfolded, RANGE), images=8)
    means = {tensor: np.zeros(spec.shape[-1]) for tensor, spec in reference.specs.items()}
    options = Prune(sparsity=0.5, images=8)
    problem = pose(network_of(unfolded, reference, RANGE), options, means=means, seed=0)
    changed = {key for key, matrix in generated.items() if not np.allclose(matrix, problem.covariances[key])}
    (last,) = changed
    np.testing.assert_allclose(
        problem.covariances[last], with_class_means(generated[last], prunable(reference)[last]), rtol=1e-5
    )
    assert last == list(prunable(reference))[-1]


def test_a_channel_that_nothing_reads_does_not_matter():
    unfolded, reference = graphs("plain")
    sensitivities = channel_sensitivities(unfolded, reference, list(reference.outputs), drawing(unfolded, RANGE))
    keys = list(prunable(reference))
    assert sensitivities.keys() == set(keys) and all((sensitivities[key] >= 0).all() for key in keys)
    last = unfolded.copy()
    kernel = np.array(kernel_of(last.layers[keys[-1]]))
    kernel[..., 1, :] = 0
    last.layers[keys[-1]] = last.layers[keys[-1]].with_weights(kernel=kernel)
    assert channel_sensitivities(last, reference, list(reference.outputs), drawing(last, RANGE))[keys[-2]][1] == 0
    assert sensitivities[keys[-2]][1] > 0


@pytest.mark.parametrize(
    "method, rounding, bits",
    [("obs", "feedback", 4), ("uniform", "feedback", 8), ("uniform", "nearest", 8), ("uniform", "nearest", 4)],
)
def test_zeros_stay_exact_zeros_in_the_integer_file(method, rounding, bits):
    recipe = Recipe(
        prune=Prune(sparsity=0.6, method=method, images=8),
        quantize=Quantize(rounding=rounding, weight_bits=bits),
        generate=QUICK,
    )
    model = build("branch_add")
    compressed = tfdatafree.compress(model, recipe, input_range=RANGE, verbose=0)
    zeros, total = 0, 0
    for layer in compressed.model.layers:
        for variable in layer.weights:
            if "kernel" in variable.name:
                zeros, total = zeros + np.count_nonzero(np.asarray(variable) == 0), total + np.size(variable)
    assert zeros >= round(0.6 * total)
    pruning = compressed.report.to_dict()["pruning"]
    assert pruning["sparsity"] == pytest.approx(0.6, abs=5e-3) and pruning["layers"]
    assert f"{100 * pruning['sparsity']:.1f} % of the weights" in str(compressed.report)


def test_a_float_file_is_pruned_too_and_the_same_seed_gives_the_same_bytes():
    recipe = Recipe(prune=Prune(sparsity=0.5, images=8), quantize=None, generate=QUICK)
    model = build("plain")
    first, second = (tfdatafree.compress(model, recipe, input_range=RANGE, verbose=0) for _ in range(2))
    assert first.tflite == second.tflite
    x = random_inputs(model, 3)[0]
    np.testing.assert_allclose(first.predict(x), first.model.predict(x, verbose=0), rtol=1e-3, atol=1e-4)
    dense = tfdatafree.compress(model, Recipe(quantize=None), input_range=RANGE, verbose=0)
    assert dense.report.pruning is None and not np.allclose(dense.predict(x), first.predict(x), atol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sparsity": 1.0}, "sparsity is 1.0; give the part of zeros, at least 0 and less than 1"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"sparsity": "half"}, "sparsity is 'half'"),
        ({}, "neither of sparsity and strength came"),
        ({"sparsity": 0.5, "strength": 1e-5}, "both of sparsity and strength came"),
        ({"sparsity": "auto", "strength": 1e-5}, "both of sparsity and strength came; give one: .* sparsity='auto'"),
        (
            {"sparsity": "auto", "pattern": "2:4"},
            "sparsity is 'auto', but pattern '2:4' decides it: 0.5; leave sparsity out",
        ),
        ({"strength": -1.0}, "strength is -1.0; give a positive number"),
        ({"strength": 1e-5, "method": "erk"}, "strength is for the methods 'str' and 'budget', not 'erk'"),
        ({"sparsity": 0.5, "method": "magic"}, "method is 'magic'; choose one of 'auto', 'obs'"),
        ({"sparsity": 0.5, "inputs": "noise"}, "inputs is 'noise'; choose one of 'normalized'"),
        ({"sparsity": 0.5, "images": 0}, "images is 0"),
    ],
)
def test_a_wrong_option_says_what_came_and_what_was_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        Prune(**options)


def test_a_strength_alone_means_soft_thresholds():
    assert Prune(strength=1.55e-5).method == "str"
    assert 0 <= pruned("plain", strength=0.1).pruning.sparsity < 1


@pytest.mark.parametrize("method", ["obs", "str"])
def test_a_layer_whose_output_hardly_reaches_the_results_gives_up_most(method):
    unfolded, _ = graphs("branch_add")
    unfolded = unfolded.copy()
    branches = [node for node in unfolded.nodes if unfolded.layer_of(node).class_name == "Conv2D"]
    assert len(branches) >= 3
    before = pruned("branch_add", sparsity=0.5, method=method).pruning.layers
    readers = unfolded.consumers()
    quiet = next(
        node
        for node in branches
        if any(unfolded.layer_of(reader).class_name == "BatchNormalization" for reader in readers[node.output])
        and before[node.layer] < 0.9
    )
    norm = next(r for r in readers[quiet.output] if unfolded.layer_of(r).class_name == "BatchNormalization")
    layer = unfolded.layers[norm.layer]
    unfolded.layers[norm.layer] = layer.with_weights(gamma=layer.weight("gamma") * 1e-3)
    reference = fold(unfolded).graph
    means = {tensor: np.zeros(spec.shape[-1]) for tensor, spec in reference.specs.items()}
    options = Prune(images=8, sparsity=0.5, method=method)
    result = prune(network_of(unfolded, reference, RANGE), options, means=means)
    assert result.pruning.layers[quiet.layer] > 0.95
