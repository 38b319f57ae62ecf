"""The report as one HTML page that opens from disk.

The HTML has the numbers and texts; the script makes the page interactive. Names and reasons come from the model, so they are
escaped here, or reach the page as JSON that the script shows as text.
"""

import html
import json
import math
import urllib.parse
from collections.abc import Iterable, Mapping
from importlib import resources
from string import Template
from typing import Any

from tfdatafree.numerics.expected_agreement import ExpectedAgreement
from tfdatafree.pruning.bearing import stays
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.report import table
from tfdatafree.report.evidence import Evidence
from tfdatafree.report.pictures import data_uris
from tfdatafree.report.plots import empty_plots, for_script, library, palette, require_bokeh, shades
from tfdatafree.report.report import Report
from tfdatafree.report.reproduce import RECIPE_FILE, command_text, is_preset, python_text
from tfdatafree.version import __version__

# Images up to this side are enlarged without smoothing.
_TINY = 48
_GLOSSARY = (
    ("Cost", "Error of the results before softmax, as a part of their own size, that the rounding of one tensor and its weights "
     "causes while all others stay in float. The squares of all rows add up to about the square of the whole error. A noisy "
     "tensor costs nothing if later layers ignore its noise, so look at its cost before its SQNR. It is estimated from the "
     "gradient on two inputs, and is uncertain by about a third. After recovery, only the rounding of values counts."),
    ("MACs", "Multiplications and additions of convolutions and dense layers, for one input."),
    ("SQNR", "Signal-to-quantization-noise ratio of a tensor: energy of its float values over the energy of the difference "
     "between integers and float. It includes the noise of all layers before it, and is measured on two of the generated "
     "inputs. At 20 dB the noise is a tenth of the amplitude; at 40 dB it is a hundredth."),
    ("Output discrepancy", "|| F/||F|| - F~/||F~|| || of the outputs F in float and F~ compressed, mean over the generated "
     "inputs: 0 is the same direction, 2 the opposite one."),
    ("Response discrepancy", "The same for the responses: the outputs without what all inputs have in common. It bounds the "
     "margins of the decisions that change."),
    ("Agreement", "Fraction of real inputs for which both models put the same class first. Without data it is estimated from the "
     "noise on the scores of generated inputs and from their margins. The interval held the true value for about 90 % of the "
     "files that it was tried on. tfdatafree compare --data counts it on inputs of your own."),
    ("Grid, scale", "Integers stand for evenly spaced values; the scale is their distance. Values outside of the range are "
     "clipped, and values between two of them are rounded."),
    ("Weights, integers", "A kernel has one scale, or one per output channel. If no weight uses the integers far from 0, fewer "
     "bits would do for this layer."),
    ("Zeros", "Weights that are exactly 0. They compress well, and some NPUs skip them."),
    ("gzip", "Compression of the file, as in a download or an APK."),
)  # fmt: skip


def report_page(report: Report, recipe: Recipe, evidence: Evidence) -> str:
    """The page's HTML.

    Raises:
        MissingPackageError: Bokeh, which draws the plots, is not installed.
    """
    require_bokeh()
    data: dict[str, Any] = {"layers": [], "palette": palette(), "shades": shades()}
    plots = network = ""
    if report.layers:
        data |= {"layers": list(table.script_data(report, evidence)), "plots": empty_plots()}
        # Bokeh is most of the page, so it comes last: the rest can be used before it is loaded.
        plots = f"<script>{library()}</script>\n<script>drawPlots();</script>"
        network = Template(_asset("network.html")).substitute(
            heads=table.heads(), rows=table.rows(report), csv=_download("layers.csv", "text/csv", table.as_csv(report))
        )
    return Template(_asset("page.html")).substitute(
        version=__version__,
        title=_escape(f"{report.model}: {report.recipe}"),
        css=_asset("page.css"),
        model=_escape(report.model),
        verdict=_verdict(report),
        lead=_lead(report),
        tiles="\n".join(_tiles(report)),
        facts=_facts(report),
        network=network,
        inputs=_inputs(report, evidence),
        kept=_kept(report),
        again=_again(report, recipe),
        glossary=_glossary(),
        data=for_script(data),
        script=_asset("page.js"),
        plots=plots,
    )


def _asset(name: str) -> str:
    return resources.files("tfdatafree.report").joinpath(name).read_text(encoding="utf-8")


def _escape(text: object) -> str:
    return html.escape(str(text))


def _verdict(report: Report) -> str:
    """The verdict in words and one figure, and what makes the result useless."""
    verdict, parts = (
        report.verdict,
        [f'<p class="failure" role="alert">{_escape(text)}</p>' for text in report.failures],
    )
    if verdict is not None:
        words = f"<b>{_escape(verdict.words)}</b> {_escape(verdict.figure)}"
        parts.insert(0, f'<p class="verdict {verdict.grade}">{words}</p>')
    return "".join(parts)


# Summary ------------------------------------------------------------------------------------------------------------------


