import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import every_kind, folded, outputs_of, random_inputs, randomized, relative_difference

import tfdatafree
from tfdatafree.canonical.assumption_free import (
    TOLERANCE,
    equalize_assumption_free,
    fold_buffers,
    insert_buffers,
    remove_buffers,
)
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import (
    find_layout,
    kernel_of,
    largest_between_channels,
    scale_inputs,
    scale_outputs,
    with_kernel,
)


def chain(activation, between=(), seed=0):
    """Two convolutions with channels scaled by anything from 0.05 to 20, `activation` and `between` between them."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Activation(activation)(L.Conv2D(6, 3, name="a")(x))
    for layer in between:
        x = layer(x)
    model = randomized(keras.Model(inputs, L.Conv2D(4, 1, name="b")(x)), seed)
    kernel = model.get_layer("a").kernel
    kernel.assign(kernel.numpy() * np.exp(np.random.default_rng(seed).uniform(-3, 3, 6)))
    return model


def tensors(graph: Graph, inputs) -> dict[str, np.ndarray]:
    found = {}
    for node, live in graph.walk(inputs):
        found.update((tensor, np.asarray(live[tensor])) for tensor in node.outputs)
    return found


def maxima(graph: Graph, writer: str, reader: str) -> tuple[np.ndarray, np.ndarray]:
    written, read = largest_between_channels(graph.layers[writer]), largest_between_channels(graph.layers[reader])
    return written.max(axis=1).reshape(-1), read.max(axis=2).reshape(-1)


@functools.cache
def equalized(name: str):
    return equalize_assumption_free(folded(name))


@every_kind
def test_folded_buffers_give_back_every_layers_output(name):
    graph, free = folded(name), equalized(name)
    inputs = random_inputs(graph)
    wanted, found = (tensors(g, inputs) for g in (graph, fold_buffers(free.graph, free.buffers)))
    assert free.buffers.keys() == {key for key, layer in graph.layers.items() if find_layout(layer)}
    for tensor, value in wanted.items():
        np.testing.assert_allclose(found[tensor], value, atol=2e-5 * max(np.abs(value).max(), 1e-6), err_msg=tensor)


@every_kind
def test_layers_between_buffers_compute_the_model(name):
    graph, free = folded(name), equalized(name)
    inputs = random_inputs(graph)
    wanted = graph.predict(inputs)
    explicit = insert_buffers(free.graph, free.buffers)
    assert relative_difference(explicit.predict(inputs), wanted) < 2e-5
    assert relative_difference(outputs_of(explicit.to_keras(), inputs), wanted) < 2e-5
    again = remove_buffers(explicit, free.buffers)
    assert relative_difference(again.predict(inputs), wanted) < 2e-5
    assert len(again.nodes) == len(graph.nodes) and again.specs.keys() == graph.specs.keys()


@pytest.mark.parametrize("activation", ["silu", "relu6", "hard_silu", "sigmoid", "gelu"])
def test_maxima_meet_across_any_activation(activation):
    model = chain(activation)
    inputs = random_inputs(model)
    result = tfdatafree.equalize(model, assumption_free=True)
    assert relative_difference(outputs_of(result.model, inputs), outputs_of(model, inputs)) < 1e-5
    rows = np.abs(result.model.get_layer("a").kernel.numpy()).max(axis=(0, 1, 2))
    columns = np.abs(result.model.get_layer("b").kernel.numpy()).max(axis=(0, 1, 3))
    np.testing.assert_allclose(rows, columns, rtol=1e-2)
    before = np.abs(model.get_layer("a").kernel.numpy()).max(axis=(0, 1, 2))
    assert rows.max() / rows.min() < before.max() / before.min() / 2
    # v_o of the writer undoes v_i of the reader: what stands between sees what it saw.
    np.testing.assert_allclose(result.buffers["a"][1] * result.buffers["b"][0], 1, rtol=1e-6)


BETWEEN = {
    "nothing": lambda: [],
    "padding": lambda: [L.ZeroPadding2D(1)],
    "pooling": lambda: [L.MaxPooling2D(2), L.AveragePooling2D(1)],
    "upsampling": lambda: [L.UpSampling2D(2)],
    "dropout": lambda: [L.Dropout(0.5), L.SpatialDropout2D(0.5), L.Identity(), L.GaussianNoise(1.0)],
    "arithmetic": lambda: [L.Rescaling(2.0, 1.0), L.PReLU(shared_axes=[1, 2])],
}


@pytest.mark.parametrize("between", BETWEEN)
def test_layers_without_weights_let_channels_through(between):
    result = tfdatafree.equalize(chain("silu", BETWEEN[between]()), assumption_free=True)
    assert set(result.kept) == {"b"} and np.ptp(result.buffers["a"][1]) > 0.1


def test_all_readers_of_a_tensor_are_equalized_with_their_writers():
    x = inputs = keras.Input((8, 8, 3))
    x = L.Activation("silu")(L.Conv2D(4, 3, padding="same", name="a")(x))
    y = L.Conv2D(4, 1, name="b")(x)
    model = randomized(keras.Model(inputs, L.Conv2D(2, 1, name="c")(L.Activation("silu")(L.Add()([x, y])))))
    graph = fold(Graph.from_keras(model)).graph
    free = equalize_assumption_free(graph)
    assert set(free.kept) == {"c"}
    for writer, reader in (("a", "b"), ("a", "c"), ("b", "c")):
        before, after = (np.log(np.divide(*maxima(g, writer, reader))) for g in (graph, free.graph))
        assert np.abs(after).max() < 0.3, (writer, reader, before, after)


def test_a_concatenation_gives_each_writer_its_channels():
    x = inputs = keras.Input((8, 8, 3))
    a, b = L.Conv2D(2, 1, name="a")(x), L.Conv2D(3, 1, name="b")(x)
    model = randomized(keras.Model(inputs, L.Conv2D(2, 1, name="c")(L.Activation("silu")(L.Concatenate()([a, b])))))
    equalized = equalize_assumption_free(fold(Graph.from_keras(model)).graph).graph
    _, columns = maxima(equalized, "a", "c")
    rows = np.concatenate([maxima(equalized, name, "c")[0] for name in ("a", "b")])
    np.testing.assert_allclose(rows, columns, rtol=1e-2)


def test_a_channel_that_is_read_twice_takes_both_columns_along():
    x = inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(4, 1, name="a")(x)
    x = L.Concatenate()([L.Activation("silu")(x), L.Activation("sigmoid")(x)])
    free = equalize_assumption_free(
        fold(Graph.from_keras(randomized(keras.Model(inputs, L.Conv2D(2, 1, name="b")(x))))).graph
    )
    rows, columns = maxima(free.graph, "a", "b")
    # One pair for each way: their scales pull on the same rows, and each moves its own columns.
    np.testing.assert_allclose(rows, columns[:4], rtol=0.1)
    np.testing.assert_allclose(rows, columns[4:], rtol=0.1)
    assert np.all(free.buffers["b"][0] != 1)


def test_a_flattened_channel_takes_all_its_columns_along():
    x = inputs = keras.Input((4, 4, 3))
    x = L.Flatten()(L.Activation("silu")(L.Conv2D(5, 1, name="a")(x)))
    model = randomized(keras.Model(inputs, L.Dense(2, name="b")(x)))
    equalized = equalize_assumption_free(fold(Graph.from_keras(model)).graph).graph
    rows, columns = maxima(equalized, "a", "b")
    np.testing.assert_allclose(rows, columns.reshape(-1, 5).max(axis=0), rtol=1e-2)


def test_what_mixes_channels_is_no_pair_and_says_so():
    model = chain("linear", [L.Permute((3, 1, 2), name="turned")])
    free = equalize_assumption_free(fold(Graph.from_keras(model)).graph)
    assert free.kept["a -> b"] == "'turned' (Permute) does not keep the channels apart"
    np.testing.assert_array_equal(free.buffers["a"][1], 1)


def test_rounds_end_when_the_scales_are_near_one():
    graph = folded("depthwise")
    first = equalize_assumption_free(graph)
    second = equalize_assumption_free(first.graph)
    assert 1 < first.rounds < 500 and second.rounds == 1
    scales = np.concatenate([1 / outputs for _, outputs in second.buffers.values()])
    assert abs(scales.mean() - 1) < 3 * TOLERANCE


@every_kind
def test_kernels_scale_along_both_sides(name):
    graph = folded(name)
    random = np.random.default_rng(0)
    for node in graph.nodes:
        layer, layout = graph.layer_of(node), find_layout(graph.layer_of(node))
        if layout is None:
            continue
        if layer.weight("bias") is not None:
            layer = layer.with_weights(bias=np.zeros_like(layer.weight("bias")))
        source = node.inputs[0]
        x = random.normal(size=(2, *graph.specs[source].shape[1:])).astype(np.float32)
        inputs = random.uniform(0.5, 2, x.shape[-1])
        outputs = random.uniform(0.5, 2, graph.specs[node.output].shape[-1])
        kernel = kernel_of(layer).astype(np.float64)
        scaled = with_kernel(layer, scale_outputs(scale_inputs(kernel, layout, inputs), layout, outputs))
        results = []
        for version, value in ((layer, x * inputs.astype(np.float32)), (scaled, x)):
            other = graph.copy()
            other.layers[node.layer] = version
            results.append(np.asarray(other.call(node, {source: value})[0]))
        wanted = results[0] * outputs
        np.testing.assert_allclose(results[1], wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=node.name)


def test_changed_kernels_keep_their_change_when_buffers_are_folded():
    """The way of pruning: zeros put in where the equalized kernel is small stay zeros in the plain network."""
    model = chain("silu")
    before = model.get_weights()
    result = tfdatafree.equalize(model, assumption_free=True)
    kernel = result.model.get_layer("a").kernel
    mask = np.abs(kernel.numpy()) > np.quantile(np.abs(kernel.numpy()), 0.5)
    kernel.assign(kernel.numpy() * mask)
    plain = result.folded()
    np.testing.assert_array_equal(plain.get_layer("a").kernel.numpy() != 0, mask)
    np.testing.assert_allclose(plain.get_layer("a").kernel.numpy(), before[0] * mask, rtol=1e-5)
    sample = random_inputs(model)
    assert relative_difference(outputs_of(plain, sample), outputs_of(result.model, sample)) < 1e-5
    assert not any(isinstance(layer, L.Rescaling) for layer in plain.layers)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_model_with_buffers_saves_and_loads(tmp_path):
    model = chain("silu")
    result = tfdatafree.equalize(model, assumption_free=True)
    result.model.save(tmp_path / "model.keras")
    sample = random_inputs(model)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert relative_difference(outputs_of(loaded, sample), outputs_of(model, sample)) < 1e-5


@pytest.mark.parametrize("options", [{"power": 0.5}, {"caps": "drop"}])
def test_options_of_the_plain_form_are_refused(options):
    with pytest.raises(ValueError, match="assumption_free equalization .* leave power at 1 and caps at"):
        tfdatafree.equalize(chain("silu"), assumption_free=True, **options)
