"""A sweep as one HTML page beside its files: per model and target the files by cost and loss, the front, the recommended one."""

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from tfdatafree.sweeping.choice import Budget, Choice, Row, front, title
from tfdatafree.sweeping.figures import COSTS, LOSS
from tfdatafree.sweeping.plot import scatter
from tfdatafree.version import __version__

# With more models than this, each one's part of the page is closed at first.
_MOST_OPEN = 12
_HEADS = (
    ("#", "text"),
    ("recipe", "text"),
    ("bytes", ""),
    ("gzip", ""),
    ("zeros", "wide"),
    ("agreement", ""),
    ("loss", ""),
    ("target ms", ""),
    ("CPU ms", ""),
    ("files", "text"),
)
_TERMS = (
    ("#", "number of the point in the plot; bold: on the front of a cost, where no other file is both as cheap and as good"),
    ("agreement", "estimated fraction of real inputs with the float model's class; models without classes have none"),
    ("loss", f"the {LOSS} of the worst output on generated inputs: 0 is the float model, 2 the opposite; files are ranked by it"),
    ("gzip", "bytes of the file after gzip, as in a download"),
    ("zeros", "fraction of the kernels' weights that are zero"),
    ("target ms", "milliseconds of one inference that the target's own compiler estimates"),
    ("CPU ms", "milliseconds of one inference, measured on the CPU of the machine that made this page"),
)  # fmt: skip


def sweep_page(rows: Sequence[Row], choices: Mapping[tuple[str, str], Choice], budget: Budget) -> str:
    """The page's HTML. Its links lead to the points' folders beside it."""
    groups = {pair: [row for row in rows if (row["model"], row["target"]) == pair] for pair in choices}
    failed = sum(bool(row["error"]) for row in rows)
    models = len({model for model, _ in groups})
    lead = f"{len(rows)} points of {models} model{'s' if models > 1 else ''}"
    lead += f"; {failed} of them have no file, and say why" if failed else ""
    return Template(_asset("page.html")).substitute(
        version=__version__,
        title="Which file to take",
        css=_asset("page.css"),
        lead=f"{lead}.",
        overview=_overview(choices) if len(groups) > 1 else "",
        groups="\n".join(
            _group(at, pair, group, choices[pair], budget, len(groups) <= _MOST_OPEN)
            for at, (pair, group) in enumerate(groups.items())
        ),
        terms="".join(f"<dt>{term}</dt><dd>{_escape(meaning)}</dd>" for term, meaning in _TERMS),
    )


def _asset(name: str) -> str:
    return resources.files("tfdatafree.sweeping").joinpath(name).read_text(encoding="utf-8")


def _escape(value: object) -> str:
    return html.escape(str(value))


def _name(model: str, target: str) -> str:
    return _escape(model if target == "generic" else f"{model} on {target}")


def _overview(choices: Mapping[tuple[str, str], Choice]) -> str:
    """A table with the recommended file of each model."""
    lines = []
    for at, (pair, choice) in enumerate(choices.items()):
        row = choice.row
        cells = [f'<td class="text"><a href="#group-{at}">{_name(*pair)}</a></td>']
        if row is None:
            cells.append(f'<td class="text" colspan="5">{_escape(choice.why)}</td>')
        else:
            cells += [
                f'<td class="text">{_escape(title(row))}</td>',
                f"<td>{row['bytes']:,}</td>",
                f"<td>{_percent(row['estimated_agreement'])}</td>",
                f"<td>{row['loss']:.4f}</td>",
                f'<td class="text">{_links(row)}</td>',
            ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = [
        ("model", "text"),
        ("recommended", "text"),
        ("bytes", ""),
        ("agreement", ""),
        ("loss", ""),
        ("files", "text"),
    ]
    return f'<section id="overview"><h2>Recommended</h2>{_framed(heads, lines)}</section>'


def _framed(heads: Iterable[tuple[str, str]], lines: Iterable[str]) -> str:
    """A table that scrolls sideways where it has to."""
    cells = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in heads)
    rows = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def _group(at: int, pair: tuple[str, str], rows: Sequence[Row], choice: Choice, budget: Budget, is_open: bool) -> str:
    taken = "" if choice.row is None else f"<b>Take {_escape(title(choice.row))}</b>: "
    body = f'<p class="why">{taken}{_escape(choice.why)}.</p><div class="plots">{"".join(_plots(rows, budget))}</div>'
    body += _table(rows)
    heading = f"<h2>{_name(*pair)}</h2>"
    if not is_open:
        return f'<section id="group-{at}"><details><summary>{_name(*pair)}</summary>{body}</details></section>'
    return f'<section id="group-{at}">{heading}{body}</section>'


def _plots(rows: Sequence[Row], budget: Budget) -> Iterable[str]:
    limits = {"bytes": budget.max_bytes, "gzip_bytes": budget.max_gzip_bytes}
    for cost, name in COSTS.items():
        if sum(row[cost] is not None for row in rows if not row["error"]) < 2:
            continue
        points = [
            {
                "x": row[cost],
                "y": row["loss"],
                "number": at + 1,
                "title": f"{title(row)}: {row[cost]:,.6g} {name}, {LOSS} {row['loss']:.4f}",
                "link": row["report"],
                "best": row["recommended"],
            }
            for at, row in enumerate(rows)
            if not row["error"] and row[cost] is not None
        ]
        kept = [(row[cost], row["loss"]) for row in front(rows, cost)]
        yield (
            f"<figure>{scatter(points, kept, x_label=name, y_label=LOSS, limit=limits.get(cost))}"
            f"<figcaption>{_escape(name)}: files to the lower left are better; the line is the front</figcaption></figure>"
        )


def _table(rows: Sequence[Row]) -> str:
    shown = [
        (name, kind)
        for name, kind in _HEADS
        if (name != "target ms" or any(row["npu_ms"] is not None for row in rows))
        and (name != "CPU ms" or any(row["cpu_ms"] is not None for row in rows))
    ]
    return _framed(shown, (_line(at, row, shown) for at, row in enumerate(rows)))


def _line(at: int, row: Row, shown: Sequence[tuple[str, str]]) -> str:
    start = f'<td class="text">{at + 1}</td><td class="text">{_escape(title(row))}</td>'
    if row["error"]:
        return f'<tr>{start}<td class="error" colspan="{len(shown) - 2}">{_escape(row["error"])}</td></tr>'
    cells = {
        "bytes": f"{row['bytes']:,}",
        "gzip": f"{row['gzip_bytes']:,}",
        "zeros": _percent(row["zeros"]),
        "agreement": _percent(row["estimated_agreement"]),
        "loss": f"{row['loss']:.4f}",
        "target ms": _milliseconds(row["npu_ms"]),
        "CPU ms": _milliseconds(row["cpu_ms"]),
        "files": _links(row),
    }
    marks = " ".join(name for name, holds in (("on", row["front"]), ("best", row["recommended"])) if holds)
    rest = "".join(f'<td class="{kind}">{cells[name]}</td>' for name, kind in shown[2:])
    return f'<tr class="{marks}">{start}{rest}</tr>'


def _links(row: Row) -> str:
    names = {"file": row["file"], "report": row["report"], "recipe": row["recipe_file"]}
    return " ".join(f'<a href="{_escape(path)}">{text}</a>' for text, path in names.items())


def _percent(part: Any) -> str:
    return "" if part is None else f"{100 * part:.1f} %"


def _milliseconds(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"
