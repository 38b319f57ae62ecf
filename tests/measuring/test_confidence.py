"""What tells the range of each tensor: bounds, normalizations so many layers before, or generated inputs alone."""

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import randomized

from tfdatafree import Generate, Recipe, compress
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.form import canonical_form
from tfdatafree.measuring.confidence import normalized_tensors, what_tells
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange


def told(inputs, outputs, *, assumed: bool = False) -> dict[str, str]:
    unfolded = canonical_form(Graph.from_keras(randomized(keras.Model(inputs, outputs)))).graph
    ranges = {name: InputRange(-1.0, 1.0, "given", told=not assumed) for name in unfolded.inputs}
    found = what_tells(fold(unfolded).graph, normalized_tensors(unfolded), ranges)
    assert found.items() <= what_tells(unfolded, normalized_tensors(unfolded), ranges).items(), "folding tells no less"
    return found


def test_doubt_grows_with_the_layers_behind_a_batchnorm():
    image = keras.Input((8, 8, 3), name="image")
    x = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, padding="same", name="first")(image))
    y = L.Conv2D(4, 3, padding="same", name="second")(L.ReLU(name="relu")(x))
    gate = L.Dense(4, activation="sigmoid", name="gate")(L.GlobalAveragePooling2D(name="pool")(y))
    gated = L.Multiply(name="gated")([y, L.Reshape((1, 1, 4), name="shaped")(gate)])
    joined = L.Add(name="sum")([x, gated])
    raw = L.Concatenate(name="raw")([joined, L.Conv2D(2, 1, name="unknown")(image)])
    found = told(image, [raw, L.Conv2D(4, 1, name="behind_bound")(L.MaxPooling2D(name="most")(image))])
    assert found["bn"] == found["relu"] == "norm"
    assert found["second"] == found["pool"] == "norm+1" and found["gate"] == "norm+2"
    assert found["gate_sigmoid"] == found["shaped"] == "bound"
    assert found["gated"] == found["sum"] == "norm+1", (
        "a bounded factor does not matter, the less sure of two summands does"
    )
    assert found["unknown"] == found["raw"] == "generated"
    assert found["image"] == found["most"] == "bound" and found["behind_bound"] == "generated"


@pytest.mark.parametrize("assumed", [False, True])
def test_a_layer_that_normalizes_its_own_input_tells(assumed):
    x = keras.Input((4, 4, 6), name="x")
    y = L.LayerNormalization(name="ln")(L.Conv2D(6, 3, name="conv")(x))
    y = L.Conv2D(6, 1, name="next")(y)
    found = told(x, L.ReLU(6.0, name="capped")(y), assumed=assumed)
    assert found["x"] == ("generated" if assumed else "bound")
    assert found["conv"] == "generated" and found["ln"] == "norm" and found["next"] == "norm+1"
    assert found["capped"] == "bound"


@pytest.mark.slow
def test_the_report_says_what_ranges_rest_on():
    x = keras.Input((6, 6, 1), name="x")
    model = keras.Model(x, L.Dense(3, name="score")(L.Flatten(name="flat")(L.Conv2D(4, 3, name="conv")(x))))
    recipe = Recipe(generate=Generate(images=4))
    alone = compress(model, recipe, input_range=(0, 1), verbose=0).report
    assert {row.name: row.known_by for row in alone.layers}.items() >= {"x": "bound", "score": "generated"}.items()
    assert "no layer tells" in alone.notes["ranges"] and "generated" in str(alone)
    real = np.random.default_rng(0).uniform(size=(4, 6, 6, 1)).astype(np.float32)
    given = compress(model, recipe, representative_data=real, verbose=0).report
    assert {row.known_by for row in given.layers} == {"data"} and "ranges" not in given.notes
