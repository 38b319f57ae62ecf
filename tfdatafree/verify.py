"""verify(): runs one TFLite file on several runtimes and says where their integers differ."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdatafree.errors import LoadError
from tfdatafree.inputs.input_files import arrays_by_input
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.limits import require_inputs_fit, require_seed
from tfdatafree.model.load import load
from tfdatafree.numerics.metrics import sqnr_db
from tfdatafree.recipe.check import require_whole
from tfdatafree.report.contents import read_runnable
from tfdatafree.runtimes.registry import BASELINE, RUNTIMES, get_runtime
from tfdatafree.runtimes.runtime import Runtime, RuntimeFailure, one_line
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.runtime import Runner, dequantize_edge, quantize_edge


@dataclass(frozen=True, kw_only=True)
class RuntimeResult:
    """One runtime against LiteRT's reference kernels, over all inputs.

    Attributes:
        runtime: Its name.
        problem: Why it did not run; "" if it did.
        seconds: Seconds per input.
        compared: Number of tensors that both runtimes show.
        differing: Number of these that differ somewhere.
        largest: Largest difference of an output: in steps of its grid, for a float output in its own unit.
        share: Share of the outputs' elements that differ.
        first: The first tensor that differs, in the file's order, with the operator that writes it; "" without one.
        sqnr_db: SQNR of the worst output against the float model, if one was given.
    """

    runtime: str
    problem: str = ""
    seconds: float = 0.0
    compared: int = 0
    differing: int = 0
    largest: float = 0.0
    share: float = 0.0
    first: str = ""
    sqnr_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found; `print` it.

    Attributes:
        file: The file.
        n: Number of inputs.
        inputs: What they were.
        results: One per runtime; the first is what all others are compared with.
    """

    file: str
    n: int
    inputs: str
    results: tuple[RuntimeResult, ...]

    @property
    def differing(self) -> list[str]:
        """Names of the runtimes with an output that differs."""
        return [result.runtime for result in self.results if result.share > 0]

    def __str__(self) -> str:
        head = ["runtime", "seconds", "largest", "share", "tensors", "first that differs"]
        against = any(result.sqnr_db is not None for result in self.results)
        rows = [head[:5] + (["SQNR"] if against else []) + head[5:]]
        rows += [_row(result, at == 0, against) for at, result in enumerate(self.results)]
        widths = [
            max(len(row[column]) for row in rows if len(row) == len(rows[0])) for column in range(len(rows[0]) - 1)
        ]
        lines = [f"{self.file} on {self.n} inputs: {self.inputs}"]
        lines += [
            "  ".join(
                [*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), *row[len(widths) :]]
            ).rstrip()
            for row in rows
        ]
        lines.append(
            f"largest: steps between the outputs' integers and those of {self.results[0].runtime}; share: of the outputs' "
            "elements that differ"
        )
        return "\n".join(lines)


def _row(result: RuntimeResult, is_baseline: bool, against: bool) -> list[str]:
    if result.problem:
        return [result.runtime, result.problem]
    sqnr = [] if not against else ["" if result.sqnr_db is None else f"{result.sqnr_db:.1f} dB"]
    start = [result.runtime, f"{result.seconds:.3f}"]
    if is_baseline:
        return [*start, "", "", "", *sqnr, "(all others are compared with it)"]
    tensors = f"{result.compared - result.differing} of {result.compared} equal" if result.compared else "outputs only"
    return [*start, f"{result.largest:g}", f"{result.share:.2%}", tensors, *sqnr, result.first]


def verify(
    file: "str | os.PathLike | bytes",
    *,
    against: Any = None,
    runtimes: Sequence[str] | None = None,
    data: "str | os.PathLike | None" = None,
    n: int = 4,
    unsafe_load: bool = False,
    seed: int = 0,
) -> Verification:
    """Runs a TFLite file on several runtimes, and compares all tensors that they show with LiteRT's reference kernels.

    Files of other tools are welcome.

    Args:
        file: Path of a .tflite, or its bytes.
        against: A Keras model, or a path as for `compress`: the float model that the file was made of.
        runtimes: Names of runtimes: "simulation", "litert", "tflite-micro", "tosa", "openvino". None: all.
        data: Path of an .npz or .npy with inputs, preprocessed as the model expects them. None: procedural images in the
            range of the file's inputs.
        n: Number of inputs.
        unsafe_load: As for `compress`, for `against`.
        seed: Seed of the procedural images.

    Raises:
        LoadError: A file is missing, damaged or of another kind; or LiteRT's reference kernels cannot run it.
        ValueError: An option is wrong, or the float model does not fit the file.
    """
    require_whole("n", n, 1)
    seed = require_seed(seed)
    chosen = [get_runtime(name) for name in (RUNTIMES if runtimes is None else runtimes)]
    content = bytes(file) if isinstance(file, (bytes, bytearray)) else read_runnable(file)
    name = "the file" if isinstance(file, (bytes, bytearray)) else str(file)
    try:
        runner = Runner(content, keep_all=True)
    except ValueError as error:
        raise LoadError(f"{name} cannot be run: {one_line(error)}") from error
    arrays, described = _inputs(runner, data, n, seed)
    wanted = None if against is None else _float_outputs(load(against, unsafe=unsafe_load), arrays, runner)
    examples = [
        [quantize_edge(array[at : at + 1], detail) for array, detail in zip(arrays, runner.inputs, strict=True)]
        for at in range(len(arrays[0]))
    ]
    parsed = File.parse(content)
    baseline, expected = _run(BASELINE, content, examples)
    if baseline.problem:
        raise LoadError(f"{name} cannot be run by {BASELINE.name}: {baseline.problem}")
    results = [_with_sqnr(baseline, expected, wanted, runner)]
    for runtime in dict.fromkeys(chosen):
        if runtime is not BASELINE:
            result, found = _run(runtime, content, examples)
            if not result.problem:
                result = _with_sqnr(_compared(result, found, expected, parsed), found, wanted, runner)
            results.append(result)
    return Verification(file=name, n=len(examples), inputs=described, results=tuple(results))


