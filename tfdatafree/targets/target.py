"""What a device or a runtime takes of a file, and which document says so.

A profile lists the operators that the device computes itself, and what it asks of them. `fit.py` settles what is decided
before a file exists (types, one weight step per tensor or per channel); `check.py` looks at the finished file. An operator
that breaks a rule runs on the CPU beside the device, or, where there is none, makes the file useless (`Target.needs_all`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a rule is written.

    Attributes:
        document: Its name, and its version where it has one.
        section: Where in it; "" for all of it.
        url: Where to read it.
    """

    document: str
    section: str = ""
    url: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.document, self.section)))


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Something that a target asks of an operator besides knowing it.

    Attributes:
        operators: The operators that it is about; empty for every one.
        fact: What is looked at, by its name in `targets.check.FACTS`.
        low, high: Numbers between which it must lie; None for no limit on that side.
        one_of: What it must be one of; empty for no such limit.
        where: Other facts that must hold for the limit to count.
        reason: What is said of an operator that breaks it: {value} is what was found, {high} and {one_of} the limit.
        mend: What can be done about it.
        source: The document.
    """

    operators: tuple[str, ...] = ()
    fact: str
    low: float | None = None
    high: float | None = None
    one_of: tuple = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    reason: str
    mend: str = ""
    source: Source


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a device or a runtime takes.

    Attributes:
        name: As given to `compress(target=)`.
        title: As people call it.
        operators: TFLite operators that it computes itself; None for all that TFLite has.
        limits: What it asks of them.
        activation_bits: Widths of activations that it computes with.
        edge_dtypes: Types that the file's inputs and outputs may have.
        float_files: Whether it computes files without integers ("float32"), and with float16 weights ("float16").
        dense_per_channel: Whether dense layers may have one weight step per output.
        int4_weights: Whether weights may be stored two to a byte.
        input_grid: Operators whose output must have the grid of their input, although TFLite lets it be another.
        pooled_slices: Whether slices that take every k-th pixel are to be written as poolings, which it does compute.
        one_piece: Whether it computes only what stands ahead of the first operator that it does not take.
        needs_all: Whether a file with an operator that it does not compute is useless there.
        elsewhere: What computes the operators that it does not take.
        accelerator: Vela's --accelerator-config; None where Vela does not compile for it.
        macs: Numbers of multipliers that it can be had with; one of them may follow the name: "ethos-u55-256".
        sources: Where `operators` and each of the other fields come from: field name -> document.
    """

    name: str
    title: str
    operators: frozenset[str] | None = None
    limits: tuple[Limit, ...] = ()
    activation_bits: tuple[int, ...] = (8, 16)
    edge_dtypes: tuple[str, ...] = ("int8", "uint8", "int16", "float32")
    float_files: tuple[str, ...] = ()
    dense_per_channel: bool = True
    int4_weights: bool = False
    input_grid: tuple[str, ...] = ()
    pooled_slices: bool = False
    one_piece: bool = False
    needs_all: bool = False
    elsewhere: str = "the CPU"
    accelerator: str | None = None
    macs: tuple[int, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TargetCheck:
    """How much of a file a target computes.

    Attributes:
        target: Name of the profile.
        title: As people call the device.
        operators: Operators of the file.
        refused: Operator and the tensor it writes -> why the target does not compute it, and what to do.
        before: Operators ahead of the first refused one.
        one_piece: Whether it computes only these.
        elsewhere: What computes those that the target refuses.
        by: Who says so: the profile, or the device's own compiler.
        trouble: What went wrong when that was asked; "" if nothing did.
    """

    target: str
    title: str
    operators: int
    refused: dict[str, str] = field(default_factory=dict)
    before: int = 0
    one_piece: bool = False
    elsewhere: str = "the CPU"
    by: str = "its profile"
    trouble: str = ""

    @property
    def accepted(self) -> int:
        """Operators that the target computes itself."""
        return self.before if self.refused and self.one_piece else self.operators - len(self.refused)

    @property
    def share(self) -> float:
        """Their share, 0 to 1; 1 for a file without operators."""
        return self.accepted / self.operators if self.operators else 1.0

    def __str__(self) -> str:
        """One line."""
        # Rounded down: 100 % is said only where nothing is left over.
        share = f"{self.accepted} of {self.operators} operators ({int(100 * self.share)} %)"
        rest = f"; the others run on {self.elsewhere}" if self.refused else ""
        trouble = f"; but {self.trouble}" if self.trouble else ""
        return f"{self.title} computes {share}, says {self.by}{rest}{trouble}"


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUANTIZATION_SPEC = Source(
    document="TensorFlow Lite 8-bit quantization specification",
    section="Int8 quantized operator specifications",
    url="https://www.tensorflow.org/lite/performance/quantization_spec",
)
