"""Measures how near integer files come to their float models, for networks of any kind.

    python tools/world.py --folder=models --json=world.json --markdown=world.md

The folder has a Keras file per model, and beside it NAME.npz with inputs of the model's own kind: `x` for one input, or an
array per input name. Integers are raw values; every array is cast to float32. The first half of the inputs may be used for
calibration. All figures are of the other half. Per model, one row of each kind:

    ptq      the TFLite converter, full int8, calibrated with the first half
    range    tfdatafree without data, told the range of each input: 0 to 255 for uint8, else the extremes of the file's array
    alone    tfdatafree without data, told nothing
    data     tfdatafree with the first half as `representative_data`, told nothing else

SQNR is that of the worst output, in dB. Agreement is the share of equal decisions, over the outputs that have classes: one
vector of at least two numbers per example. Files are run by LiteRT, float models by Keras.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent))
import benchmark
import command
import evaluate
import own_process

ROWS = ("ptq", "range", "alone", "data")
_SUFFIXES = (".keras", ".h5")


def read_inputs(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz by name, as stored."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def value_range(array: np.ndarray) -> tuple[float, float]:
    """Returns the range of an input: that of its type where it is bytes, else from the least to the greatest."""
    return (0.0, 255.0) if array.dtype == np.uint8 else (float(array.min()), float(array.max()))


def by_input(model, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the array of each input of the model as stored, by the input's name, in the model's order."""
    names = [tensor.name.split(":")[0] for tensor in model.inputs]
    if len(arrays) == 1 == len(names):
        return {names[0]: next(iter(arrays.values()))}
    missing = sorted(set(names) - set(arrays))
    if missing:
        raise ValueError(f"the .npz lacks {', '.join(missing)}; give an array for each of {', '.join(names)}.")
    return {name: arrays[name] for name in names}


