"""Which grid a model's input gets: a told range as it is, an estimated one as wide as its values may need."""

from types import SimpleNamespace

import numpy as np
import pytest

from tfdatafree.model.network import InputRange
from tfdatafree.quantization.quantize import choose_input_ranges
from tfdatafree.recipe.quantize import Quantize


def chosen(known: InputRange, values: np.ndarray, *, bits: int = 16):
    flat = values.reshape(len(values), -1)
    seen = SimpleNamespace(low=flat.min(), high=flat.max(), lows=flat.min(axis=1), highs=flat.max(axis=1))
    network = SimpleNamespace(reference=SimpleNamespace(inputs=("x",)), input_ranges=(known,))
    options = Quantize(activation_bits=bits)
    return choose_input_ranges(network, SimpleNamespace(images={"x": seen}), options, from_user=False)["x"]


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (16, 100)).clip(-3, 3)


def test_an_estimated_range_has_room_for_what_many_inputs_would_need(values):
    spread = {"offset": np.zeros(1), "scale": np.ones(1)}
    found = chosen(InputRange(-2.0, 2.9, "estimated", "fields", **spread), values)
    assert found.low < values.min() and found.high > 2.9, "as in every other tensor"
    assert chosen(InputRange(-50.0, 60.0, "estimated", "fields", **spread), values).high == 60


def test_a_given_range_and_a_common_one_stay_as_they_are(values):
    spread = {"offset": np.zeros(1), "scale": np.ones(1)}
    given, common = InputRange(-1.0, 1.0, "given", "fields", **spread), InputRange(0.0, 255.0, "estimated")
    assert (chosen(given, values).low, chosen(given, values).high) == (-1, 1)
    assert (chosen(common, values).low, chosen(common, values).high) == (0, 255)
