"""`tfdatafree inspect`: shows what a file holds."""

from absl import flags

from tfdatafree.cli.command import Command, Flags
from tfdatafree.errors import printable
from tfdatafree.targets.registry import NAMES_WITH_PARTS, TARGETS, get_target


def _define(options: Flags) -> None:
    options.add(
        "target",
        None,
        f"Say which operators this device computes: {', '.join(TARGETS)}. {NAMES_WITH_PARTS} The device's compiler decides, "
        "if it is installed: Vela for an Ethos-U, LiteRT's compiler with the vendor's SDK for a phone's chip.",
        meta="NAME",
    )


def _run(values: flags.FlagValues, file: str) -> None:
    if values.target is not None:
        get_target(values.target)
    from tfdatafree.report.contents import inspect_file, inspect_target

    print(printable(str(inspect_file(file))))
    if values.target is not None:
        print()
        print(printable(str(inspect_target(file, values.target))))


COMMAND = Command(
    ("FILE",),
    "",
    "Shows what a TFLite file holds: operators, types, scales and zero points, sizes.",
    "FILE is a .tflite file from any converter.",
    "tfdatafree inspect mobilenet.tflite --target=ethos-u55",
    _define,
    _run,
)
