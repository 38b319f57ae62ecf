"""What compression did to each layer: a page of text for people, plain values for machines."""

import math
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One tensor of the file.

    Attributes:
        name: Graph tensor, named after the Keras layer that wrote it.
        operation: Keras class that wrote it, "Conv2D + ReLU" where the file fuses two.
        weight_bits: None for layers without weights.
        weight_scales: Number of weight steps: 1 per tensor, or one per channel.
        activation_bits: Bits of the tensor's integers.
        low, high: Reals that the integers reach.
        sqnr_db: Signal over quantization noise against the float model, all earlier layers' noise included.
        lsb: Largest difference between file and simulation, in steps, given equal inputs.
    """

    name: str
    operation: str
    weight_bits: int | None
    weight_scales: int | None
    activation_bits: int
    low: float
    high: float
    sqnr_db: float
    lsb: int


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Zeros among the weights of convolution and dense kernels; for the method "channel" weights that are gone.

    Attributes:
        method: The method taken.
        sparsity: Part of all these weights that is zero, or gone.
        layers: The same by layer.
        discrepancies: What "auto" tried -> Output Discrepancy against the float model on generated inputs.
    """

    method: str
    sparsity: float
    layers: dict[str, float]
    discrepancies: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The honest page about one compression. `print` it, or take `to_dict`.

    Attributes:
        float_bytes: The model's weights in float32.
        bytes, gzip_bytes: The file, as it is and as gzip packs it: zeros take no less space in the file itself.
        zeros: Part of the weights of the file's kernels that is zero.
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
    gzip_bytes: int
    zeros: float
    layers: tuple[LayerRow, ...] = ()
    kept: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    pruning: Pruning | None = None

    def to_dict(self) -> dict:
        """JSON-ready values; an infinite SQNR (no noise at all) is None."""
        values = asdict(self)
        for row in values["layers"]:
            row["sqnr_db"] = row["sqnr_db"] if math.isfinite(row["sqnr_db"]) else None
        values["layers"] = list(values["layers"])
        return values

    def __str__(self) -> str:
        lines = [f"{self.model}: recipe {self.recipe}", ""]
        ratio = self.float_bytes / max(self.bytes, 1)
        lines += [
            f"  size        {self.float_bytes:,} bytes in float -> {self.bytes:,} bytes ({ratio:.2f}x smaller)",
            f"  packed      {self.gzip_bytes:,} bytes with gzip; {100 * self.zeros:.1f} % of the kernels' weights are zero",
            f"  operators   {self._operators()}",
            f"  input range {self.input_range}",
            f"  made from   {self.generated}",
            f"  time        {self.seconds:.1f} s",
        ]
        if self.pruning is not None:
            part = f"{100 * self.pruning.sparsity:.1f} % of the weights"
            removed = self.pruning.method == "channel"
            lines += [
                f"  removed     {part}, as channels" if removed else f"  zeros       {part}, by {self.pruning.method}"
            ]
        if self.layers:
            lines += ["", *self._table()]
        if self.pruning is not None:
            lines += ["", "Removed by layer:" if self.pruning.method == "channel" else "Zeros by layer:"]
            lines += [f"  {name}: {100 * part:.1f} %" for name, part in self.pruning.layers.items()]
        for title, reasons in (("Left as it was", self.kept), ("Notes", self.notes)):
            if reasons:
                lines += ["", f"{title}:", *(f"  {name}: {reason}" for name, reason in reasons.items())]
        return "\n".join(lines)

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
            f"  {'layer':<{width}}  {'operation':<{kind}}  weights     act.  {'range':>21}  SQNR dB",
        ]
        for row in self.layers:
            weights = "" if row.weight_bits is None else f"{row.weight_bits} bit x{row.weight_scales}"
            name, operation = f"{row.name:<{width}}", f"{row.operation:<{kind}}"
            span = f"[{row.low:.4g}, {row.high:.4g}]"
            sqnr = "exact" if math.isinf(row.sqnr_db) else f"{row.sqnr_db:.1f}"
            lines.append(f"  {name}  {operation}  {weights:<10}  {row.activation_bits:>4}  {span:>21}  {sqnr:>7}")
        return lines
