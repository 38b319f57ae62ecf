"""A hundred random small networks keep their function, and the files of some are what was decided (tools/random_networks.py)."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import random_networks
from networks import random_network

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.report.report import Report

TENS = [pytest.param(ten, marks=pytest.mark.slow if ten else ()) for ten in range(0, 100, 10)]


@pytest.mark.parametrize("ten", TENS)
def test_random_networks_keep_their_function(ten):
    for seed in range(ten, ten + 10):
        assert random_networks.changes(random_network(seed)) == [], f"network {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_batchnorm_that_stays_has_a_reason(seed):
    rewrite = fold(separate(Graph.from_keras(random_network(seed).model)).graph)
    assert not any(is_batchnorm(layer) for layer in rewrite.graph.layers.values())
    assert all(rewrite.kept.values()) and set(rewrite.kept) <= {node.name for node in rewrite.graph.nodes}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(len(random_networks.RECIPES)))
def test_random_networks_become_files_or_one_line(seed):
    ends = random_networks.examine(seed, random_networks.RECIPES)
    assert [end for _, end in ends if end.startswith("WRONG")] == []
    assert random_networks.RECIPES[seed] in dict(ends)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed, recipe",
    [
        pytest.param(5100, "lwdf", id="a layer called twice on the same tensor"),
        pytest.param(5292, "int8", id="a convolution that the converter names anew"),
        pytest.param(5640, "dfq", id="equal kernels of two layers"),
        pytest.param(9212, "int8", id="two operations that the converter puts into one"),
    ],
)
def test_networks_that_were_refused_without_reason_become_files(seed, recipe):
    assert not random_networks.compression(random_network(seed), recipe).startswith("WRONG")


@pytest.mark.slow
def test_a_broken_promise_is_found(monkeypatch):
    network = random_network(1)
    monkeypatch.setattr(Report, "warnings", [])
    monkeypatch.setattr(random_networks, "_decibels", lambda *arrays: 0.0)
    assert "nothing said" in random_networks.compression(network, "int8")
    real = Graph.from_keras
    monkeypatch.setattr(Graph, "from_keras", lambda model: _with_other_weights(real(model)))
    assert any("changes the function" in text for text in random_networks.changes(network))


def _with_other_weights(graph: Graph) -> Graph:
    for key, layer in graph.layers.items():
        graph.layers[key] = type(layer)(layer.operation, tuple(weights + 0.5 for weights in layer.weights))
    return graph


def test_the_same_seed_gives_the_same_network():
    first, second = random_network(3), random_network(3)
    assert first.model.count_params() == second.model.count_params() and first.input_range == second.input_range
    for x, y in zip(first.inputs(2, 0), second.inputs(2, 0), strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
