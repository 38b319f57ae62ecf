"""`tfdatafree compare`: runs two models on the same inputs."""

from pathlib import Path

from absl import flags

from tfdatafree.cli.command import (
    Command,
    Flags,
    given_range,
    import_tensorflow,
    number,
    numbers,
    require_model,
)
from tfdatafree.cli.layout import fitted
from tfdatafree.errors import printable
from tfdatafree.inputs.input_files import require_readable
from tfdatafree.recipe.check import require_whole
from tfdatafree.report.contents import read_tflite


def _define(options: Flags) -> None:
    options.add(
        "data",
        None,
        "Inputs: a folder of images, which are scaled and cropped to the model's input and scaled to its input range; or an .npy "
        "or .npz of preprocessed inputs, under the inputs' names or x.",
        meta="FOLDER|FILE.npz|.npy",
    )
    options.add("n", None, "Number of inputs (default: 32, or all of --data).", meta="N")
    options.add(
        "input_range",
        (),
        "Range of the generated inputs, as for compress; names are those of A. What is not given is the range of an integer "
        "file's input, else the range that the Keras model tells.",
        meta="[NAME:]LOW,HIGH",
    )
    options.add("input_shape", None, "Shape of the input, if that of a model is not static.", meta="H,W,C")
    options.add("seed", 0, "Seed of the generated inputs.", meta="N", lower=0)
    options.add("unsafe_load", False, "Run Python code stored in the model (Lambda layers). Only for models you trust.")


def _run(values: flags.FlagValues, a: str, b: str) -> None:
    n = number("n", values.n, int, "32")
    input_range = given_range(values.input_range)
    input_shape = numbers("input_shape", values.input_shape, int, "224,224,3")
    if n is not None:
        require_whole("n", n, 1)
    for path in (a, b):
        if Path(path).suffix == ".tflite":
            read_tflite(path)
        else:
            require_model(path)
    if values.data is not None:
        require_readable(values.data)
    import_tensorflow()
    from tfdatafree.compare import compare

    result = compare(
        a,
        b,
        data=values.data,
        n=n,
        input_range=input_range,
        input_shape=input_shape,
        unsafe_load=values.unsafe_load,
        seed=values.seed,
    )
    print(f"reference           {a}")
    print(f"compared with       {b}")
    print(fitted(printable(str(result))))


COMMAND = Command(
    ("A", "B"),
    "",
    "Runs two models on the same inputs and says how similar their outputs are. No labels are needed.",
    "A and B are .keras, .h5 or .tflite files; A is the reference.",
    "tfdatafree compare mobilenet.keras mobilenet.tflite",
    _define,
    _run,
)
