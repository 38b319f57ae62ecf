"""All profiles by name."""

import dataclasses

from tfdatafree.recipe.check import require_name
from tfdatafree.targets.edge_tpu import EDGE_TPU
from tfdatafree.targets.ethos_u import ETHOS_U55, ETHOS_U65, ETHOS_U85
from tfdatafree.targets.hexagon import HEXAGON
from tfdatafree.targets.nnapi import NNAPI
from tfdatafree.targets.stm32n6 import STM32N6
from tfdatafree.targets.target import QUANTIZATION_SPEC, Target
from tfdatafree.targets.tflite_micro import TFLITE_MICRO

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
        STM32N6,
        TFLITE_MICRO,
    )
}


def get_target(target: str | Target) -> Target:
    """The profile of that name, or the Target itself. The number of multipliers may follow the name of an Ethos-U.

    Raises:
        ValueError: No profile has this name; suggests the most similar one.
    """
    if isinstance(target, Target):
        return target
    base, _, macs = str(target).rpartition("-")
    if target not in TARGETS and macs.isdigit() and base in TARGETS and TARGETS[base].macs:
        known = TARGETS[base]
        if int(macs) not in known.macs:
            listed = ", ".join(f"{base}-{count}" for count in sorted(known.macs))
            raise ValueError(f"target is {target!r}; {known.title} comes as {listed}.")
        return dataclasses.replace(known, name=target, title=f"{known.title}-{macs}", accelerator=target)
    require_name("target", target, TARGETS)
    return TARGETS[target]
