"""Profiles of devices and runtimes: what they compute of a file, and the document that says so.

A profile lists the operators that the device computes itself, and their limits. `fit.py` uses what is decided before a file
exists (types, one weight step per tensor or per channel); `check.py` checks the finished file. An operator that breaks a
limit runs on the CPU next to the device. Where there is no such CPU, the file is useless (`Target.needs_all`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Source:
    """The document that states a rule.

    Attributes:
        document: Name of the document, with its version if it has one.
        section: Section of the document; "" for all of it.
        url: Where to read it.
    """

    document: str
    section: str = ""
    url: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.document, self.section)))


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A condition under which a target computes an operator.

    Attributes:
        operators: Names of the operators that the limit is for; empty for all operators.
        fact: The fact that is limited, a name in `targets.check.FACTS`.
        low, high: Smallest and largest value of the fact; None for no limit on that side.
        one_of: Allowed values of the fact; empty for no such limit.
        where: Fact -> value that an operator must have for the limit to apply.
        reason: What a report says of an operator that breaks the limit. {value} stands for the fact, {high} and {one_of} for
            the limit.
        mend: What the user can do about it.
        source: The document that states the limit.
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

    def allows(self, value: Any) -> bool:
        """Whether the fact may have this value; for a tuple, whether it may have each of them."""
        if self.one_of:
            return all(v in self.one_of for v in value) if isinstance(value, tuple) else value in self.one_of
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, kw_only=True)
class VendorCompiler:
    """A vendor's compiler behind LiteRT's ahead-of-time API, `ai_edge_litert.aot`. See `targets.aot`.

    Attributes:
        vendor: Name of the vendor's module in `ai_edge_litert.aot.vendors`.
        packages: Python packages with the vendor's libraries. Any of them is enough.
        variable: Environment variable that names the folder of these libraries instead; "" for none.
        install: How to get them.
        chip: The chip to compile for, as the module's `SocModel` spells it; "" for none.
    """

    vendor: str
    packages: tuple[str, ...]
    variable: str = ""
    install: str
    chip: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device or a runtime, and what it computes.

    `TARGETS` holds the known ones by name. For a profile of your own, `Limit` and `Source` are in `tfdatafree.targets.target`.

    Attributes:
        name: Name for `compress(target=)`.
        title: Full name, for reports.
        operators: TFLite operators that it computes itself; None for all operators of TFLite.
        limits: Conditions under which it computes them.
        activation_bits: Bits of activations that it computes with.
        edge_dtypes: Types that the file's inputs and outputs may have.
        float_files: Kinds of float files that it computes: "float32", and "float16" for float16 weights.
        per_channel: Whether weights may have one step per output channel. Where False, they get one step per tensor, unless
            the recipe says otherwise.
        dense_per_channel: The same for dense layers. Where False for them alone, a recipe that says otherwise is refused.
        int4_weights: Whether weights may be stored two to a byte.
        input_grid: Operators whose output must have the grid of their input, although TFLite allows another.
        pooled_slices: Whether slices that take every k-th pixel are written as poolings, because it computes only these.
        one_piece: Whether it computes only the operators before the first one that it does not compute.
        all_or_none: Whether it computes nothing of a file that has an operator which it does not compute.
        needs_all: Whether a file is useless there if it has an operator that it does not compute.
        elsewhere: What computes the operators that it does not compute.
        accelerator: Vela's --accelerator-config; None if Vela does not compile for it.
        macs: Numbers of multipliers that it is made with. One of them may follow the name: "ethos-u55-256".
        vendor_compiler: The compiler for it in LiteRT's ahead-of-time API; None if there is none. One of its chips may follow
            the name: "qualcomm-sm8750".
        sources: Field name -> the document that states it.
    """

    name: str
    title: str
    operators: frozenset[str] | None = None
    limits: tuple[Limit, ...] = ()
    activation_bits: tuple[int, ...] = (8, 16)
    edge_dtypes: tuple[str, ...] = ("int8", "uint8", "int16", "float32")
    float_files: tuple[str, ...] = ()
    per_channel: bool = True
    dense_per_channel: bool = True
    int4_weights: bool = False
    input_grid: tuple[str, ...] = ()
    pooled_slices: bool = False
    one_piece: bool = False
    all_or_none: bool = False
    needs_all: bool = False
    elsewhere: str = "the CPU"
    accelerator: str | None = None
    macs: tuple[int, ...] = ()
    vendor_compiler: VendorCompiler | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)

    def computes_in_16_bits(self, operators: frozenset[str]) -> bool:
        """Whether it computes all these operators on 16-bit tensors, as far as its profile tells."""
        facts: dict[str, Any] = {"types": ("int16",), "input_type": "int16"}
        return (
            16 in self.activation_bits
            and (self.operators is None or operators <= self.operators)
            and all(
                limit.allows(facts[limit.fact])
                for limit in self.limits
                if limit.fact in facts and not limit.where and (not limit.operators or operators & {*limit.operators})
            )
        )


