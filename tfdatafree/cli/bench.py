"""`tfdatafree bench`: times files against each other."""

from absl import flags

from tfdatafree.cli.command import AND_MORE, Command, Flags, require_file
from tfdatafree.cli.layout import fitted
from tfdatafree.errors import printable


def _define(options: Flags) -> None:
    options.add("rounds", 50, "Rounds, in which the files take turns.", meta="N", lower=1)
    options.add("threads", 1, "Threads of the kernels.", meta="N", lower=1)
    options.add("profile", False, "Time each operator alone, too.")
    options.add("phone", False, "Measure on the phone that adb reaches, with Google's benchmark_model.")


def _run(values: flags.FlagValues, *files: str) -> None:
    for path in files:
        require_file(path)
    from tfdatafree.bench import bench

    result = bench(files, rounds=values.rounds, threads=values.threads, profile=values.profile, phone=values.phone)
    print(fitted(printable(str(result))))


COMMAND = Command(
    ("FILE", AND_MORE),
    "",
    "Times TFLite files against each other, on this CPU or on a phone.",
    "FILE is a .tflite file from any converter. Ratios are to the first one.",
    "tfdatafree bench float.tflite int8.tflite --profile",
    _define,
    _run,
)
