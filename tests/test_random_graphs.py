"""Random small networks keep their function, and their files are what was decided."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers as L
from tiny_models import export, outputs_of, random_inputs, randomized, relative_difference

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner

BLOCKS = st.one_of(
    st.tuples(st.just("conv"), st.integers(3, 6), st.sampled_from([1, 3]), st.sampled_from(["same", "valid"]), st.booleans(),
              st.sampled_from([None, "relu", "relu6", "tanh", "swish"])),
    st.tuples(st.just("batchnorm"), st.booleans(), st.booleans()),
    st.tuples(st.just("activation"), st.sampled_from(["relu", "relu6", "leaky_relu", "sigmoid", "hard_swish", "linear"])),
    st.tuples(st.just("depthwise"), st.integers(1, 2), st.sampled_from(["same", "valid"]), st.booleans()),
    st.tuples(st.just("pool"), st.sampled_from(["max", "average"])),
    st.tuples(st.just("skip"), st.sampled_from(["relu", None]), st.booleans()),
    st.tuples(st.just("concat"), st.integers(2, 4)),
    st.tuples(st.just("dropout")),
)  # fmt: skip
NETWORKS = st.lists(BLOCKS, min_size=2, max_size=7)
quickly = settings(deadline=None, max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def network(blocks: list[tuple], seed: int) -> keras.Model:
    x = y = keras.Input((9, 9, 3), name="image")
    for at, (kind, *options) in enumerate(blocks):
        name, channels = f"{kind}_{at}", y.shape[-1]
        small = min(y.shape[1:3]) < 3
        if kind == "conv":
            filters, kernel, padding, bias, activation = options
            padding = "same" if small else padding
            y = L.Conv2D(filters, kernel, padding=padding, use_bias=bias, activation=activation, name=name)(y)
        elif kind == "batchnorm":
            y = L.BatchNormalization(scale=options[0], center=options[1], name=name)(y)
        elif kind == "activation":
            y = L.Activation(options[0], name=name)(y)
        elif kind == "depthwise":
            multiplier, padding, bias = options
            padding = "same" if small or channels * multiplier > 8 else padding
            multiplier = 1 if channels * multiplier > 8 else multiplier
            y = L.DepthwiseConv2D(3, depth_multiplier=multiplier, padding=padding, use_bias=bias, name=name)(y)
        elif kind == "pool":
            pool = L.MaxPooling2D if options[0] == "max" else L.AveragePooling2D
            y = pool(2, padding="same", name=name)(y)
        elif kind == "skip":
            z = L.Conv2D(channels, 3, padding="same", activation=options[0], name=f"{name}_conv")(y)
            z = L.BatchNormalization(name=f"{name}_bn")(z) if options[1] else z
            y = L.Add(name=name)([y, z])
        elif kind == "concat":
            y = L.Concatenate(name=name)([L.Conv2D(options[0], 1, name=f"{name}_conv")(y), y])
        else:
            y = L.Dropout(0.3, name=name)(y)
    y = L.Dense(4, name="head")(L.GlobalAveragePooling2D(name="global")(y))
    return randomized(keras.Model(x, y, name="network"), seed)


@pytest.mark.slow
@quickly
@given(NETWORKS, st.integers(0, 1000))
def test_separating_and_folding_keep_the_function(blocks, seed):
    model = network(blocks, seed)
    inputs = random_inputs(model, 2)
    graph = Graph.from_keras(model)
    separated = separate(graph).graph
    rewrite = fold(separated)
    folded, kept = rewrite.graph, rewrite.kept
    wanted = outputs_of(model, inputs)
    for found in (graph, separated, folded):
        assert relative_difference(found.predict(inputs), wanted) < 1e-5
    assert relative_difference(outputs_of(folded.to_keras(), inputs), wanted) < 1e-5
    assert not any(is_batchnorm(layer) for layer in folded.layers.values())
    assert all(kept.values()) and set(kept) <= {node.name for node in folded.nodes}


@pytest.mark.slow
@quickly
@given(NETWORKS, st.integers(0, 1000))
def test_the_file_is_integer_and_within_one_step_of_its_simulation(blocks, seed):
    found = export(network(blocks, seed))
    file = File.parse(found.built.content)
    assert {file.dtype(index) for index in range(len(file.tensors))} <= {"int8", "int32"}
    assert not found.built.float_reasons
    assert {tensor: check.lsb for tensor, check in found.built.checks.items() if check.lsb > 1} == {}
    inputs = [array[:1] for array in found.inputs]
    (y,), (wanted,) = Runner(found.built.content).predict(inputs), found.reference.predict(inputs)
    assert np.abs(y - wanted).max() < 0.3 * np.abs(wanted).max() + 3 * found.built.grids["head"].scale
