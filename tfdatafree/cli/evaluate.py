"""`tfdatafree evaluate`: measures a model or a file on labelled data."""

import json
from pathlib import Path

from absl import flags

from tfdatafree.cli.command import Command, Flags, number, numbers, require_file, require_writable
from tfdatafree.errors import printable
from tfdatafree.inputs.input_files import require_readable


def _define(options: Flags) -> None:
    options.add(
        "data",
        None,
        "Labelled inputs: an .npz with x and y (or images and labels), a folder with one folder of images per class, or a folder "
        "that TensorFlow Datasets has prepared. Required. An .npy, or images without classes, only tell agreement.",
        meta="FOLDER|FILE.npz|.npy",
    )
    options.add("reference", None, "The float model: also measure how often both choose the same class.", meta="MODEL")
    options.add("n", None, "Number of inputs, taken at equal distances (default: all).", meta="N")
    options.add(
        "scale",
        None,
        "What the pixels 0 and 255 become, in images and in arrays of 8-bit integers (default: images are scaled to the range "
        "that the model tells; arrays are taken as they are).",
        meta="LOW,HIGH",
    )
    options.add(
        "split", None, "Split of a folder of TensorFlow Datasets (default: the only one, or test).", meta="NAME"
    )
    options.add(
        "classes", None, "Names of the class folders in the model's order, one per line (default: sorted).", meta="FILE"
    )
    options.add("ignore_label", None, "Class number of positions of a map that do not count, e.g. 255.", meta="N")
    options.add("input_shape", None, "Shape of the input, if that of the model is not static.", meta="H,W,C")
    options.add("json", None, "Also write the figures to a file.", meta="FILE.json")
    options.add("overwrite", False, "Replace the output file if it exists.")
    options.add("unsafe_load", False, "Run Python code stored in the model (Lambda layers). Only for models you trust.")


def _run(values: flags.FlagValues, model: str) -> None:
    if values.data is None:
        raise ValueError("there are no data; add --data=FOLDER or --data=FILE.npz.")
    arguments = {
        "n": number("n", values.n, int, "1000"),
        "scale": numbers("scale", values.scale, float, "-1,1"),
        "ignore_label": number("ignore_label", values.ignore_label, int, "255"),
        "input_shape": numbers("input_shape", values.input_shape, int, "224,224,3"),
    }
    for path in filter(None, (model, values.reference, values.classes)):
        require_file(path)
    require_readable(values.data)
    output = None if values.json is None else Path(values.json)
    if output is not None:
        require_writable("json", output, (".json",), model, values.overwrite)
    classes = None if values.classes is None else Path(values.classes).read_text(encoding="utf-8").split("\n")
    from tfdatafree.evaluate import evaluate

    result = evaluate(
        model,
        values.data,
        reference=values.reference,
        split=values.split,
        classes=None if classes is None else [name.strip() for name in classes if name.strip()],
        unsafe_load=values.unsafe_load,
        **arguments,
    )
    print(f"{'model':<20}{model}")
    print(printable(str(result)))
    if output is not None:
        from tfdatafree.files import write_atomically

        write_atomically(output, (json.dumps(result.to_dict(), indent=2) + "\n").encode())
        print(f"\nwrote {output}")


COMMAND = Command(
    ("MODEL",),
    "--data=folder|file",
    "Measures the accuracy of a model or a file on labelled data.",
    "MODEL is a .tflite, .keras or .h5 file.",
    "tfdatafree evaluate mobilenet.tflite --data=val --reference=mobilenet.keras",
    _define,
    _run,
)