def _lead(report: Report) -> str:
    recovered = "" if report.recovered_by is None else f", and recovered by {_escape(report.recovered_by)}"
    made = f"Compressed with the recipe <b>{_escape(report.recipe)}</b>, from {_escape(report.generated)}{recovered}."
    if report.simulated:
        return f"{made} It is a simulation only, without a file: {_escape(report.simulated)}."
    integers = "; it computes in integers only" if report.integer_only else ""
    if report.bytes >= report.float_bytes:
        return (
            f"{made} The file takes more bytes than the float weights, because it also describes the network{integers}."
        )
    times = f"<b>{report.float_bytes / report.bytes:.1f} times smaller</b>"
    return f"{made} The file is {times} than the weights in float{integers}."


def _tiles(report: Report) -> Iterable[str]:
    if not report.simulated:
        yield _size_tile("Size", report.float_bytes, report.bytes)
        if report.gzip_bytes:
            yield _size_tile("After gzip", report.float_gzip_bytes, report.gzip_bytes)
        if report.npu_bytes is not None:
            yield _size_tile("Compiled for the NPU", report.float_bytes, report.npu_bytes)
    if report.latencies:
        ours, *others = report.latencies
        small = "; ".join(f"{other.file}: {1e3 * other.seconds:.3g} ms" for other in others)
        yield _tile("Latency on this CPU", f"{1e3 * ours.seconds:.3g} ms", small)
    before = {output.name: output for output in report.before_recovery}
    for output in report.outputs:
        of = f" of {output.name}" if len(report.outputs) > 1 else ""
        former = before.get(output.name)
        if output.expected is not None:
            yield _agreement_tile(f"Agreement{of}", output.expected, None if former is None else former.expected)
        elif output.agreement is not None:
            small = f"same first class as float, on {report.compared_on}"
            yield _tile(f"Agreement{of}", f"{100 * output.agreement:.1f} %", small, output.agreement)
        small = f"0: same as float, 2: opposite; on {report.compared_on}"
        if former is not None:
            small = f"before recovery: {former.output_discrepancy:.4f}; {small}"
        yield _tile(f"Output discrepancy{of}", f"{output.output_discrepancy:.4f}", small)
        if output.response_discrepancy is not None:
            yield _tile(f"Response discrepancy{of}", f"{output.response_discrepancy:.4f}", small)
        for piece in output.parts:
            text = "exact" if math.isinf(piece.sqnr_db) else f"{piece.sqnr_db:.1f} dB"
            yield _tile(f"SQNR of {piece.name}", text, f"a part of {output.name}; on {report.compared_on}")
    if report.policy is not None:
        policy = report.policy
        narrow = sum(bits < 8 for bits in policy.layers.values())
        part = policy.weight_bytes / max(policy.int8_weight_bytes, 1)
        small = f"of the weights' bits in int8: {narrow} of {len(policy.layers)} layers have 4"
        yield _tile("Bits", f"{100 * part:.1f} %", small, part)
    if report.pruning is not None:
        part = report.pruning.sparsity
        small = "; ".join(filter(None, (f"of the weights, by {report.pruning.method}", stays(report.pruning))))
        yield _tile("Zeros", f"{100 * part:.1f} %", small, part)
    yield _tile("Time", f"{report.seconds:.1f} s", "for the whole compression")


def _tile(title: str, big: str, small: str, part: float | None = None) -> str:
    meter = "" if part is None else f'<div class="meter"><i style="width:{100 * part:.1f}%"></i></div>'
    return (
        f'<div class="tile"><h2>{_escape(title)}</h2><div class="big">{_escape(big)}</div>{meter}'
        f'<div class="small">{_escape(small)}</div></div>'
    )


def _agreement_tile(title: str, known: ExpectedAgreement, former: ExpectedAgreement | None) -> str:
    big = f"{100 * known.share:.1f} %" if known.measured else f"≈ {100 * known.share:.0f} %"
    small = str(known) if former is None else f"{known}; before recovery: {former}"
    return _tile(title, big, small, known.share)


def _size_tile(title: str, before: int, after: int) -> str:
    small = f"{after:,} bytes; float: {before:,}"
    return _tile(title, _size(after), small, min(1.0, after / max(before, 1)))


def _size(count: int) -> str:
    """Size with three digits, as in a phone's settings."""
    if count < 1000:
        return f"{count} bytes"
    unit, name = (1e3, "kB") if count < 999_500 else (1e6, "MB")
    return f"{count / unit:#.3g}".rstrip(".") + f" {name}" if count < 999.5 * unit else f"{count / unit:,.0f} {name}"


def _facts(report: Report) -> str:
    facts = [("Warning", _escape(text)) for text in report.warnings if text not in report.failures]
    facts += [("Input range", _escape(line)) for line in report.input_range.splitlines()]
    facts += [] if report.input_fit is None else [("Inputs fit", _escape(str(report.input_fit)))]
    if report.layers:
        kind = "integers only" if report.integer_only else "integers, some in float (below)"
        extra = f"; {report.requantized} requantizations added" if report.requantized else ""
        facts.append(("Operators", f"{kind}{extra}"))
        marks = table.costliest(report)
        facts.append(("Costs most", _links(report, marks) or "no layer costs the results 1 % or more"))
        facts.append(("Recovery", _recovery(report)))
    items = "".join(f"<dt>{title}</dt><dd>{text}</dd>" for title, text in facts)
    return f'<dl class="facts">{items}</dl>'


