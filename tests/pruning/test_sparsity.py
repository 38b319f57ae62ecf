import numpy as np
import pytest

from tfdatafree.pruning.sparsity import balance, erk, erk_lwdf, largest_of_all, largest_of_each, scaled, uniform

SHAPES = {"stem": (3, 3, 3, 8), "wide": (3, 3, 32, 64), "point": (1, 1, 64, 48), "head": (48, 10)}
SIZES = {key: int(np.prod(shape)) for key, shape in SHAPES.items()}
sparsities = pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.73, 0.99])


@sparsities
@pytest.mark.parametrize(
    "counts", [lambda s: uniform(SIZES, s), lambda s: erk(SHAPES, s), lambda s: erk_lwdf(SHAPES, s)]
)
def test_every_policy_meets_the_budget_of_the_network_exactly(counts, sparsity):
    result, total = counts(sparsity), sum(SIZES.values())
    assert total - sum(result.values()) == round(sparsity * total)
    assert all(0 <= result[key] <= SIZES[key] for key in SIZES)


@sparsities
def test_global_masks_meet_the_budget_although_scores_are_equal(sparsity):
    scores = {key: np.ones(shape) for key, shape in SHAPES.items()}
    masks = largest_of_all(scores, sparsity)
    total = sum(SIZES.values())
    assert sum(np.count_nonzero(~mask) for mask in masks.values()) == round(sparsity * total)


def test_a_global_threshold_separates_the_scores_of_all_layers():
    random = np.random.default_rng(0)
    scores = {key: random.random(shape) for key, shape in SHAPES.items()}
    masks = largest_of_all(scores, 0.6)
    kept = np.concatenate([scores[key][masks[key]] for key in SHAPES])
    dropped = np.concatenate([scores[key][~masks[key]] for key in SHAPES])
    assert kept.min() > dropped.max()


def test_uniform_is_the_same_part_of_each_layer_to_within_a_weight():
    for key, kept in uniform(SIZES, 0.37).items():
        assert abs(kept - 0.63 * SIZES[key]) <= 1


def test_erk_densities_follow_the_kernels_sizes_where_they_are_below_one():
    counts = erk(SHAPES, 0.9)
    density = {key: counts[key] / SIZES[key] for key in SHAPES}
    ratio = {key: sum(SHAPES[key]) / SIZES[key] for key in SHAPES}
    assert density["stem"] == 1 or density["stem"] > density["wide"]
    assert density["wide"] / density["point"] == pytest.approx(ratio["wide"] / ratio["point"], rel=0.02)


def test_erk_as_lwdf_words_it_drops_where_erk_keeps():
    counts = erk_lwdf(SHAPES, 0.1)
    dropped = {key: 1 - counts[key] / SIZES[key] for key in SHAPES}
    assert dropped["wide"] < dropped["point"] < dropped["head"]


def test_the_largest_of_each_layer_stay():
    masks = largest_of_each({"a": np.array([[3.0, 1.0], [2.0, 5.0]])}, {"a": 2})
    np.testing.assert_array_equal(masks["a"], [[True, False], [False, True]])


def costing(scores, price):
    """Cost of pruning each layer alone, if a unit of its scores costs `price[layer]`."""
    return lambda masks: {key: price[key] * float(values[~masks[key]].sum()) for key, values in scores.items()}


@sparsities
def test_balanced_masks_meet_the_budget_and_no_other_split_costs_less(sparsity):
    random = np.random.default_rng(1)
    scores = {key: random.random(shape) for key, shape in SHAPES.items()}
    measure = costing(scores, {"stem": 30.0, "wide": 0.2, "point": 1.0, "head": 7.0})
    masks = largest_of_all(scaled(scores, balance(scores, sparsity, measure, rounds=6)), sparsity)
    total = sum(SIZES.values())
    assert sum(np.count_nonzero(~mask) for mask in masks.values()) == round(sparsity * total)
    fair = largest_of_all({key: values * measure({key: np.zeros(values.shape, bool) for key, values in scores.items()})[key]
                           / values.sum() for key, values in scores.items()}, sparsity)  # fmt: skip
    assert sum(measure(masks).values()) == pytest.approx(sum(measure(fair).values()), rel=1e-2, abs=1e-9)


def test_a_layer_that_costs_nothing_is_pruned_before_the_others():
    scores = {key: np.random.default_rng(2).random(shape) for key, shape in SHAPES.items()}
    factors = balance(scores, 0.3, costing(scores, {"stem": 1.0, "wide": 0.0, "point": 1.0, "head": 1.0}))
    masks = largest_of_all(scaled(scores, factors), 0.3)
    assert masks["stem"].all() and masks["head"].all() and not masks["wide"].all()
