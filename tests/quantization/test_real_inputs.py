"""Real inputs are taken as they are: what they showed is in the range, and stored statistics put nothing right."""

import dataclasses

import numpy as np
import pytest
from tiny_models import QUICK, build, fresh, separated

from tfdatafree import Quantize, Recipe, compress
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.measuring.observe import observe
from tfdatafree.measuring.tensor_statistics import collect
from tfdatafree.measuring.walks import image_walk
from tfdatafree.model.saturation import saturating_reader
from tfdatafree.numerics.metrics import sqnr_db

pytestmark = pytest.mark.slow

INT8 = Recipe(generate=QUICK)


def signals(n: int, seed: int = 0) -> np.ndarray:
    """Inputs that are no pictures: heavy tails, beyond what is generated."""
    random = np.random.default_rng(seed)
    return random.standard_t(3, size=(n, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "name, bits",
    [("branch_add", 8), ("squeeze_excite", 8), ("concatenate", 8), ("conv1d", 8), ("plain", 16)],
)
def test_nothing_that_real_inputs_showed_is_clipped(name, bits):
    model = build(name)
    x = signals(12)[:, : model.input_shape[1]]
    x = x.reshape(12, -1)[:, : int(np.prod(model.input_shape[1:]))].reshape(12, *model.input_shape[1:])
    recipe = dataclasses.replace(INT8, quantize=Quantize(activation_bits=bits))
    for count in (4, 12):
        result = compress(model, recipe, representative_data=x[:count], verbose=0)
        graph = result.decision.reference
        readers = graph.consumers()
        for tensor, seen in collect(image_walk(graph, [x[:count]])).items():
            grid = result.built.grids.get(tensor)
            if grid is None or saturating_reader(graph, tensor, readers.get(tensor, [])) or "softmax" in tensor:
                continue
            # 0.0 is exact, so that the ends may be off by a step.
            assert grid.low <= seen.low + grid.scale and grid.high >= seen.high - grid.scale, (tensor, count)


def test_stored_statistics_that_do_not_hold_are_not_believed():
    """As behind a converter that leaves BatchNorms as identities, or for data of another kind than was trained on."""
    model = fresh("plain")
    bn = model.get_layer("a_bn")
    bn.moving_variance.assign(np.array(bn.moving_variance) / 9)
    x = signals(32)
    few, unseen = x[:16], x[16:]
    result = compress(model, INT8, representative_data=few, verbose=0)
    wanted = model.predict(unseen, verbose=0)
    assert sqnr_db(wanted, result.predict(unseen)) > 25


def test_all_views_are_what_the_inputs_show():
    unfolded = separated("branch_add")
    folded = fold(unfolded).graph
    x = signals(6)
    seen, shown = observe(unfolded, folded, [x], real=True), collect(image_walk(folded, [x]))
    for tensor, statistics in shown.items():
        for view in (seen.images, seen.normalized, seen.gaussian):
            assert (view[tensor].low, view[tensor].high) == (statistics.low, statistics.high)
        np.testing.assert_allclose(seen.means[tensor], statistics.mean, rtol=1e-5, atol=1e-6)
    assert seen.real and seen.covariances.keys() == observe(unfolded, folded, [x]).covariances.keys()
