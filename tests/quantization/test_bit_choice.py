"""Widths of layers within a budget of bytes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdatafree.quantization.bit_choice import choose_bits, smallest, total

WIDTHS = (4, 8)


def problem(seed: int, layers: int, widths: tuple[int, ...] = WIDTHS) -> tuple[dict, dict]:
    """(sizes, damages) as in networks: sizes over four orders of magnitude, damages over six."""
    random = np.random.default_rng(seed)
    counts = (10 ** random.uniform(1, 5, layers)).astype(int)
    damages = 10 ** random.uniform(-7, 0, layers)
    names = [f"layer_{at}" for at in range(layers)]
    return (
        {name: {b: -(-int(n) * b // 8) for b in widths} for name, n in zip(names, counts, strict=True)},
        {name: {b: float(d * 4.0 ** (4 - b)) for b in widths} for name, d in zip(names, damages, strict=True)},
    )


def by_trying_all(sizes: dict, damages: dict, budget: int) -> float:
    """The least damage within the budget."""
    choices = (dict(zip(sizes, widths, strict=True)) for widths in itertools.product(*(sizes[k] for k in sizes)))
    return min(total(damages, bits) for bits in choices if total(sizes, bits) <= budget)


def budget_between(sizes: dict, part: float) -> int:
    largest = sum(max(of_layer.values()) for of_layer in sizes.values())
    return round(smallest(sizes) + part * (largest - smallest(sizes)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0, 1))
def test_nothing_within_the_budget_does_less_damage(seed, layers, part):
    sizes, damages = problem(seed, layers)
    budget = budget_between(sizes, part)
    bits = choose_bits(sizes, damages, budget)
    assert total(sizes, bits) <= budget
    largest = max(max(of_layer.values()) for of_layer in damages.values())
    assert total(damages, bits) <= by_trying_all(sizes, damages, budget) + 1e-8 * largest


def test_more_than_two_widths():
    sizes, damages = problem(3, 6, (4, 5, 6, 8))
    for part in (0.1, 0.35, 0.7):
        budget = budget_between(sizes, part)
        bits = choose_bits(sizes, damages, budget)
        assert total(sizes, bits) <= budget
        assert total(damages, bits) == pytest.approx(by_trying_all(sizes, damages, budget), rel=1e-6)


def test_among_choices_that_are_all_alike_the_budget_is_used_up():
    """If damage is proportional to bytes, proving that a choice is optimal takes too long, and is not needed."""
    sizes, _ = problem(5, 60)
    damages = {name: {4: float(of_layer[8] - of_layer[4]), 8: 0.0} for name, of_layer in sizes.items()}
    budget = budget_between(sizes, 0.3)
    bits = choose_bits(sizes, damages, budget)
    assert 0 <= budget - total(sizes, bits) <= 0.001 * budget


def test_a_larger_budget_never_does_more_damage():
    sizes, damages = problem(7, 60)
    found = [total(damages, choose_bits(sizes, damages, budget_between(sizes, part))) for part in np.linspace(0, 1, 12)]
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(found))
    assert found[-1] < found[0] / 100, "the budgets make a difference"


def test_all_bytes_buy_the_widest_and_the_fewest_the_narrowest():
    sizes, damages = problem(1, 20)
    assert set(choose_bits(sizes, damages, budget_between(sizes, 1)).values()) == {8}
    assert set(choose_bits(sizes, damages, smallest(sizes)).values()) == {4}


def test_one_byte_too_few_is_an_error_that_says_how_many_it_takes():
    sizes, damages = problem(1, 20)
    least = smallest(sizes)
    with pytest.raises(ValueError, match=f"budget is {least - 1:,} bytes, but the smallest widths take {least:,}"):
        choose_bits(sizes, damages, least - 1)
    assert choose_bits({}, {}, 0) == {}


def test_the_same_arguments_give_the_same_widths_even_where_choices_are_equal():
    sizes = {f"layer_{at}": {4: 50, 8: 100} for at in range(12)}
    damages = {name: {4: 1.0, 8: 0.0} for name in sizes}
    first = choose_bits(sizes, damages, 905)
    assert sorted(first.values()) == [4] * 6 + [8] * 6
    assert all(choose_bits(sizes, damages, 905) == first for _ in range(3))
