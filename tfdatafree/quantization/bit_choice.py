"""Chooses the bits of each layer's weights within a budget of bytes, so that the total damage is least.

    minimise  sum_l d(l, b_l)   over one width b_l for each layer l,     subject to  sum_l s(l, b_l) <= budget

d(l, b) is the damage of layer l at width b when no other layer changes, and s(l, b) are its bytes. This is a multiple-choice
knapsack problem. Branch and bound (HiGHS, in SciPy) solves it exactly, so that no other choice within the budget does less
damage. There is one exception: if damages are proportional to bytes, all choices that use the budget are nearly equal. Then the
search stops early, and the damage of its choice exceeds the least one by that of a few bytes.

The sum is meaningful only if damages add up. Squared errors of a network's results nearly do, because the errors that
different layers cause are almost uncorrelated. The errors themselves do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

# The solver stops within 1e-6 of the optimum. Damages are scaled to this maximum, so that 1e-6 is a billionth of it.
_LARGEST = 1e3
# After this number of nodes the solver returns its best solution so far. It needs that many only if damages are proportional
# to bytes, so that choices are nearly equal.
_NODES = 2000


def choose_bits(
    sizes: Mapping[str, Mapping[int, int]], damages: Mapping[str, Mapping[int, float]], budget: int
) -> dict[str, int]:
    """The width of each layer with the least total damage, in at most `budget` bytes.

    The same arguments give the same widths.

    Args:
        sizes: Layer -> width -> bytes, integers.
        damages: Layer -> width -> damage, finite; the same layers and widths.
        budget: Bytes, at least `smallest(sizes)`.

    Raises:
        ValueError: The budget is smaller than that.
    """
    least = smallest(sizes)
    if least > budget:
        raise ValueError(
            f"the budget is {budget:,} bytes, but the smallest widths take {least:,}; choose a larger budget."
        )
    if not sizes:
        return {}
    pairs = [(layer, width) for layer in sizes for width in sizes[layer]]
    price = np.array([sizes[layer][width] for layer, width in pairs], np.float64)
    damage = np.array([damages[layer][width] for layer, width in pairs], np.float64)
    one_each = np.array([[layer == owner for owner, _ in pairs] for layer in sizes], np.float64)
    damage *= _LARGEST / max(np.abs(damage).max(), 1e-300)
    allowed = float(budget)
    while True:
        solution = milp(
            damage,
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(price[None], -np.inf, allowed)],
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0, "node_limit": _NODES},
        )
        if solution.x is None:
            raise RuntimeError(f"the solver found no widths for {budget:,} bytes: {solution.message}")
        chosen = np.round(solution.x).astype(bool)
        excess = price[chosen].sum() - budget
        if excess <= 0:
            return {pair[0]: pair[1] for pair, is_chosen in zip(pairs, chosen, strict=True) if is_chosen}
        # A variable may differ from an integer by a millionth, and a millionth of a large layer is more than a byte.
        allowed -= excess


def smallest(sizes: Mapping[str, Mapping[int, int]]) -> int:
    """Total bytes with the cheapest width of every layer."""
    return sum(min(of_layer.values()) for of_layer in sizes.values())


def total(values: Mapping[str, Mapping[int, float]], bits: Mapping[str, int]) -> float:
    """Sum of `values` (sizes or damages) at the chosen widths."""
    return sum(of_layer[bits[layer]] for layer, of_layer in values.items())


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The bits that a search chose for each layer's weights.

    Attributes:
        size: Requested size: a part of `int8_bytes`, or a number of bytes above 1.
        int8_bytes: Size of the same file with 8 bits everywhere.
        budget: Bytes that the file may take.
        int8_weight_bytes, weight_bytes: Bytes of the integer kernels only: with one byte per weight, and as chosen.
        layers: Layer -> bits.
        damages: Layer -> squared relative error of the results when only this layer has the fewest bits.
        error: Relative error of the results that the damages predict for the chosen bits, weights only.
    """

    size: float
    int8_bytes: int
    budget: int
    int8_weight_bytes: int
    weight_bytes: int
    layers: dict[str, int]
    damages: dict[str, float]
    error: float