def run_file(content: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Runs a .tflite on all examples, one at a time; returns float32 arrays in the order of its signature's outputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=2)
    interpreter.allocate_tensors()
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()
    order = _output_order(content, targets)
    results: list[list[np.ndarray]] = [[] for _ in targets]
    for at in range(len(inputs[0])):
        for source, array in zip(sources, inputs, strict=True):
            interpreter.set_tensor(
                source["index"], evaluate.quantize(array[at : at + 1], source["dtype"], *source["quantization"])
            )
        interpreter.invoke()
        for column, place in zip(results, order, strict=True):
            column.append(
                evaluate.dequantize(interpreter.get_tensor(targets[place]["index"]), *targets[place]["quantization"])
            )
    return [np.concatenate(column) for column in results]


def _output_order(content: bytes, targets: list[dict]) -> list[int]:
    """Returns the places of the outputs in the order of the signature, whose names end in numbers where TensorFlow gave them."""
    from ai_edge_litert.interpreter import Interpreter

    if len(targets) == 1:
        return [0]
    # An interpreter of its own: one with a signature runner cannot be invoked any more.
    named = Interpreter(model_content=content).get_signature_runner().get_output_details()
    place = {detail["index"]: at for at, detail in enumerate(targets)}
    names = sorted(named, key=lambda name: int(name.rsplit("_", 1)[-1])) if _numbered(named) else list(named)
    return [place[named[name]["index"]] for name in names]


def _numbered(names) -> bool:
    return all(name.rsplit("_", 1)[-1].isdigit() for name in names)


def score(outputs: list[np.ndarray], reference: list[np.ndarray]) -> dict:
    """Returns the SQNR of the worst output, and the agreement of the outputs with classes (absent without any)."""
    from tfdatafree.numerics.metrics import agreement, sqnr_db

    ratios = [sqnr_db(wanted, found) for wanted, found in zip(reference, outputs, strict=True)]
    decided = [
        agreement(found, wanted)
        for wanted, found in zip(reference, outputs, strict=True)
        if wanted.ndim == 2 and wanted.shape[1] > 1
    ]
    scores = {"sqnr_db": min(ratios), "outputs_sqnr_db": ratios}
    return scores | ({"agreement": float(np.mean(decided))} if decided else {})


def measure(path: Path, recipe: str, rows: list[str]) -> list[dict]:
    """Measures one model, in the process that it is called in."""
    import keras

    import tfdatafree
    from tfdatafree.model.load import load

    keras.utils.disable_interactive_logging()
    model = load(path)
    stored = by_input(model, read_inputs(path.with_suffix(".npz")))
    inputs = [array.astype(np.float32) for array in stored.values()]
    half = len(inputs[0]) // 2
    calibration, unseen = [array[:half] for array in inputs], [array[half:] for array in inputs]
    packed = (
        keras.tree.pack_sequence_as(model._inputs_struct, unseen) if hasattr(model, "_inputs_struct") else unseen[0]
    )
    reference = [np.asarray(y, np.float32) for y in keras.tree.flatten(model.predict(packed, batch_size=8, verbose=0))]

    def compressed(**options):
        result = tfdatafree.compress(path, recipe, verbose=0, **options)
        return result.predict(packed), {"input_range": result.report.input_range}

    def converted():
        return run_file(benchmark.compress_with_ptq(model, *calibration), unseen), {}

    given = calibration[0] if len(calibration) == 1 else calibration
    ways = {
        "ptq": converted,
        "range": lambda: compressed(input_range={name: value_range(array) for name, array in stored.items()}),
        "alone": compressed,
        "data": lambda: compressed(representative_data=given),
    }
    results = []
    for name in rows:
        started, row = time.perf_counter(), {"model": path.stem, "row": name}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # converters print; stdout is for the table
                outputs, more = ways[name]()
            outputs = outputs if isinstance(outputs, list) else list(keras.tree.flatten(outputs))
            row |= score(outputs, reference) | {"seconds": time.perf_counter() - started} | more
        except Exception as error:  # noqa: BLE001  (whatever fails, the table goes on)
            lines = str(error).strip().splitlines() or ["no message"]
            row["error"] = f"{type(error).__name__}: {lines[0]}"
        results.append(row)
    return results


def run_model(path: Path, recipe: str, rows: list[str]) -> list[dict]:
    """Measures one model in a process of its own, which it may end."""
    try:
        return own_process.run(measure, path, recipe, rows)
    except Exception as error:  # noqa: BLE001
        lines = str(error).strip().splitlines() or ["the process ended"]
        return [{"model": path.stem, "row": name, "error": f"{type(error).__name__}: {lines[0]}"} for name in rows]


def cell(row: dict) -> str:
    """Returns "SQNR / agreement" of a row, or why there is none."""
    if "error" in row:
        return row["error"].split(":")[0]
    text = f"{row['sqnr_db']:.1f}"
    return f"{text} / {row['agreement']:.2f}" if "agreement" in row else text


def markdown(records: list[list[dict]], rows: list[str]) -> str:
    """Returns the table in Markdown, a line per model."""
    lines = [["model", *rows], ["---", *["---:"] * len(rows)]]
    lines += [[found[0]["model"], *map(cell, found)] for found in records]
    return "".join(f"| {' | '.join(text.replace('|', '/') for text in texts)} |\n" for texts in lines)


def find_models(folder: Path, names: list[str]) -> list[Path]:
    """Returns the models of the folder that have inputs beside them; of `names` only, if any.

    Raises:
        ValueError: There are none, or a name is unknown.
    """
    paths = {
        path.stem: path
        for path in sorted(folder.glob("*"))
        if path.suffix in _SUFFIXES and path.with_suffix(".npz").exists()
    }
    if not paths:
        raise ValueError(f"--folder={folder}: no model there has an .npz of its name; see the top of this file.")
    return [paths[name] for name in command.choose("models", names, paths)] if names else list(paths.values())


def _define_flags() -> None:
    flags.DEFINE_string("folder", None, "Folder of models and inputs.", required=True)
    flags.DEFINE_list("models", [], "Names of models; all if not given.")
    flags.DEFINE_list("rows", list(ROWS), f"Of {', '.join(ROWS)}.")
    flags.DEFINE_string("recipe", "int8", "Recipe of tfdatafree.")
    command.define_outputs()


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        rows = command.choose("rows", values.rows, ROWS)
        paths = find_models(Path(values.folder), values.models)
    records = []
    print("".join(text.ljust(20) for text in ("model", *rows)))
    for path in paths:
        records.append(run_model(path, values.recipe, rows))
        print("".join(text.ljust(20) for text in (path.stem, *map(cell, records[-1]))), flush=True)
    flat = [row for found in records for row in found]
    command.write_json(values.json, {"environment": command.environment(), "recipe": values.recipe, "rows": flat})
    command.write_text(values.markdown, markdown(records, rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command.run(main, _define_flags)
