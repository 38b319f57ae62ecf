"""How many bits the weights of each layer get, given the bytes that all of them together may take.

    minimise  sum_l d(l, b_l)   over one width b_l for each layer l,     so that  sum_l s(l, b_l) <= budget

with d the damage of layer l at width b, all other layers left alone, and s its bytes there. That is a multiple-choice knapsack,
solved exactly by branch and bound (HiGHS, through SciPy): no other choice within the budget does less damage. (Where damages are
proportional to bytes, so that any choice is as good as the next, the search ends early with one that is as good as the best
but for a few bytes' worth.)

Sums ask for damages that add up. Squared errors of a network's results do, nearly, because the errors that layers cause are
hardly correlated; errors themselves do not. The same choice serves anything that is had in several qualities at several prices.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

# The solver stops once it is within 1e-6 of the optimum; damages are scaled so that this is a billionth of the largest.
_LARGEST = 1e3
# Nodes after which the solver hands out the best that it has found: reached only where damages are proportional to bytes, so
# that choices are alike.
_NODES = 2000


def choose_bits(
    sizes: Mapping[str, Mapping[int, int]], damages: Mapping[str, Mapping[int, float]], budget: int
) -> dict[str, int]:
    """The width of each layer: never more than `budget` bytes in all, with the least damage that these allow.

    The same arguments give the same widths.

    Args:
        sizes: Layer -> width -> bytes, whole numbers.
        damages: Layer -> width -> damage, finite; the same layers and widths.
        budget: Bytes; `smallest(sizes)` is the least that can be met.

    Raises:
        ValueError: The budget is below that.
    """
    least = smallest(sizes)
    if least > budget:
        raise ValueError(f"the budget is {budget:,} bytes, but the smallest widths take {least:,}.")
    if not sizes:
        return {}
    pairs = [(layer, width) for layer in sizes for width in sizes[layer]]
    price = np.array([sizes[layer][width] for layer, width in pairs], np.float64)
    damage = np.array([damages[layer][width] for layer, width in pairs], np.float64)
    one_each = np.array([[layer == owner for owner, _ in pairs] for layer in sizes], np.float64)
    damage *= _LARGEST / max(np.abs(damage).max(), 1e-300)
    allowed = float(budget)
    while True:
        found = milp(
            damage,
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(price[None], -np.inf, allowed)],
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0, "node_limit": _NODES},
        )
        if found.x is None:
            raise RuntimeError(f"the solver found no widths for {budget:,} bytes: {found.message}")
        taken = np.round(found.x).astype(bool)
        over = price[taken].sum() - budget
        if over <= 0:
            return {pair[0]: pair[1] for pair, chosen in zip(pairs, taken, strict=True) if chosen}
        # A variable may be a millionth off a whole number, and a millionth of a large layer is more than a byte.
        allowed -= over


def smallest(sizes: Mapping[str, Mapping[int, int]]) -> int:
    """Bytes of the cheapest width of every layer together."""
    return sum(min(of_layer.values()) for of_layer in sizes.values())


def total(values: Mapping[str, Mapping[int, float]], bits: Mapping[str, int]) -> float:
    """The sum of `values` (sizes or damages) at the chosen widths."""
    return sum(of_layer[bits[layer]] for layer, of_layer in values.items())


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The bits that a search gave to each layer's weights.

    Attributes:
        size: What was asked for, as a part of `int8_bytes`.
        int8_bytes: Of the same file with 8 bits everywhere.
        budget: Bytes that the file may take.
        int8_weight_bytes, weight_bytes: Of the integer kernels alone: a byte per weight, and as chosen.
        layers: Layer -> bits.
        damages: Layer -> squared relative error of the results with this layer alone in the fewest bits.
        error: Relative error of the results that these foretell for all layers as chosen, weights alone.
    """

    size: float
    int8_bytes: int
    budget: int
    int8_weight_bytes: int
    weight_bytes: int
    layers: dict[str, int]
    damages: dict[str, float]
    error: float
