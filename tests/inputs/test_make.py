"""How many inputs are generated: as many as asked for, unless these would take minutes and fewer show as much."""

import keras
import pytest
from keras import layers as L
from tiny_models import folded, randomized

from tfdatafree import Generate, Recipe, compress
from tfdatafree.export import write
from tfdatafree.inputs import make
from tfdatafree.inputs.make import affordable
from tfdatafree.model.cost import multiplications
from tfdatafree.model.graph import Graph


def denoiser() -> keras.Model:
    x = keras.Input((64, 64, 3), name="image")
    y = L.ReLU()(L.Conv2D(4, 3, padding="same")(x))
    return randomized(keras.Model(x, L.Conv2D(3, 3, padding="same")(y), name="denoiser"))


@pytest.mark.parametrize("together, expected", [(0, 4), (4.5, 4), (20.5, 20), (33, 32)])
def test_large_full_image_networks_get_fewer_but_never_less_than_four(together, expected, monkeypatch):
    graph = Graph.from_keras(denoiser())
    assert affordable(graph, 32) == 32
    monkeypatch.setattr(make, "_MOST_MULTIPLICATIONS", int(together * multiplications(graph)))
    assert affordable(graph, 32) == expected and affordable(graph, 3) == 3


def test_others_get_what_is_asked_for(monkeypatch):
    monkeypatch.setattr(make, "_MOST_MULTIPLICATIONS", 0)
    assert affordable(folded("plain"), 32) == 32


@pytest.mark.slow
def test_the_report_says_how_many(monkeypatch):
    monkeypatch.setattr(make, "_MOST_MULTIPLICATIONS", 0)
    report = compress(denoiser(), Recipe(generate=Generate(images=6)), input_range=(-1, 1), verbose=0).report
    assert report.generated.startswith("4 procedural images") and report.compared == 4


@pytest.mark.slow
@pytest.mark.parametrize("heavy, probes", [(0, 1), (2**40, 2)])
def test_a_large_full_image_network_is_verified_on_one_input(heavy, probes, monkeypatch):
    monkeypatch.setattr(write, "_HEAVY", heavy)
    built = compress(denoiser(), Recipe(generate=Generate(images=4)), input_range=(-1, 1), verbose=0).built
    assert {check.count for check in built.checks.values()} == {probes}
