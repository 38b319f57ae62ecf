import numpy as np
import pytest

from tfdatafree import Recipe, compress
from tfdatafree.pruning.pattern_mask import mask_of
from tfdatafree.pruning.support import choose_support
from tfdatafree.recipe.pattern import parse_pattern, refuse
from tfdatafree.recipe.prune import Prune
from tfdatafree.recipe.recipe import Generate
from tfdatafree.tflite.flatbuffer import File


def scores(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 1, shape)


@pytest.mark.parametrize("text, sparsity", [("2:4", 0.5), ("1:4", 0.75), ("4:8", 0.5)])
def test_of_every_m_weights_the_n_largest_stay(text, sparsity):
    pattern, values = parse_pattern(text), scores(2, 16, 5)
    mask = mask_of(values, pattern)
    kept, every = (int(part) for part in text.split(":"))
    assert pattern.sparsity == sparsity and mask.mean() == 1 - sparsity
    for at in range(0, 16, every):
        part, chosen = values[:, at : at + every], mask[:, at : at + every]
        assert np.all(chosen.sum(axis=1) == kept)
        assert np.all(np.where(chosen, part, np.inf).min(axis=1) > np.where(chosen, 0, part).max(axis=1))


@pytest.mark.parametrize("text", ["4x1", "1x5", "2x5"])
def test_blocks_stay_or_go_whole_the_largest_sums_first(text):
    pattern, values = parse_pattern(text), scores(8, 10)
    mask = mask_of(values, pattern, 40)
    rows, columns = pattern.inputs, pattern.outputs
    blocks = mask.reshape(8 // rows, rows, 10 // columns, columns).mean(axis=(1, 3))
    sums = values.reshape(8 // rows, rows, 10 // columns, columns).sum(axis=(1, 3))
    assert set(np.unique(blocks)) == {0, 1} and mask.sum() == 40
    assert sums[blocks == 1].min() > sums[blocks == 0].max()
    assert mask_of(values, pattern, 0).sum() == rows * columns, "no layer loses everything"


def test_supports_by_second_moments_keep_the_pattern_and_lose_less():
    random = np.random.default_rng(1)
    matrix = random.normal(size=(32, 6)).astype(np.float32)
    mixed = random.normal(size=(32, 32))
    covariance = (mixed @ mixed.T)[None].astype(np.float32)
    pattern = parse_pattern("2:4")
    mask = choose_support(matrix, covariance, 96, pattern=pattern, damping=0.01)
    assert np.all(mask.reshape(8, 4, 6).sum(axis=1) == 2)
    assert (mask != mask_of(np.abs(matrix), pattern)).any(), "correlated inputs call for other weights than the largest"


@pytest.mark.parametrize("text", ["4:4", "0:4", "2:3", "3:6", "2/4", "1x1", "0x4", "", "x", 4])
def test_wrong_patterns_are_refused(text):
    with pytest.raises(ValueError, match=r"write 'n:m' .*m = 2, 4, 8.*'2:4'.*'4x1'"):
        parse_pattern(text)


def test_layers_that_do_not_divide_have_a_reason():
    assert "3 input channels are not a multiple of the 4" in refuse(parse_pattern("2:4"), 3, 8)
    assert "6 output channels are not a multiple of the 4" in refuse(parse_pattern("1x4"), 3, 6)
    assert refuse(parse_pattern("2:4"), 8, 3) is None


def test_a_pattern_decides_its_sparsity():
    assert Prune(pattern="1:4").sparsity == 0.75
    assert Prune(pattern="2:4", sparsity=0.5).sparsity == 0.5
    with pytest.raises(ValueError, match=r"sparsity is 0.6, but pattern '2:4' gives 0.5; leave one out"):
        Prune(pattern="2:4", sparsity=0.6)
    with pytest.raises(ValueError, match="neither of sparsity and strength came"):
        Prune(pattern="4x1")
    with pytest.raises(ValueError, match="which method 'str' does not make"):
        Prune(pattern="2:4", method="str")


@pytest.mark.parametrize("method", ["auto", "obs", "energy", "global"])
@pytest.mark.slow
def test_the_files_integers_keep_the_pattern(method):
    from tiny_models import build

    recipe = Recipe(
        prune=Prune(pattern="2:4", method=method, images=8), generate=Generate(images=4, samples=200, effort="fast")
    )
    result = compress(build("plain"), recipe, input_range=(-1, 1), verbose=0)
    file = File.parse(result.tflite)
    (kernel,) = [
        kernel
        for operator in file.operators
        if file.operator_name(operator) == "CONV_2D"
        for kernel in [file.constant(operator.inputs[1])]
        if kernel.shape[-1] == 4
    ]
    # TFLite has the input channels last: (outputs, height, width, inputs).
    assert np.all((kernel.reshape(-1, 4) != 0).sum(axis=1) == 2)
    assert result.report.pruning.sparsity == 0.5
    assert "3 input channels are not a multiple" in result.report.kept["a_conv"]
