"""`tfdatafree verify`: runs a file on several runtimes."""

from absl import flags

from tfdatafree.cli.command import Command, Flags, import_tensorflow, number, require_file, require_model
from tfdatafree.cli.layout import fitted
from tfdatafree.errors import printable
from tfdatafree.recipe.check import require_name, require_whole
from tfdatafree.report.contents import read_tflite
from tfdatafree.runtimes.registry import RUNTIMES


def _define(options: Flags) -> None:
    options.add(
        "against", None, "The float model that the file was made of, .keras or .h5: SQNR of each.", meta="MODEL"
    )
    options.add(
        "runtime",
        None,
        "Runtimes, separated by commas: litert, simulation, tflite-micro, tosa, openvino (default: all).",
        meta="NAMES",
    )
    options.add("data", None, "Preprocessed inputs: an .npy or .npz, as for compare.", meta="FILE.npz")
    options.add("n", "4", "Number of inputs.", meta="N")
    options.add("seed", 0, "Seed of the generated inputs.", meta="N", lower=0)
    options.add("unsafe_load", False, "Run Python code stored in the model (Lambda layers). Only for models you trust.")


def _run(values: flags.FlagValues, file: str) -> None:
    n = number("n", values.n, int, "4")
    require_whole("n", n, 1)
    names = None if values.runtime is None else [name.strip() for name in values.runtime.split(",")]
    for name in names or ():
        require_name("runtime", name, RUNTIMES)
    read_tflite(file)
    if values.against is not None:
        require_model(values.against)
    if values.data is not None:
        require_file(values.data)
    import_tensorflow()
    from tfdatafree.verify import verify

    result = verify(
        file,
        against=values.against,
        runtimes=names,
        data=values.data,
        n=n,
        unsafe_load=values.unsafe_load,
        seed=values.seed,
    )
    print(fitted(printable(str(result))))


COMMAND = Command(
    ("FILE",),
    "",
    "Runs a TFLite file on several runtimes and says where their integers differ.",
    "FILE is a .tflite file from any converter. All are compared with LiteRT's reference kernels.",
    "tfdatafree verify mobilenet.tflite --against=mobilenet.keras",
    _define,
    _run,
)
