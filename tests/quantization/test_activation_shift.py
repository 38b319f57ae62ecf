import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import export, exported, image, randomized

from tfdatafree.export.simulate import insert_quantizers
from tfdatafree.model.kernels import find_layout, kernel_of, mean_response
from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.quantization.activation_shift import correct_activation_shifts, measure_shifts
from tfdatafree.quantization.placement import Placement


def one_by_one() -> keras.Model:
    x = image()
    y = L.DepthwiseConv2D(1, depth_multiplier=2, name="first")(x)
    return randomized(keras.Model(x, L.GlobalAveragePooling2D(name="pool")(L.Conv2D(4, 1, name="second")(y))))


def test_a_shift_is_what_the_grid_does_to_the_mean():
    grid = activation_quantizer(0, 7, 3)
    x = np.array([[0.4, 6.0], [0.4, 9.0], [0.3, 8.0]], np.float32)  # the first all become 0, the second are cut at 7
    shifts = measure_shifts([("x", x), ("other", x)], {"x": grid})
    assert shifts.keys() == {"x"}
    np.testing.assert_allclose(shifts["x"], [-1.1 / 3, 20 / 3 - 23 / 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["dense_on_pixels", "one_by_one"])
def test_means_are_restored_where_every_pixel_counts_alike(name):
    made = export(one_by_one()) if name == "one_by_one" else exported(name)
    reference = made.reference
    grids = Placement(reference).grids(made.ranges, 4)
    readers = [node for node in reference.nodes if find_layout(reference.layer_of(node)) and node.inputs[0] in grids]
    node = readers[0]
    tensor = node.inputs[0]
    assert tensor in reference.inputs
    corrected, kept = correct_activation_shifts(reference, measure_shifts([(tensor, made.inputs[0])], grids))
    assert not kept

    def mean(graph, rounded):
        graph = insert_quantizers(graph, {tensor: grids[tensor]}) if rounded else graph
        live = next(live for at, live in graph.walk(made.inputs) if at.layer == node.layer)
        value = np.asarray(live[node.output])
        return value.reshape(-1, value.shape[-1]).mean(axis=0)

    wanted, plain, better = mean(reference, False), mean(reference, True), mean(corrected, True)
    assert np.abs(better - wanted).max() < 0.02 * np.abs(plain - wanted).max()
    assert corrected is not reference and mean(reference, True).tolist() == plain.tolist()


def test_a_shared_layer_is_corrected_for_the_mean_shift_of_its_calls():
    graph = exported("shared_layer").reference
    calls = [node for node in graph.nodes if graph.calls()[node.layer] > 1 and find_layout(graph.layer_of(node))]
    shifts = {tensor: np.full(spec.shape[-1], at) for at, (tensor, spec) in enumerate(graph.specs.items())}
    corrected, kept = correct_activation_shifts(graph, shifts)
    seen = np.mean([shifts[node.inputs[0]] for node in calls], axis=0)
    layer = graph.layer_of(calls[0])
    change = corrected.layer_of(calls[0]).weight("bias") - layer.weight("bias")
    assert not kept
    np.testing.assert_allclose(change, -mean_response(layer, kernel_of(layer), seen), rtol=1e-4)


def test_a_shared_layer_with_a_call_of_unknown_shift_is_left_alone_and_says_so():
    graph = exported("shared_layer").reference
    first = next(node for node in graph.nodes if graph.calls()[node.layer] > 1 and find_layout(graph.layer_of(node)))
    corrected, kept = correct_activation_shifts(
        graph, {first.inputs[0]: np.ones(graph.specs[first.inputs[0]].shape[-1])}
    )
    assert kept == {first.layer: "the shift of the input of one of its calls is not known"}
    assert corrected.layers[first.layer] is graph.layers[first.layer]
