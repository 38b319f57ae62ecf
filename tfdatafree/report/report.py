"""The report: what compression did to each layer, as text for people and as plain values for programs."""

import dataclasses
import html
import importlib.util
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tfdatafree.errors import MissingPackageError
from tfdatafree.model.network import Mismatch, Pruning
from tfdatafree.pruning.bearing import stays, verdict
from tfdatafree.quantization.bit_choice import Policy
from tfdatafree.recipe.size import is_part
from tfdatafree.report.layer_row import LayerRow
from tfdatafree.report.outputs import OutputComparison
from tfdatafree.report.verdict import Verdict, grade_of, judge
from tfdatafree.runtimes.latency import Latency
from tfdatafree.targets.target import TargetCheck

# A tensor below is far off.
_BROKEN_SQNR_DB = 10.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of one compression. `print` it, or use `to_dict`.

    Attributes:
        model, recipe: Names of the model and of the recipe.
        input_range: Range of the model's input, and where it comes from; a line per input where there are several.
        generated: What the result was made from: generated or given inputs.
        float_bytes: Bytes of the model's weights in float32.
        bytes: Bytes of the file; 0 without a file.
        seconds: Duration of the compression.
        integer_only: Whether the file computes in integers only.
        requantized: Number of QUANTIZE operators that convert integers to another grid.
        simulated: Why there is no file; None if there is one.
        zeros: Fraction of the weights in the file's kernels that is zero; None if it was not counted.
        layers: One row per tensor of the file, in order.
        kept: Layer -> why it was not changed.
        notes: Subject -> what else the user should know about it.
        pruning: What pruning did; None without pruning.
        policy: The bits that a search chose; None without a search.
        float_gzip_bytes, gzip_bytes: Bytes of the float weights, and of the file, after gzip. Zeros only save space there.
        npu_bytes: Bytes of the file compiled for an NPU; None if it was not compiled.
        npu_seconds: Time of one inference that the compiler estimates; None if it does not.
        on_target: How much of the file its target computes; None for the target "generic".
        latencies: How long the file and others of the same model take on the CPU that made it; empty unless asked for.
        outputs: Comparison of each output with the user's float model.
        compared: Number of generated (or representative) inputs of this comparison.
        before_recovery: The same comparison before weights were recovered; () if none were.
        input_fit: How far generated inputs miss the statistics of BatchNorms; None for real inputs and without BatchNorms.
        input_warning: What is wrong with the input range, in a line per input; empty: nothing that could be seen.
        uneven: What is wrong with tensors that hold branches, or channels, of very different ranges; one sentence each.
        decoding: Output of the model that the file gives out in branches -> NumPy expression that joins them. `y` holds the
            file's outputs, dequantized, by name.
        call: Arguments of `compress` besides the recipe that decided the result, as plain values.
        command: The command line that asked for it, if one did.
        made_with: Versions and number of cores. Others may sum in another order, and change single integers.
    """

    model: str
    recipe: str
    input_range: str
    generated: str
    float_bytes: int
    bytes: int
    seconds: float
    integer_only: bool
    requantized: int
    simulated: str | None = None
    zeros: float | None = None
    layers: tuple[LayerRow, ...] = ()
    kept: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    pruning: Pruning | None = None
    policy: Policy | None = None
    float_gzip_bytes: int = 0
    gzip_bytes: int = 0
    npu_bytes: int | None = None
    npu_seconds: float | None = None
    on_target: TargetCheck | None = None
    latencies: tuple[Latency, ...] = ()
    outputs: tuple[OutputComparison, ...] = ()
    compared: int = 0
    before_recovery: tuple[OutputComparison, ...] = ()
    input_fit: Mismatch | None = None
    input_warning: str = ""
    uneven: tuple[str, ...] = ()
    decoding: dict[str, str] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    made_with: str = ""

    def to_dict(self) -> dict:
        """Values for JSON. An infinite SQNR, without any noise, is None."""
        values = asdict(self)
        outputs = [*values["outputs"], *values["before_recovery"]]
        parts = [part for output in outputs for part in output["parts"]]
        fidelity = [] if self.pruning is None or self.pruning.fidelity is None else [values["pruning"]["fidelity"]]
        for row in (*values["layers"], *outputs, *parts, *fidelity):
            row["sqnr_db"] = row["sqnr_db"] if math.isfinite(row["sqnr_db"]) else None
        values["layers"] = list(values["layers"])
        values["verdict"] = None if self.verdict is None else asdict(self.verdict)
        return values

    def to_frame(self) -> Any:
        """`layers` as a pandas.DataFrame, one row per tensor of the file.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise MissingPackageError(
                "Report.to_frame() makes a pandas.DataFrame, and pandas is not installed: pip install pandas; or use "
                "to_dict()['layers'], which does not need it."
            )
        import pandas

        columns = [field.name for field in dataclasses.fields(LayerRow)]
        return pandas.DataFrame([asdict(row) for row in self.layers], columns=columns)

    def __str__(self) -> str:
        failures = self.failures
        lines, others = (
            [f"WARNING: {text}" for text in failures],
            [text for text in self.warnings if text not in failures],
        )
        lines += [f"{self.model}: recipe {self.recipe}", *(f"  WARNING     {text}" for text in others), ""]
        lines += [
            *([] if self.verdict is None else [f"  verdict     {self.verdict}"]),
            f"  size        {self.float_bytes:,} bytes in float -> {self._size()}",
            *([] if self.zeros is None else [f"  packed      {self._packed(self.zeros)}"]),
            f"  operators   {self._operators()}",
            *([] if self.on_target is None else [f"  target      {self.on_target}"]),
            *([] if self.npu_bytes is None else [f"  compiled    {self._compiled(self.npu_bytes)}"]),
            *(f"  latency     {line}" for line in self.speed()),
            *(f"  input range {line}" for line in self.input_range.splitlines()),
            *([] if self.input_fit is None else [f"  inputs fit  {self.input_fit}"]),
            f"  made from   {self.generated}",
            f"  time        {self.seconds:.1f} s",
            *([] if self.recovered_by is None else [f"  recovered   by {self.recovered_by}; {self._gain()}"]),
            *(f"  output      {line}" for line in self.fidelity()),
        ]
        if self.policy is not None:
            lines += [f"  bits        {self._bits(self.policy)}"]
        if self.pruning is not None:
            part = f"{100 * self.pruning.sparsity:.1f} % of the weights"
            removed = self.pruning.method == "channel"
            part = f"removed     {part}, as channels" if removed else f"zeros       {part}, by {self.pruning.method}"
            lines += ["; ".join(filter(None, (f"  {part}", stays(self.pruning))))]
        if self.layers:
            lines += ["", *self._table()]
        if self.pruning is not None:
            lines += ["", "Removed by layer:" if self.pruning.method == "channel" else "Zeros by layer:"]
            lines += [f"  {name}: {100 * part:.1f} %" for name, part in self.pruning.layers.items()]
        for title, reasons in self._reasons():
            if reasons:
                lines += ["", f"{title}:", *(f"  {name}: {reason}" for name, reason in reasons.items())]
        return "\n".join(lines)

    @property
    def verdict(self) -> Verdict | None:
        """How good the result is, in words and one figure; None if nothing was compared."""
        return judge(self.outputs, self.layers)

    @property
    def unborne(self) -> str:
        """That the network does not bear its pruning, and what it would bear; empty: it does."""
        return "" if self.pruning is None else verdict(self.model, self.pruning)

    @property
    def warnings(self) -> list[str]:
        """What makes the result useless, or may: what `failures` lists, an input range in doubt, and branches, or channels, that
        lose their values on the grid of a wider one.
        """
        return [*filter(None, [self.unborne]), *self.input_warning.splitlines(), *self.uneven, *self.unlike]

    @property
    def failures(self) -> list[str]:
        """What makes the result useless: a pruning that was too much, outputs unlike the float model's. Empty: nothing."""
        return [*filter(None, [self.unborne]), *self.unlike]

    @property
    def recovered_by(self) -> str | None:
        """Name of the method that recovered weights; None if none were recovered."""
        methods = ("distillation", "feature regression", "reconstruction")
        return next((how for how in methods if how in self.notes and self.before_recovery), None)

    @property
    def unlike(self) -> list[str]:
        """The outputs that are unlike the float model's, and the first layer that is far off.

        An output with classes is unlike if it keeps fewer than 80 % of its decisions on real inputs, as estimated. Any other one
        is if its SQNR, or that of one of its parts, is under 6 dB. What pruning costs is judged before anything is written.
        """
        found: list[str] = []
        fidelity = None if self.pruning is None else self.pruning.fidelity
        if fidelity is not None and fidelity.fails:
            return found
        for output in self.outputs:
            if grade_of(output) != "broken":
                continue
            worst = output if output.expected is not None else output.worst
            name = f"output '{output.name}'" if worst is output else f"'{worst.name}' in output '{output.name}'"
            found_by = f"{worst.sqnr_db:.1f} dB on {self.compared_on}"
            if output.expected is not None:
                found_by = f"agreement is {output.expected}"
            text = f"{name} is unlike the float model's: {found_by}"
            first = next((row.name for row in self.layers if row.sqnr_db < _BROKEN_SQNR_DB), None)
            if first is not None:
                text += f"; the first tensor that is far off is '{first}'"
            found.append(text)
        return found

    @property
    def compared_on(self) -> str:
        """The inputs that `outputs` were measured on."""
        return f"{self.compared} {'given' if self.call.get('representative_data') else 'generated'} inputs"

    def speed(self) -> list[str]:
        """One line per file that was timed."""
        lines = [f"{1e3 * latency.seconds:.3g} ms, {latency.file}" for latency in self.latencies]
        for at, latency in enumerate(self.latencies[1:], start=1):
            lines[at] += f": {latency.ratio:.3g} times as long (quartiles {latency.low:.3g} to {latency.high:.3g})"
        return lines

    def fidelity(self) -> list[str]:
        """One line per output, and per part of one, which compares it with the float model's."""
        lines = []
        for output in self.outputs:
            name = f"'{output.name}': " if len(self.outputs) > 1 else ""
            same = "" if output.agreement is None else f"; {_same_argmax(output)}"
            response = output.response_discrepancy
            responses = "" if response is None else f", of responses {response:.4f},"
            text = f"{output.output_discrepancy:.4f}{responses} on {self.compared_on} (0 best, 2 worst)"
            lines.append(f"{name}discrepancy {text}{same}")
            for part in output.parts:
                same = "" if part.agreement is None else f"; {_same_argmax(part)}"
                sqnr = "exact" if math.isinf(part.sqnr_db) else f"SQNR {part.sqnr_db:.1f} dB"
                lines.append(f"  '{part.name}' in '{output.name}': {sqnr}{same}")
        return lines

    def _reasons(self) -> tuple[tuple[str, dict[str, str]], ...]:
        """Titles of the lists at the end, each with its list."""
        off_target = {} if self.on_target is None else self.on_target.refused
        joined = ("Outputs in branches, joined by (y: the file's outputs by name, dequantized)", self.decoding)
        return joined, ("Not on the target", off_target), ("Not changed", self.kept), ("Notes", self.notes)

    def _size(self) -> str:
        if self.simulated:
            return f"simulated only, no file: {self.simulated}"
        return f"{self.bytes:,} bytes ({self.float_bytes / max(self.bytes, 1):.2f}x smaller)"

    def _bits(self, policy: Policy) -> str:
        counts = {bits: list(policy.layers.values()).count(bits) for bits in sorted(set(policy.layers.values()))}
        layers = ", ".join(f"{count} layers in {bits}" for bits, count in counts.items())
        weights = 100 * policy.weight_bytes / max(policy.int8_weight_bytes, 1)
        requested = f"{100 * policy.size:g} %" if is_part(policy.size) else f"{policy.size:,.0f} bytes"
        if self.bytes > policy.budget:
            return f"{layers}; {weights:.1f} % of the weights' bits in int8, stored with a byte per weight"
        return (
            f"{layers}; {100 * self.bytes / policy.int8_bytes:.1f} % of the {policy.int8_bytes:,} bytes in int8 "
            f"({requested} requested), {weights:.1f} % of its weights' bytes"
        )

    def _packed(self, zeros: float) -> str:
        return f"{self.gzip_bytes:,} bytes with gzip; {100 * zeros:.1f} % of the kernels' weights are zero"

    def _gain(self) -> str:
        """What recovery changed: the figure of the verdict, and the discrepancy of each output."""
        pairs = list(zip(self.before_recovery, self.outputs, strict=True))
        text = "discrepancy " + ", ".join(f"{a.output_discrepancy:.4f} -> {b.output_discrepancy:.4f}" for a, b in pairs)
        before = judge(self.before_recovery)
        return text if before is None else f"before, {before.figure}; {text}"

    def _compiled(self, size: int) -> str:
        time = "" if self.npu_seconds is None else f", {1000 * self.npu_seconds:.3g} ms estimated"
        return f"{size:,} bytes for the NPU{time}"

    def _operators(self) -> str:
        if not self.layers:
            return "float"
        kind = "integer only" if self.integer_only else "some in float (see below)"
        extra = f", {self.requantized} requantizations added" if self.requantized else ""
        return kind + extra

    def _table(self) -> list[str]:
        width = max(5, *(len(row.name) for row in self.layers))
        kind = max(9, *(len(row.operation) for row in self.layers))
        lines = [
            f"  {'layer':<{width}}  {'operation':<{kind}}  weights     act.  {'known by':<9}  {'range':>21}  SQNR dB",
        ]
        for row in self.layers:
            name, operation, weights, bits, known, span, sqnr = _texts(row)
            lines.append(
                f"  {name:<{width}}  {operation:<{kind}}  {weights:<10}  {bits:>4}  {known:<9}  {span:>21}  {sqnr:>7}"
            )
        return lines

    def _repr_html_(self) -> str:
        """The report for notebooks: a summary and a table that scrolls."""
        facts = [
            *([] if self.verdict is None else [("verdict", str(self.verdict))]),
            ("size", f"{self.float_bytes:,} bytes in float → {self._size()}"),
            ("operators", self._operators()),
            *([] if self.on_target is None else [("target", str(self.on_target))]),
            *(("output", line) for line in self.fidelity()),
            *([] if self.policy is None else [("bits", self._bits(self.policy))]),
            ("made from", self.generated),
            ("time", f"{self.seconds:.1f} s"),
        ]
        heads = ("layer", "operation", "weights", "act.", "known by", "range", "SQNR dB")
        cells = "padding:2px 10px;text-align:left;white-space:nowrap"
        lines = [f"<p><b>{html.escape(self.model)}</b>, recipe {html.escape(self.recipe)}</p>", "<table>"]
        for name, text in facts:
            lines.append(f'<tr><th style="{cells}">{name}</th><td style="{cells}">{html.escape(text)}</td></tr>')
        lines.append("</table>")
        if self.layers:
            lines += ['<div style="max-height:24em;overflow:auto"><table><thead><tr>']
            lines += [f'<th style="{cells}">{head}</th>' for head in heads]
            lines += ["</tr></thead><tbody>"]
            for row in self.layers:
                texts = "".join(f'<td style="{cells}">{html.escape(text)}</td>' for text in _texts(row))
                lines.append(f"<tr>{texts}</tr>")
            lines.append("</tbody></table></div>")
        for title, reasons in self._reasons():
            if reasons:
                items = "".join(
                    f"<li>{html.escape(name)}: {html.escape(reason)}</li>" for name, reason in reasons.items()
                )
                lines.append(f"<details><summary>{title} ({len(reasons)})</summary><ul>{items}</ul></details>")
        return "\n".join(lines)


def _same_argmax(output: OutputComparison) -> str:
    return "" if output.agreement is None else f"{100 * output.agreement:.1f} % of them keep the argmax"


def _texts(row: LayerRow) -> tuple[str, ...]:
    """The texts of the row's cells."""
    return (
        row.name,
        row.operation,
        "" if row.weight_bits is None else f"{row.weight_bits} bit x{row.weight_scales}",
        str(row.activation_bits),
        row.known_by,
        f"[{row.low:.4g}, {row.high:.4g}]",
        "exact" if math.isinf(row.sqnr_db) else f"{row.sqnr_db:.1f}",
    )
