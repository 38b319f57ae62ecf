"""A scatter plot as SVG: costs on a linear axis, losses on a logarithmic one, points that are links, and the front."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 44
# Losses below are drawn at this one: a logarithm has no zero.
_LEAST = 1e-4
_TICKS = 5


def scatter(
    points: Sequence[Mapping[str, Any]],
    front: Sequence[tuple[float, float]],
    *,
    x_label: str,
    y_label: str,
    limit: float | None = None,
) -> str:
    """The plot.

    Args:
        points: Each with "x", "y", "number", "title", "link" and "best".
        front: (x, y) of the points on the front, by x.
        limit: Largest x of the budget, drawn if it lies among the points; None: none.
    """
    xs = [point["x"] for point in points]
    ys = [math.log10(max(point["y"], _LEAST)) for point in points]
    low_x, high_x = _widened(min(xs), max(xs))
    low_y, high_y = _widened(min(ys), max(ys))

    def at_x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low_x) / (high_x - low_x)

    def at_y(value: float) -> float:
        part = (math.log10(max(value, _LEAST)) - low_y) / (high_y - low_y)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part

    floor, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(y_label)} by {html.escape(x_label)}">'
    ]
    for value in _ticks(low_x, high_x):
        x = at_x(value)
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{_short(value)}</text>')
    for value in _decades(low_y, high_y):
        y = at_y(value)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{(_LEFT + end) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    middle = (_TOP + floor) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{html.escape(y_label)}</text>'
    )
    if limit is not None and low_x <= limit <= high_x:
        parts.append(f'<line class="limit" x1="{at_x(limit):.1f}" x2="{at_x(limit):.1f}" y1="{_TOP}" y2="{floor}"/>')
    if front:
        parts.append(f'<path class="front" d="{_steps([(at_x(x), at_y(y)) for x, y in front])}"/>')
    on = set(front)
    for point in sorted(points, key=lambda point: (point["x"], point["y"]) in on):
        x, y = at_x(point["x"]), at_y(point["y"])
        marks = " ".join(
            name for name, holds in (("on", (point["x"], point["y"]) in on), ("best", point["best"])) if holds
        )
        number = f'<text x="{x + 8:.1f}" y="{y - 7:.1f}">{point["number"]}</text>'
        parts.append(
            f'<a href="{html.escape(point["link"])}" class="{marks}"><title>{html.escape(point["title"])}</title>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>{number}</a>'
        )
    return "".join([*parts, "</svg>"])


def _widened(low: float, high: float) -> tuple[float, float]:
    spare = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - spare, high + spare


def _ticks(low: float, high: float) -> list[float]:
    """Round values between two others, at most `_TICKS`."""
    raw = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two logarithms; only powers of ten where there would be many."""
    factors = (1,) if high - low > 2.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [f * 10.0**p for p in powers for f in factors if low <= math.log10(f * 10.0**p) <= high]


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """The line along which a budget moves from one best file to the next."""
    (x, y), *others = places
    path = [f"M{x:.1f} {y:.1f}"]
    for x, y in others:
        path.append(f"H{x:.1f}V{y:.1f}")
    return "".join(path)


def _short(value: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g}"
