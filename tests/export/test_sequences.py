"""Networks on sequences: a file computes them as images with one row, and all their tensors are compared and reported."""

import keras
import pytest
from keras import layers as L
from tiny_models import QUICK, randomized

from tfdatafree import Recipe, Rule, compress

pytestmark = pytest.mark.slow


def stack(depth: int) -> keras.Model:
    x = inputs = keras.Input((32, 2))
    for at in range(depth):
        x = L.Conv1D(6, 3, padding="same", name=f"conv_{at}")(x)
        x = L.ReLU(name=f"relu_{at}")(L.BatchNormalization()(x))
        x = L.MaxPooling1D(2, name=f"pool_{at}")(x)
    return randomized(keras.Model(inputs, L.Dense(4, name="head")(L.Flatten(name="flat")(x))), seed=depth)


@pytest.mark.parametrize("depth", [1, 3])
def test_every_tensor_of_a_stack_has_its_row_and_its_range(depth):
    result = compress(stack(depth), Recipe(generate=QUICK), input_range=(-1, 1), verbose=0)
    names = {row.name for row in result.report.layers}
    assert {f"{kind}_{at}" for at in range(depth) for kind in ("relu", "pool")} | {"flat", "head"} <= names
    for at in range(depth):
        grid, range_ = result.built.grids[f"relu_{at}"], result.built.ranges[f"relu_{at}"]
        assert abs(grid.high - range_.high) <= grid.scale


def test_a_rule_reaches_a_hidden_layer():
    recipe = Recipe(rules=(Rule("conv_1", activation_bits=16),), generate=QUICK)
    result = compress(stack(2), recipe, input_range=(-1, 1), verbose=0)
    assert result.built.grids["relu_1"].bits == 16 and result.built.grids["relu_0"].bits == 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_batchnorm_before_an_activation_is_several_operators_fused_with_it(seed):
    x = inputs = keras.Input((32, 4))
    for _ in range(2):
        x = L.Conv1D(8, 5, padding="same")(x)
        x = L.ReLU(6.0)(L.BatchNormalization()(L.ReLU()(x)))
    model = randomized(keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling1D()(x))), seed=seed)
    report = compress(model, Recipe(generate=QUICK), input_range=(-1, 1), verbose=0).report
    assert report.outputs[0].sqnr_db > 15 and not report.failures
