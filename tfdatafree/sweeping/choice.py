"""Which of several files to take: the Pareto front, and the best one within a budget.

A file is on the front of a cost if no other file is both as cheap and as good, and better in one of the two:

    not (cost' <= cost and loss' <= loss and (cost' < cost or loss' < loss))    for every other file

so that whatever the budget, the best file within it is on the front.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfdatafree.recipe.check import is_number
from tfdatafree.sweeping.figures import COSTS, LOSS
from tfdatafree.sweeping.points import short_number

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a file may cost, and how good it has to be; None: no limit.

    Attributes:
        max_bytes, max_gzip_bytes: Largest size of the file, and after gzip.
        max_ms: Most milliseconds: on the target where its compiler tells them, else on this CPU where they were measured.
        min_agreement: Smallest estimated agreement, 0 to 1.
    """

    max_bytes: int | None = None
    max_gzip_bytes: int | None = None
    max_ms: float | None = None
    min_agreement: float | None = None

    def __post_init__(self):
        for name in ("max_bytes", "max_gzip_bytes", "max_ms"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value > 0):
                raise ValueError(f"{name} is {value!r}; give a number above 0.")
        if self.min_agreement is not None and not (is_number(self.min_agreement) and 0 < self.min_agreement <= 1):
            raise ValueError(f"min_agreement is {self.min_agreement!r}; give a part above 0 and at most 1, e.g. 0.95.")

    @property
    def stated(self) -> bool:
        return self != Budget()


@dataclass(frozen=True)
class Choice:
    """The file to take.

    Attributes:
        row: Its row; None if no file is within the budget, or there is no budget.
        why: Why it, or why none.
    """

    row: Row | None
    why: str


def front(rows: Sequence[Row], cost: str) -> list[Row]:
    """The rows on the front of a cost, the cheapest first. Rows without it, or with an error, are left out."""
    known = [row for row in rows if not row["error"] and row[cost] is not None]
    kept: list[Row] = []
    for row in sorted(known, key=lambda row: (row[cost], row["loss"])):
        if not kept or row["loss"] < kept[-1]["loss"] or (row["loss"], row[cost]) == (kept[-1]["loss"], kept[-1][cost]):
            kept.append(row)
    return kept


def choose(rows: Sequence[Row], budget: Budget) -> Choice:
    """The best file within the budget; with no limit of costs, the smallest that is good enough."""
    files = [row for row in rows if not row["error"]]
    if not files:
        return Choice(None, "no file was made")
    if not budget.stated:
        return Choice(
            None, "no budget was stated; state one (max_bytes, max_ms, min_agreement ...) to get one file recommended"
        )
    time = next((name for name in ("npu_ms", "cpu_ms") if any(row[name] is not None for row in files)), None)
    if budget.max_ms is not None and time is None:
        return Choice(
            None, "max_ms is stated, but no time is known: measure it on this CPU, or sweep a target with Vela"
        )
    given = [("bytes", budget.max_bytes), ("gzip_bytes", budget.max_gzip_bytes), (time or "", budget.max_ms)]
    limits = [(cost, limit) for cost, limit in given if limit is not None]
    within = files
    for cost, limit in limits:
        cheap = [row for row in within if row[cost] is not None and row[cost] <= limit]
        if not cheap:
            least = min((row for row in within if row[cost] is not None), key=lambda row: row[cost], default=None)
            reach = "" if least is None else f"; the least is {_amount(cost, least[cost])}, by {title(least)}"
            return Choice(None, f"no file takes at most {_amount(cost, limit)}{reach}")
        within = cheap
    wanted = budget.min_agreement
    if wanted is not None:
        good = [
            row for row in within if row["estimated_agreement"] is not None and row["estimated_agreement"] >= wanted
        ]
        if not good:
            best = max((row["estimated_agreement"] or 0 for row in within), default=0)
            return Choice(
                None, f"no file within the budget has an estimated agreement of {wanted:.1%}; the best has {best:.1%}"
            )
        within = good
    if limits:
        order = sorted(within, key=lambda row: (row["loss"], row["bytes"]))
        first, reason = order[0], f"the lowest {LOSS}, {order[0]['loss']:.4g}"
        second = "" if len(order) < 2 else f"; the next, {title(order[1])}, has {order[1]['loss']:.4g}"
    else:
        order = sorted(within, key=lambda row: (row["bytes"], row["loss"]))
        first, reason = order[0], f"the fewest bytes, {order[0]['bytes']:,}"
        second = "" if len(order) < 2 else f"; the next, {title(order[1])}, has {order[1]['bytes']:,}"
    stated = [f"at most {_amount(cost, limit)}" for cost, limit in limits]
    stated += [] if wanted is None else [f"an estimated agreement of at least {wanted:.1%}"]
    return Choice(first, f"of {len(within)} of {len(rows)} points with {' and '.join(stated)}, it has {reason}{second}")


def title(row: Row) -> str:
    """The recipe of a row in words."""
    parts = [str(row["recipe"])]
    parts += [] if row["sparsity"] is None else [f"sparsity {short_number(row['sparsity'])}"]
    parts += [] if row["size"] is None else [f"size {row['size']:g}"]
    return ", ".join(parts)


def _amount(cost: str, value: float) -> str:
    return f"{value:,.3g} {COSTS[cost]}" if cost.endswith("_ms") else f"{value:,.0f} {COSTS[cost]}"
