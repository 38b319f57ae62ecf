import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops
from tiny_models import (
    KINDS,
    MODELS,
    SHAPE,
    block,
    build,
    each,
    folded,
    head,
    image,
    outputs_of,
    random_inputs,
    randomized,
    relative_difference,
    separated,
    state,
)

from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, scale_inputs, with_kernel
from tfdatafree.pruning.remove_channels import Channels, find_channels, remove_channels, without_groups

# Models in which something can go: not those whose channels are all tied to the image or to an output.
STUCK = {
    "depthwise_multiplier",
    "shared_layer_with_activation",
    "shared_batchnorm_foldable_once",
    "nested_called_twice",
    "nested_with_dict_inputs",
    "batchnorm_is_an_output",
    "conv_is_an_output",
    "grouped",
    "shared_separable",
    "one_output_channel",
}


def some_groups(channels: Channels, seed: int = 3) -> set[int]:
    """Half of the groups that can go, none of which empties a tensor."""
    groups = channels.groups
    chosen = set(np.random.default_rng(seed).permutation(groups)[: (len(groups) + 1) // 2].tolist())
    for ids in channels.of.values():
        if set(ids.tolist()) <= chosen:
            chosen.discard(int(ids[0]))
    return chosen


def unread(graph: Graph, channels: Channels, groups: set[int]) -> Graph:
    """The graph of the same size whose kernels have zeros where they read these groups."""
    graph = graph.copy()
    for key, ids in channels.read.items():
        layer = graph.layers[key]
        factor = (~np.isin(ids, list(groups))).astype(np.float32)
        graph.layers[key] = with_kernel(layer, scale_inputs(kernel_of(layer), layout_of(layer), factor))
    return graph


def weights_of(graph: Graph) -> int:
    return sum(values.size for layer in graph.layers.values() for values in layer.weights)


@each(name for name in MODELS if name not in STUCK)
def test_channels_that_nobody_reads_can_be_taken_out_of_every_model(name):
    take_out(name, separated(name))


@each(name for name in KINDS if name not in STUCK)
def test_channels_that_nobody_reads_can_be_taken_out_of_every_folded_model(name):
    take_out(name, folded(name))


def take_out(name: str, graph: Graph) -> None:
    channels = find_channels(graph)
    groups = some_groups(channels)
    assert groups
    smaller, wanted, inputs = (
        without_groups(graph, channels, groups),
        unread(graph, channels, groups),
        random_inputs(graph, 2),
    )
    assert weights_of(smaller) < weights_of(graph)
    found, expected = smaller.predict(inputs), wanted.predict(inputs)
    assert relative_difference(found, expected) < 1e-5
    assert relative_difference(outputs_of(smaller.to_keras(), inputs), expected) < 1e-5
    # They were not idle before: taking them out has changed what the model computes.
    assert name in ("zero_kernel", "twin_layers") or (relative_difference(found, graph.predict(inputs)) > 1e-4)


@pytest.mark.parametrize("name", sorted(STUCK - {"one_output_channel"}))
def test_where_nothing_can_go_every_layer_says_why(name):
    channels = find_channels(separated(name))
    assert not len(channels.groups)
    assert channels.layer_reasons.keys() == channels.written.keys()
    assert all("stay: '" in reason for reason in channels.layer_reasons.values())


def test_tied_channels_go_from_every_layer_of_a_residual_stream():
    model = build("branch_add")
    before = state(model)
    small = remove_channels(model, {"c_conv": [1, 3]}).model
    assert state(model) == before
    assert small.get_layer("a_conv").kernel.shape == (3, 3, 3, 2)
    assert small.get_layer("b_conv").kernel.shape == (3, 3, 2, 4)
    assert small.get_layer("c_conv").kernel.shape == (3, 3, 4, 2)
    assert small.get_layer("c_bn").gamma.shape == (2,)
    assert small.get_layer("head").kernel.shape == (2, 5)
    np.testing.assert_array_equal(
        small.get_layer("c_conv").kernel, model.get_layer("c_conv").kernel.numpy()[..., [0, 2]]
    )


def test_padding_of_channels_grows_and_shrinks_with_them():
    x = image()
    y = block(x, 4, "a")
    padded = ops.pad(y, ((0, 0), (0, 0), (0, 0), (2, 1)))
    z = L.Add(name="add")([padded, L.Conv2D(7, 3, padding="same", name="wide")(y)])
    graph = separate(Graph.from_keras(randomized(keras.Model(x, head(z), name="padded")))).graph
    channels = find_channels(graph)
    # Channels 0, 1 and 6 of the wide layer are those that padding adds; 3 is channel 1 of the narrow one.
    ids = channels.written["wide"]
    assert ids[3] == channels.written["a_conv"][1]
    groups = {int(ids[0]), int(ids[3])}
    smaller, inputs = without_groups(graph, channels, groups), random_inputs(graph)
    assert smaller.specs["wide"].shape[-1] == 5 and smaller.specs["a_conv"].shape[-1] == 3
    wanted = unread(graph, channels, groups).predict(inputs)
    assert relative_difference(outputs_of(smaller.to_keras(), inputs), wanted) < 1e-5


@pytest.mark.parametrize(
    "behind, reason",
    [
        (lambda y: L.Softmax(name="mix")(y), "not known to keep channels apart"),
        (lambda y: L.LayerNormalization(name="mix")(y), "not known to keep channels apart"),
        (lambda y: L.Activation("softmax", name="mix")(y), "not known to keep channels apart"),
        (lambda y: L.Permute((1, 3, 2), name="mix")(y), "not known to keep channels apart"),
        (lambda y: y[..., :2], "not known to keep channels apart"),
        (lambda y: ops.flip(y, -1), "not known to keep channels apart"),
        (lambda y: L.Reshape((8, 16, 2), name="mix")(y), "not known to keep channels apart"),
        (lambda y: L.Conv2D(4, 3, groups=2, name="mix")(y), "is a grouped convolution"),
    ],
)
def test_what_mixes_channels_binds_them(behind, reason):
    x = image()
    y = L.Conv2D(3, 1, name="last")(behind(block(x, 4, "a")))
    graph = separate(Graph.from_keras(randomized(keras.Model(x, head(y))))).graph
    channels = find_channels(graph)
    assert reason in channels.layer_reasons["a_conv"]
    assert "last" not in channels.layer_reasons
    with pytest.raises(ValueError, match=reason):
        without_groups(graph, channels, [int(channels.written["a_conv"][0])])


def test_one_channel_for_all_binds_only_itself():
    x = image()
    gate = L.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    graph = separate(Graph.from_keras(randomized(keras.Model(x, head(L.Multiply()([block(x, 4, "a"), gate])))))).graph
    channels = find_channels(graph)
    assert "gives it to all channels" in channels.layer_reasons["gate"]
    assert "a_conv" not in channels.layer_reasons and len(channels.groups) == 4


def test_wrong_requests_are_told():
    model = build("plain")
    with pytest.raises(ValueError, match=r"no layer 'relu'.*a_conv, b_conv, head"):
        remove_channels(model, {"relu": [0]})
    with pytest.raises(ValueError, match=r"'a_conv' has channels 0 to 3; \[4\] came"):
        remove_channels(model, {"a_conv": [0, 4]})
    with pytest.raises(ValueError, match="would lose all its channels"):
        remove_channels(model, {"a_conv": [0, 1, 2, 3]})
    refused = remove_channels(model, {"head": [0], "a_conv": [0]})
    assert refused.kept == {"head": "'head' is an output of the model"}
    assert refused.model.output_shape == model.output_shape
    assert refused.model.get_layer("a_conv").filters == 3 and SHAPE == model.input_shape[1:]