def _recovery(report: Report) -> str:
    """What recovery did, or how to ask for it."""
    if report.recovered_by is not None:
        return _escape(f"{report.recovered_by}: {report.notes.get(report.recovered_by, 'done')}")
    if "recovery" in report.notes:
        return _escape(report.notes["recovery"])
    return "none; <code>--recover=256</code> solves the layers again on generated images, and can win back accuracy"


def _links(report: Report, marks: Iterable[tuple[int, str]]) -> str:
    return " ".join(
        f'<button type="button" data-layer="{at}">{_escape(report.layers[at].name)} {text}</button>'
        for at, text in marks
    )


def _download(name: str, kind: str, text: str) -> str:
    """A link that saves `text` as a file. The page holds it, so that it needs no internet."""
    address = f"data:{kind};charset=utf-8,{urllib.parse.quote(text)}"
    return f'<a class="download" download="{name}" href="{address}">{name}</a>'


# The rest -----------------------------------------------------------------------------------------------------------------


def _inputs(report: Report, evidence: Evidence) -> str:
    if not evidence.inputs:
        return ""
    from_user = bool(report.call.get("representative_data"))
    hint = (
        "Some of the inputs that you gave. Ranges and corrections were measured on them. This page contains them."
        if from_user
        else "A procedure made them without data. Ranges and corrections were measured on them. They need not look like the "
        "training images."
    )
    parts = [f'<h2>{"Representative" if from_user else "Generated"} inputs</h2><p class="hint">{hint}</p>']
    for name, images in evidence.inputs.items():
        if len(evidence.inputs) > 1:
            parts.append(f"<h3>{_escape(name)}</h3>")
        tiny = ' class="tiny"' if max(images.shape[1:3]) <= _TINY else ""
        pictures = "".join(
            f'<img{tiny} alt="input {at + 1}" width="{images.shape[2]}" height="{images.shape[1]}" src="{uri}">'
            for at, uri in enumerate(data_uris(images))
        )
        parts.append(f'<div class="sheet">{pictures}</div>')
    return f'<section id="inputs">{"".join(parts)}</section>'


def _kept(report: Report) -> str:
    parts = []
    if not report.layers:
        parts.append("<p>The recipe leaves values and weights in float.</p>")
    elif report.integer_only:
        parts.append("<p>Nothing was kept in float: every operator computes in integers.</p>")
    if report.kept:
        parts.append(_reasons(report.kept))
    if report.on_target is not None:
        parts.append(f"<h3>Target</h3><p>{_escape(report.on_target)}.</p>{_reasons(report.on_target.refused)}")
    if report.notes:
        parts.append(f"<h3>Notes</h3>{_reasons(report.notes)}")
    return "".join(parts)


def _reasons(reasons: Mapping[str, str]) -> str:
    """Each reason once, with all names that it is about."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    items = []
    for reason, named in names.items():
        listed = f'<div class="names">{_escape(", ".join(named))}</div>'
        if len(named) > 8:
            listed = f"<details><summary>{len(named)} layers</summary>{listed}</details>"
        items.append(f"<li><b>{_escape(reason)}</b>{listed}</li>")
    return f'<ul class="reasons">{"".join(items)}</ul>'


def _again(report: Report, recipe: Recipe) -> str:
    command = command_text(recipe, report.call)
    parts = ["<h3>Python</h3>", _code(python_text(recipe, report.call)), "<h3>Command line</h3>"]
    if report.command:
        parts.append(_code(report.command))
    elif report.call.get("recovered"):
        parts.append(
            '<p class="hint">The command line recovers with other images (--recover); use Python for this model.</p>'
        )
    elif command is None:
        parts.append('<p class="hint">The command line only takes inputs from files; use Python for this model.</p>')
    else:
        parts.append(_code(command))
        if not is_preset(recipe):
            parts.append(f'<p class="hint">{RECIPE_FILE} holds the full recipe, which is shown below.</p>')
    record = json.dumps(recipe.to_dict(), indent=2)
    link = _download(RECIPE_FILE, "application/json", record)
    parts.append(f"<p>Save the full recipe: {link}</p>")
    parts.append(f"<details><summary>The full recipe</summary>{_code(record)}</details>")
    parts.append(
        '<p class="hint">The bytes are only equal with the same seed and recipe, the same versions and the same number of '
        "cores. Other versions may sum in another order, and change single integers.</p>"
    )
    if report.made_with:
        parts.append(f'<p class="hint">Made with {_escape(report.made_with)}.</p>')
    return "".join(parts)


def _code(text: str) -> str:
    return f'<div class="code"><pre>{_escape(text)}</pre></div>'


def _glossary() -> str:
    terms = "".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in _GLOSSARY)
    return f'<section id="glossary"><details><summary>Glossary</summary><dl>{terms}</dl></details></section>'
