"""Every input of a model has a range of its own: given by name, or told by what reads this input alone."""

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import build

from tfdatafree import Generate, Recipe, compress, generate_images
from tfdatafree.canonical.separate import separate
from tfdatafree.inputs.input_range import find_input_ranges
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.report.reproduce import command_text, python_text

QUICK = Recipe(generate=Generate(images=4))


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A Rescaling tells the range of `image`, a BatchNorm that of `depth`, nothing that of `meta`."""
    meta, image, depth = (
        keras.Input((3,), name="meta"),
        keras.Input((8, 8, 3), name="image"),
        keras.Input((9,), name="depth"),
    )
    bn = L.BatchNormalization(name="bn")
    branches = [L.Dense(4)(meta), L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(L.Rescaling(1 / 255)(image))), bn(depth)]
    # The BatchNorm behind all inputs tells the range of none.
    joined = L.BatchNormalization(name="late")(L.Dense(4)(L.Concatenate()(branches)))
    model = keras.Model([meta, image, depth], joined)
    bn.moving_mean.assign(np.full(9, 500.0))
    bn.moving_variance.assign(np.full(9, 4.0))
    return separate(Graph.from_keras(model)).graph


def test_each_input_gets_the_range_that_its_own_layers_tell(graph):
    meta, image, depth = find_input_ranges(graph)
    assert image.ends == (0, 255) and "Rescaling" in image.origin and not image.warning
    assert 485 < depth.low < 495 and 505 < depth.high < 515 and "'bn'" in depth.origin and not depth.warning
    assert meta.ends == (-1, 1) and "its input 'meta'" in meta.warning and "{'meta': (low, high)}" in meta.warning
    for array, found in zip(make_inputs(graph, 16, (meta, image, depth)), (meta, image, depth), strict=True):
        assert found.low <= array.min() and array.max() <= found.high
    generated = make_inputs(graph, 64, (meta, image, depth))[2]
    assert abs(generated.mean() - 500) < 1 and 1 < generated.std() < 3


def test_a_range_that_is_given_by_name_leaves_the_others_to_be_found(graph):
    found, given = find_input_ranges(graph), find_input_ranges(graph, {"meta": (0.0, 90.0)})
    assert given[0].ends == (0, 90) and given[0].origin == "given" and not given[0].warning
    assert [range_.ends for range_ in given[1:]] == [range_.ends for range_ in found[1:]]
    # A range for all inputs contradicts what is known of some of them.
    everywhere = find_input_ranges(graph, (0.0, 1.0))
    assert [range_.ends for range_ in everywhere] == [(0, 1)] * 3
    assert "input_range of 'depth'" in everywhere[2].warning and not everywhere[0].warning


@pytest.mark.parametrize(
    "given, message",
    [
        ({"image": (0, 255), "dept": (0, 1)}, "'dept'; did you mean 'depth'.*meta, image, depth"),
        ({"meta": (1, 0)}, r"input_range of 'meta' is \(1, 0\); low and high"),
        ({"meta": 3}, "input_range of 'meta' is 3; give two numbers"),
    ],
)
def test_a_wrong_range_names_the_input(graph, given, message):
    with pytest.raises(ValueError, match=message):
        compress(graph.to_keras(), input_range=given, verbose=0)


@pytest.mark.slow
def test_real_inputs_beyond_a_given_range_widen_that_of_their_input_alone(caplog):
    random = np.random.default_rng(0)
    left, right = random.uniform(-2, 2, (8, 8, 8, 3)), random.uniform(-30, 70, (8, 4, 4, 2))
    data = [left.astype(np.float32), right.astype(np.float32)]
    given = {"left": (-3, 3), "right": (-1, 1)}
    result = compress(build("two_inputs"), QUICK, input_range=given, representative_data=data, verbose=0)
    left_grid, right_grid = (result.built.grids[name] for name in ("left", "right"))
    assert left_grid.high == pytest.approx(3, abs=2 * left_grid.scale)
    assert right_grid.low <= right.min() + right_grid.scale and right_grid.high >= right.max() - right_grid.scale
    assert "for 'right' reaches from" in caplog.text and "for 'left'" not in caplog.text
    lines = result.report.input_range.splitlines()
    assert lines[0] == "left: [-3, 3], given" and lines[1].startswith("right: [-") and "widened" in lines[1]
    partly = compress(build("two_inputs"), QUICK, input_range={"left": (-3, 3)}, representative_data=data, verbose=0)
    assert partly.built.grids["right"].high == pytest.approx(right.max(), abs=2 * right_grid.scale)
    assert "from the given inputs" in partly.report.input_range.splitlines()[1]


@pytest.mark.slow
def test_generated_images_stay_within_the_range_of_their_input(tmp_path):
    ends = {"left": (-1.0, 1.0), "right": (10.0, 20.0)}
    images = generate_images(build("two_inputs"), 2, input_range=ends, steps=2, verbose=0, path=tmp_path / "images.npz")
    assert images.input_range == ends
    assert all(
        low <= images.inputs[name].min() and images.inputs[name].max() <= high for name, (low, high) in ends.items()
    )
    again = generate_images(build("two_inputs"), 2, input_range=ends, steps=2, verbose=0, path=tmp_path / "images.npz")
    assert again.input_range == ends


def test_the_report_repeats_the_ranges():
    call = {"model": "a.keras", "input_range": {"image": (0.0, 255.0), "depth": (-1.0, 10.0)}}
    assert "input_range={'image': (0.0, 255.0), 'depth': (-1.0, 10.0)}" in python_text(Recipe(), call)
    assert "--input_range=image:0,255 --input_range=depth:-1,10" in command_text(Recipe(), call)
