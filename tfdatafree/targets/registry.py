"""All profiles by name."""

import dataclasses

from tfdatafree.recipe.check import require_name
from tfdatafree.targets.aot import chips
from tfdatafree.targets.edge_tpu import EDGE_TPU
from tfdatafree.targets.ethos_u import ETHOS_U55, ETHOS_U65, ETHOS_U85
from tfdatafree.targets.google_tensor import GOOGLE_TENSOR
from tfdatafree.targets.gpu import GPU
from tfdatafree.targets.hexagon import HEXAGON
from tfdatafree.targets.intel import INTEL
from tfdatafree.targets.mediatek import MEDIATEK
from tfdatafree.targets.nnapi import NNAPI
from tfdatafree.targets.qualcomm import QUALCOMM
from tfdatafree.targets.samsung import SAMSUNG
from tfdatafree.targets.stm32n6 import STM32N6
from tfdatafree.targets.target import QUANTIZATION_SPEC, Target
from tfdatafree.targets.tflite_micro import TFLITE_MICRO
from tfdatafree.targets.xnnpack import XNNPACK

GENERIC = Target(
    name="generic",
    title="any TensorFlow Lite or LiteRT runtime",
    float_files=("float32", "float16"),
    int4_weights=True,
    sources={"operators": QUANTIZATION_SPEC},
)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        GENERIC,
        ETHOS_U55,
        ETHOS_U65,
        ETHOS_U85,
        EDGE_TPU,
        NNAPI,
        HEXAGON,
        QUALCOMM,
        MEDIATEK,
        GOOGLE_TENSOR,
        SAMSUNG,
        INTEL,
        STM32N6,
        TFLITE_MICRO,
        XNNPACK,
        GPU,
    )
}


# What may follow the names of some targets.
NAMES_WITH_PARTS = "Also ethos-u55-256, qualcomm-sm8750 and the like."


def get_target(target: str | Target) -> Target:
    """The profile of that name, or the Target itself.

    The number of multipliers may follow the name of an Ethos-U, and a chip the name of a vendor of phone chips.

    Raises:
        ValueError: No profile has this name; suggests the most similar one, or lists what may follow it.
    """
    if isinstance(target, Target):
        return target
    base, _, part = str(target).rpartition("-")
    if target not in TARGETS and base in TARGETS:
        known = TARGETS[base]
        if known.macs and part.isdigit():
            return _with_macs(known, int(part))
        if known.vendor_compiler is not None:
            return _with_chip(known, part)
    require_name("target", target, TARGETS)
    return TARGETS[target]


def _with_macs(known: Target, macs: int) -> Target:
    name = f"{known.name}-{macs}"
    if macs not in known.macs:
        listed = ", ".join(f"{known.name}-{count}" for count in sorted(known.macs))
        raise ValueError(f"target is {name!r}; {known.title} comes as {listed}.")
    return dataclasses.replace(known, name=name, title=f"{known.title}-{macs}", accelerator=name)


def _with_chip(known: Target, chip: str) -> Target:
    assert known.vendor_compiler is not None
    name, found = f"{known.name}-{chip}", chips(known.vendor_compiler)
    if not found:
        raise ValueError(
            f"target is {name!r}, but the installed ai-edge-litert has no compiler for {known.title}; choose "
            f"{known.name!r}, or run: pip install -U ai-edge-litert"
        )
    if chip not in found:
        listed = ", ".join(f"{known.name}-{other}" for other in found)
        raise ValueError(f"target is {name!r}; {known.title} comes as {listed}.")
    compiler = dataclasses.replace(known.vendor_compiler, chip=found[chip])
    return dataclasses.replace(known, name=name, title=f"{known.title}, {found[chip]}", vendor_compiler=compiler)