@dataclass(frozen=True, kw_only=True)
class TargetCheck:
    """How much of a file a target computes.

    Attributes:
        target: Name of the profile.
        title: Full name of the device.
        operators: Number of operators of the file.
        refused: Operator and the tensor it writes -> why the target does not compute it, and what to do.
        before: Number of operators before the first refused one.
        one_piece: Whether the target computes only these.
        all_or_none: Whether the target computes nothing if an operator is refused.
        partitions: Number of pieces into which the device's compiler cut what the target computes; None if none says so.
        elsewhere: What computes the refused operators.
        by: What the result comes from: the profile, or the device's own compiler.
        trouble: Why the compiler failed; "" if it did not.
    """

    target: str
    title: str
    operators: int
    refused: dict[str, str] = field(default_factory=dict)
    before: int = 0
    one_piece: bool = False
    all_or_none: bool = False
    partitions: int | None = None
    elsewhere: str = "the CPU"
    by: str = "its profile"
    trouble: str = ""

    @property
    def accepted(self) -> int:
        """Number of operators that the target computes itself."""
        if self.refused and self.all_or_none:
            return 0
        return self.before if self.refused and self.one_piece else self.operators - len(self.refused)

    @property
    def share(self) -> float:
        """Part of the operators that the target computes itself, 0 to 1; 1 for a file without operators."""
        return self.accepted / self.operators if self.operators else 1.0

    def __str__(self) -> str:
        """The result in one line."""
        # Rounded down, so that 100 % means all operators.
        share = f"{self.accepted} of {self.operators} operators ({int(100 * self.share)} %)"
        if self.partitions:
            share += f" in {self.partitions} piece{'s' if self.partitions > 1 else ''}"
        rest = f"; the others run on {self.elsewhere}" if self.refused else ""
        trouble = f"; but {self.trouble}" if self.trouble else ""
        return f"{self.title} computes {share}, says {self.by}{rest}{trouble}"


def names(text: str) -> frozenset[str]:
    """The words of `text`."""
    return frozenset(text.split())


QUANTIZATION_SPEC = Source(
    document="TensorFlow Lite 8-bit quantization specification",
    section="Int8 quantized operator specifications",
    url="https://www.tensorflow.org/lite/performance/quantization_spec",
)

# The operator that LiteRT's ahead-of-time compilers write in place of each piece that the NPU computes.
DISPATCHED = "CUSTOM DISPATCH_OP"


def litert_source(path: str, section: str = "") -> Source:
    """A file of LiteRT's vendor plugins; `path` is below litert/vendors."""
    return Source(
        document=f"LiteRT, {path.rsplit('/', 1)[-1]}",
        section=section,
        url=f"https://github.com/google-ai-edge/LiteRT/blob/main/litert/vendors/{path}",
    )