# Index of a tensor -> its content, for each input.
_Runs = list[Mapping[int, np.ndarray]]


def _run(runtime: Runtime, content: bytes, examples: Sequence[Sequence[np.ndarray]]) -> tuple[RuntimeResult, _Runs]:
    if problem := runtime.missing():
        return RuntimeResult(runtime=runtime.name, problem=problem), []
    try:
        session = runtime.open(content)
        started = time.perf_counter()
        found = [session.run(example) for example in examples]
    except RuntimeFailure as error:
        return RuntimeResult(runtime=runtime.name, problem=f"cannot run it: {error}"), []
    return RuntimeResult(runtime=runtime.name, seconds=(time.perf_counter() - started) / len(examples)), found


def _compared(result: RuntimeResult, found: _Runs, expected: _Runs, file: File) -> RuntimeResult:
    """`result` with the differences between two runtimes' tensors."""
    writers = {index: operator for operator in file.operators for index in operator.outputs}
    shown = [index for index in writers if index in found[0] and index in expected[0]]
    unequal = [
        index
        for index in shown
        if any(
            not np.array_equal(a[index], b[index], equal_nan=_is_float(b[index]))
            for a, b in zip(found, expected, strict=True)
        )
    ]
    differences = [
        np.abs(a[index].astype(np.float64) - b[index].astype(np.float64)).ravel()
        for a, b in zip(found, expected, strict=True)
        for index in file.outputs
    ]
    together = np.concatenate(differences)
    first = f"'{file.name(unequal[0])}' ({file.operator_name(writers[unequal[0]])})" if unequal else ""
    only_outputs = set(shown) <= set(file.outputs) and len(writers) > len(shown)
    return dataclasses.replace(
        result,
        compared=0 if only_outputs else len(shown),
        differing=0 if only_outputs else len(unequal),
        largest=float(np.nan_to_num(together, nan=np.inf).max(initial=0.0)),
        share=float(np.mean(together != 0)),
        first=first,
    )


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def _inputs(runner: Runner, data: Any, n: int, seed: int) -> tuple[list[np.ndarray], str]:
    """Real inputs (n, *shape) for each input of the file, and what they are."""
    names = [detail["name"] for detail in runner.inputs]
    shapes = [tuple(int(size) for size in detail["shape"][1:]) for detail in runner.inputs]
    if data is not None:
        arrays = arrays_by_input(data, names)
        return [_fitting(name, arrays[name][:n], shape) for name, shape in zip(names, shapes, strict=True)], f"'{data}'"
    arrays_drawn = []
    for at, (shape, detail) in enumerate(zip(shapes, runner.inputs, strict=True)):
        require_inputs_fit(n, shape)
        scale, zero_point = detail["quantization"]
        ends = (-1.0, 1.0)
        if scale:
            limits = np.iinfo(detail["dtype"])
            ends = (float(scale * (limits.min - zero_point)), float(scale * (limits.max - zero_point)))
        arrays_drawn.append(procedural_images(n, shape, *ends, seed=seed + at))
    return arrays_drawn, "procedural images in the range of each input"


def _fitting(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape[1:] != shape or not len(array):
        raise ValueError(f"the data for '{name}' have shape {array.shape}; give (n, {', '.join(map(str, shape))}).")
    return array


def _float_outputs(model: Any, arrays: list[np.ndarray], runner: Runner) -> list[np.ndarray]:
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    if shapes != [array.shape[1:] for array in arrays]:
        raise ValueError(
            f"'{model.name}' takes inputs of shape {shapes}, the file of {[array.shape[1:] for array in arrays]}."
        )
    outputs = keras.tree.flatten(model.predict(arrays if len(arrays) > 1 else arrays[0], verbose=0))
    outputs = [np.asarray(output) for output in outputs]
    if [output[:1].shape for output in outputs] != [tuple(detail["shape"]) for detail in runner.outputs]:
        raise ValueError(
            f"'{model.name}' has outputs of shape {[output.shape[1:] for output in outputs]}, the file of "
            f"{[tuple(detail['shape'][1:]) for detail in runner.outputs]}; verify compares equal outputs only."
        )
    return outputs


def _with_sqnr(result: RuntimeResult, found: _Runs, wanted: list[np.ndarray] | None, runner: Runner) -> RuntimeResult:
    """`result` with the SQNR of the worst output against the float model's."""
    if wanted is None:
        return result
    reals = [
        np.concatenate([dequantize_edge(values[detail["index"]], detail) for values in found])
        for detail in runner.outputs
    ]
    worst = min(sqnr_db(want, real) for want, real in zip(wanted, reals, strict=True))
    return dataclasses.replace(result, sqnr_db=worst)
