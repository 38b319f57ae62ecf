"""What `diagnose` found: a ranking of a network's quantizers by what they cost, advice, and rules that follow it."""

import dataclasses
import glob
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfdatafree.recipe.rules import Rule

# Rows that are printed before the others are only counted.
_SHOWN = 15
_SLOW = "(16 bits are for devices that have them: LiteRT's convolutions of 16 bits on a CPU are slow, so measure there)"
# A tensor is said to have uneven channels from here on.
_UNEVEN = 8.0
# Advice is given for quantizers that carry at least this part of the squared error of all.
_MATTERS = 0.03


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One quantizer, switched on alone.

    Attributes:
        kind: "weights" of a layer; the rounding of "values" of a tensor that it writes; the "range" that clips them.
        name: Of the layer, or of the tensor as in `Report.layers`.
        layer: Keras layer to name in a rule; None for a model input.
        operation: Keras classes that the file computes as one.
        bits: Of its integers.
        error: ||y - y0|| / ||y0|| of the model's results, before softmax and the like.
        output_discrepancy: The same by direction, 0 to 2; Sobolev et al., FRanDI, eq. 3.
        agreement: Share of inputs with the same argmax; None where there is none.
        part: Of the sum of all suspects' squared errors, 0 to 1.
        remedy: Settings of a rule that would help: {"activation_bits": 16}; {} where none would.
        advice: In words.
    """

    kind: Literal["weights", "values", "range"]
    name: str
    layer: str | None
    operation: str
    bits: int
    error: float
    output_discrepancy: float
    agreement: float | None
    part: float
    remedy: dict = field(default_factory=dict)
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `tfdatafree.diagnose` returns. `print` it.

    Attributes:
        model, recipe: Names of the model and of the recipe.
        suspects: Every quantizer, the most damaging first.
        error, output_discrepancy, agreement: As in a Suspect, for all quantizers together.
        dead, caps: Layer -> what BatchNorm statistics tell about its channels. `dead`: that some carry nothing. `caps`: how
            often the cap of a ReLU6 or the like is reached.
        images: Number of inputs that the damage was measured on.
        inputs: What these inputs were.
        seconds: Duration of the diagnosis.
        given: Layer -> the rule that the recipe already has for it.
    """

    model: str
    recipe: str
    suspects: tuple[Suspect, ...]
    error: float
    output_discrepancy: float
    agreement: float | None
    dead: dict[str, str]
    caps: dict[str, str]
    images: int
    inputs: str
    seconds: float
    given: dict[str, Rule] = field(default_factory=dict)

    def rules(self, count: int = 1) -> tuple[Rule, ...]:
        """Rules that follow the advice about the `count` worst suspects that a rule can help, to put before the others.

        A layer's settings by rules of the recipe are kept, as only the first rule that matches it is asked.

        Raises:
            ValueError: `count` is no positive whole number.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"count is {count!r}; give the number of suspects to help, at least 1.")
        settings: dict[str, dict] = {}
        helped = [suspect for suspect in self.suspects if suspect.remedy and suspect.layer is not None][:count]
        for suspect in helped:
            former = self.given[suspect.layer].settings if suspect.layer in self.given else {}
            settings[suspect.layer] = {**former, **settings.get(suspect.layer, {}), **suspect.remedy}
        for options in settings.values():
            if options.get("keep_float"):
                options.pop("weight_bits", None)
                options.pop("activation_bits", None)
        return tuple(Rule(glob.escape(layer), **options) for layer, options in settings.items())

    def to_dict(self) -> dict:
        """Plain values."""
        values = dataclasses.asdict(self)
        values["suspects"] = list(values["suspects"])
        values["given"] = {layer: {"pattern": rule.pattern, **rule.settings} for layer, rule in self.given.items()}
        return values

    def __str__(self) -> str:
        lines = [f"{self.model}: recipe {self.recipe}, one quantizer at a time", "", *_aligned(self._facts())]
        rows = [_HEADS, *map(_cells, self.suspects[:_SHOWN])]
        widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADS))]
        lines.append("")
        for row in rows:
            cells = [
                text.ljust(width) if at < 3 else text.rjust(width)
                for at, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        rest = self.suspects[_SHOWN:]
        if rest:
            lines.append(f"  and {len(rest)} more, {100 * sum(suspect.part for suspect in rest):.0f} % together")
        for title, texts in self._sections():
            lines += ["", f"{title}:", *(f"  {text}" for text in texts)]
        return "\n".join(lines)

    def _facts(self) -> list[tuple[str, str]]:
        same = "" if self.agreement is None else f", {100 * self.agreement:.1f} % have the same argmax"
        return [
            ("together", f"error {self.error:.4f}, discrepancy {self.output_discrepancy:.4f}{same}"),
            ("on", f"{self.images} {self.inputs}"),
            ("time", f"{self.seconds:.1f} s"),
        ]

    def _sections(self) -> list[tuple[str, list[str]]]:
        advice = [f"{suspect.name}: {suspect.advice}" for suspect in self.suspects if suspect.advice]
        if any("activation_bits" in suspect.remedy for suspect in self.suspects):
            advice.append(_SLOW)
        dead = [f"{name}: {text}" for name, text in self.dead.items()]
        title = "Dead channels (Prune(method='channel') takes channels out)"
        return [(title, texts) for title, texts in (("Advice", advice), (title, dead)) if texts]

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        style = 'style="padding:2px 10px;text-align:left;white-space:nowrap"'
        lines = [f"<p><b>{html.escape(self.model)}</b>, recipe {html.escape(self.recipe)}, one quantizer at a time</p>"]
        facts = "".join(
            f"<tr><th {style}>{name}</th><td {style}>{html.escape(text)}</td></tr>" for name, text in self._facts()
        )
        heads = "".join(f"<th {style}>{head}</th>" for head in _HEADS)
        rows = "".join(
            f"<tr>{''.join(f'<td {style}>{html.escape(text)}</td>' for text in _cells(suspect))}</tr>"
            for suspect in self.suspects
        )
        lines += [
            f"<table>{facts}</table>",
            f'<div style="max-height:24em;overflow:auto"><table><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>",
        ]
        for title, texts in self._sections():
            items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
            lines.append(f"<details open><summary>{title} ({len(texts)})</summary><ul>{items}</ul></details>")
        return "\n".join(lines)


_HEADS = ("what", "name", "operation", "bits", "error", "discrepancy", "argmax", "part")


def _cells(suspect: Suspect) -> tuple[str, ...]:
    return (
        suspect.kind,
        suspect.name,
        suspect.operation,
        str(suspect.bits),
        f"{suspect.error:.4f}",
        f"{suspect.output_discrepancy:.4f}",
        "" if suspect.agreement is None else f"{100 * suspect.agreement:.1f} %",
        f"{100 * suspect.part:.1f} %",
    )


def _aligned(facts: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in facts)
    return [f"  {name:<{width}}  {text}" for name, text in facts]


def advise(
    suspect: Suspect,
    *,
    clipped: float = 0.0,
    spread: float = 1.0,
    per_channel: bool = True,
    given_out: bool = False,
    wide: bool = True,
    cap: str | None = None,
    real: bool = False,
) -> Suspect:
    """`suspect` with its remedy and its advice; with neither where it carries next to nothing of the error.

    Args:
        clipped, spread: Of its tensor, see `damage.Damage`.
        per_channel: Whether kernels have one step per output channel.
        given_out: Whether the file gives it out with 8 bits.
        wide: Whether the operators around it have kernels of 16 bits on the target.
        cap: How often its cap is reached.
        real: Whether the inputs are real ones.
    """
    if suspect.part < _MATTERS:
        return suspect
    remedy: dict = {}
    if suspect.kind == "weights" and suspect.bits < 8:
        remedy, words = {"weight_bits": 8}, ["raise its weight bits: {}"]
    elif suspect.kind == "weights":
        remedy, words = {"keep_float": True}, ["keep it in float: {}"]
        if not per_channel:
            words.append("one step per channel would help every layer: per_channel=True")
    elif suspect.bits >= 16:
        words = []
    elif suspect.layer is None:
        words = [f"the input itself has {suspect.bits} bits; a narrower input_range, if it is true, is all there is"]
    elif not wide:
        words = ["what writes or reads it has no 16-bit kernels there; keep all of that in float"]
    elif given_out:
        finer = _rule_text(suspect.layer, {"activation_bits": 16})
        words = [f"the file gives it out with 8 bits; Quantize(edge_dtype='float32') and {finer} would give more"]
    else:
        remedy, words = {"activation_bits": 16}, ["raise activation bits here: {}"]
    if suspect.kind == "range":
        words.insert(0, f"its range clips {100 * clipped:.2g} % of the values")
        if not real:
            remedy, words = (
                {},
                [words[0], "generated inputs are often wilder than real ones: a few of those would tell"],
            )
    else:
        if spread > _UNEVEN:
            words.append(
                f"its widest channel is {spread:.0f} times as wide as the usual one, which has few integers left: "
                "equalize=True may even them out"
            )
        if cap is not None:
            words.append(cap)
    advice = "; ".join(words).replace("{}", _rule_text(suspect.layer, remedy), 1)
    return dataclasses.replace(suspect, remedy=remedy, advice=advice)


def _rule_text(layer: str | None, settings: dict) -> str:
    return f"Rule({', '.join([repr(layer), *(f'{name}={value!r}' for name, value in settings.items())])})"
