"""`tfdatafree inspect`: shows what a file holds."""

from absl import flags

from tfdatafree.cli.command import Command, Flags
from tfdatafree.cli.layout import fitted
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
    options.add("tensors", False, "Also list all tensors with their types, shapes, scales and zero points.")


def _run(values: flags.FlagValues, file: str) -> None:
    if values.target is not None:
        get_target(values.target)
    from tfdatafree.report.contents import inspect_file, inspect_target, read_tflite
    from tfdatafree.runtimes.tflite_micro import TFLITE_MICRO
    from tfdatafree.runtimes.tflite_micro import arena_bytes as micro_arena_bytes

    summary = inspect_file(file)
    print(fitted(printable(str(summary))))
    if not TFLITE_MICRO.missing():
        needed = micro_arena_bytes(read_tflite(file))
        print(
            "\nTFLite Micro cannot open it"
            if needed is None
            else f"\nTFLite Micro's arena takes {needed:,} bytes on a 64-bit machine"
        )
    if values.tensors:
        print(f"\n{printable(summary.tensor_table())}")
    if values.target is not None:
        print()
        print(fitted(printable(str(inspect_target(file, values.target)))))


COMMAND = Command(
    ("FILE",),
    "",
    "Shows what a TFLite file holds: operators, sizes, memory, multiplications, and its tensors with --tensors.",
    "FILE is a .tflite file from any converter.",
    "tfdatafree inspect mobilenet.tflite --target=ethos-u55",
    _define,
    _run,
)
