"""The result of `diagnose`: a ranking of a network's quantizers by their damage, advice, and rules that follow it."""

import dataclasses
import glob
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfdatafree.recipe.rules import Rule

# Number of rows that are printed. The others are only counted.
_SHOWN = 15
_SLOW = (
    "(16 bits are for devices that support them; LiteRT's 16-bit convolutions on CPUs are slow, so measure the time)"
)
# From this spread on, the advice mentions uneven channels.
_UNEVEN = 8.0
# Quantizers with at least this part of the total squared error get advice.
_MATTERS = 0.03


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One quantizer, and its effect when no other is on.

    Attributes:
        kind: "weights": those of a layer. "values": rounding of a tensor. "range": clipping of a tensor.
        name: Name of the layer, or of the tensor as in `Report.layers`.
        layer: Keras layer to name in a rule; None for a model input.
        operation: Keras classes that the file computes as one operator.
        bits: Bits of its integers.
        error: ||y - y0|| / ||y0|| of the decision tensors, which are the results before a softmax.
        output_discrepancy: Difference of their directions, 0 to 2; Sobolev et al., FRanDI, eq. 3.
        agreement: Fraction of inputs with the same argmax; None without classes.
        part: Its part of the sum of all suspects' squared errors, 0 to 1.
        remedy: Settings of a rule that helps, such as {"activation_bits": 16}; {} if none does.
        advice: The same in words.
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
        dead, caps: Layer -> what BatchNorm statistics say about its channels. `dead`: some have no effect. `caps`: how often
            values reach the cap of a ReLU6 or a similar activation.
        images: Number of inputs that the damage was measured on.
        inputs: Kind of these inputs.
        seconds: Duration of the diagnosis.
        given: Layer -> the rule that the recipe has for it.
        errors: Result before a softmax, or a part of it (a branch that it joins, or channels of very different ranges) -> its
            error. `error` is the largest of results and branches.
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
    errors: dict[str, float] = field(default_factory=dict)

    def rules(self, count: int = 1) -> tuple[Rule, ...]:
        """Rules that follow the advice for the `count` worst suspects that a rule can help.

        Put them before the other rules of the recipe. Only the first rule that matches a layer counts, so these rules repeat
        the settings that the recipe has for the layer.

        Raises:
            ValueError: `count` is not a positive integer.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"count is {count!r}; give the number of suspects to help, at least 1.")
        settings: dict[str, dict] = {}
        helped = [
            (suspect.layer, suspect.remedy) for suspect in self.suspects if suspect.remedy and suspect.layer is not None
        ]
        for layer, remedy in helped[:count]:
            in_recipe = self.given[layer].settings if layer in self.given else {}
            settings[layer] = {**in_recipe, **settings.get(layer, {}), **remedy}
        for options in settings.values():
            if options.get("keep_float"):
                options.pop("weight_bits", None)
                options.pop("activation_bits", None)
        return tuple(Rule(glob.escape(layer), **options) for layer, options in settings.items())

    def to_dict(self) -> dict:
        """Values for JSON."""
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
            *((name, f"error {error:.4f}") for name, error in self.errors.items() if len(self.errors) > 1),
            ("on", f"{self.images} {self.inputs}"),
            ("time", f"{self.seconds:.1f} s"),
        ]

    def _sections(self) -> list[tuple[str, list[str]]]:
        advice = [f"{suspect.name}: {suspect.advice}" for suspect in self.suspects if suspect.advice]
        if any("activation_bits" in suspect.remedy for suspect in self.suspects):
            advice.append(_SLOW)
        dead = [f"{name}: {text}" for name, text in self.dead.items()]
        title = "Dead channels (Prune(method='channel') removes channels)"
        return [(title, texts) for title, texts in (("Advice", advice), (title, dead)) if texts]

    def _repr_html_(self) -> str:
        """The diagnosis for notebooks."""
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
    is_output: bool = False,
    has_16_bits: bool = True,
    cap: str | None = None,
    real_inputs: bool = False,
) -> Suspect:
    """Adds remedy and advice to `suspect`, unless its part of the error is very small.

    Args:
        clipped, spread: As in `quantizer_damage.Damage`, for its tensor.
        per_channel: Whether kernels have one scale per output channel, or the target does not take that.
        is_output: Whether it is an output of the file, which has 8 bits.
        has_16_bits: Whether the operators that write and read it have 16-bit kernels on the target.
        cap: How often its cap is reached.
        real_inputs: Whether damage was measured on real inputs.
    """
    if suspect.part < _MATTERS:
        return suspect
    remedy: dict = {}
    if suspect.kind == "weights" and suspect.bits < 8:
        remedy, words = {"weight_bits": 8}, ["raise its weight bits: {}"]
    elif suspect.kind == "weights":
        remedy, words = {"keep_float": True}, ["keep it in float: {}"]
        if not per_channel:
            words.append("one scale per channel would help every layer: per_channel=True")
    elif suspect.bits >= 16:
        words = []
    elif suspect.layer is None:
        words = [f"the input itself has {suspect.bits} bits; only a narrower input_range helps, if inputs stay in it"]
    elif not has_16_bits:
        words = [
            "the operators that write or read it have no 16-bit kernels on this target; keep these layers in float"
        ]
    elif is_output:
        rule = _rule_text(suspect.layer, {"activation_bits": 16})
        words = [f"it is an output with 8 bits; Quantize(edge_dtype='float32') and {rule} make it finer"]
    else:
        remedy, words = {"activation_bits": 16}, ["raise activation bits here: {}"]
    if suspect.kind == "range":
        words.insert(0, f"its range clips {100 * clipped:.2g} % of the values")
        if not real_inputs:
            remedy, words = (
                {},
                [words[0], "generated inputs often reach further than real ones: check with representative_data"],
            )
    else:
        if spread > _UNEVEN:
            words.append(
                f"its widest channel is {spread:.0f} times as wide as the usual one, so few integers are left for the "
                "others: equalize=True may even them out"
            )
        if cap is not None:
            words.append(cap)
    advice = "; ".join(words).replace("{}", _rule_text(suspect.layer, remedy), 1)
    return dataclasses.replace(suspect, remedy=remedy, advice=advice)


def _rule_text(layer: str | None, settings: dict) -> str:
    return f"Rule({', '.join([repr(layer), *(f'{name}={value!r}' for name, value in settings.items())])})"
