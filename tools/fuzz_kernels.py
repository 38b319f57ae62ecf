"""Runs LiteRT's integer kernels on extreme grids: a kernel that ends the process has to be known beforehand.

    python tools/fuzz_kernels.py --n=200 --seed=0

Each file has one operator, from the cases of tests/tflite/test_operators.py. Its tensors get ranges of any size. What the
package would keep in float (`tflite/kernel_limits.py`), or refuse to write, is not run; all else is, in a second process.
"""

import collections
import dataclasses
import os
import sys
from pathlib import Path

import command
import numpy as np
from absl import flags
from own_process import OwnProcess

_TESTS = Path(__file__).resolve().parents[1] / "tests" / "tflite"
_SECONDS = 60
# Exponents of ten of the ends of ranges, and by how many of these the ranges of one operator differ. Kernels may not end the
# process on any, and have to compute the right integers on those that networks may have.
_ANY, _APART = (-30.0, 30.0), (12.0, 60.0)
_USUAL, _USUALLY_APART = (-4.0, 4.0), (0.5, 2.0, 4.0)
# Kernels round twice, and interpolate tables where activations have 16 bits.
_MOST_STEPS = {np.int8: 2, np.int16: 1024}


def float_files(name: str) -> tuple[list[bytes], float]:
    """(float files with the operator `name` alone, each for other shapes of its inputs; 0 if it takes no negative ones)."""
    sys.path.insert(0, str(_TESTS))
    from test_operators import CASES

    from tfdatafree.tflite.flatbuffer import File

    case = CASES[name]
    found = [case.convert()]
    for sizes in ((1, 1), (1, 9), (30, 2)):
        shapes = tuple((shape[0], *sizes, shape[-1]) if len(shape) == 4 else shape for shape in case.shapes)
        if shapes == case.shapes:
            continue
        try:
            content = dataclasses.replace(case, shapes=shapes).convert()
        except Exception:  # noqa: BLE001  (the function does not take these sizes)
            continue
        file = File.parse(content)
        if [file.operator_name(operator) for operator in file.operators] == [name] and runs(content):
            found.append(content)
    return found, 0.0 if case.low > 0 else -1.0


def runs(content: bytes) -> bool:
    """Whether LiteRT runs the float file: converting does not check the sizes of all tensors."""
    from tfdatafree.tflite.runtime import Runner

    try:
        runner = Runner(content)
        runner.run([np.ones(detail["shape"], detail["dtype"]) for detail in runner.inputs])
    except (ValueError, RuntimeError):
        return False
    return True


def integer_file(content: bytes, bits: int, random: np.random.Generator, *, usual: bool) -> tuple[str, bytes]:
    """("written", the integer file for random ranges), or (why there is none, b"")."""
    from tfdatafree.errors import TfdatafreeError
    from tfdatafree.export.emit import quantize_file
    from tfdatafree.export.plan import Spec
    from tfdatafree.export.verify import verify_content
    from tfdatafree.numerics.range import Range
    from tfdatafree.tflite.flatbuffer import File

    limits, distances = (_USUAL, _USUALLY_APART) if usual else (_ANY, _APART)
    middle, apart = random.uniform(*limits), random.choice(distances)
    ranges = {}
    for index in range(len(File.parse(content).tensors)):
        # (the constants among them keep their own)
        ends = 10.0 ** np.clip(middle + random.uniform(-apart, apart, 2) / 2, *limits)
        ranges[index] = Range(*random.choice([[-ends[0], ends[1]], [0.0, ends[1]], [-ends[0], 0.0]]))
    spec = Spec(ranges, activation_bits=bits, edge_dtype="int8" if bits == 8 else "int16")
    try:
        result = quantize_file(content, spec)
        if result.float_reasons:
            return "kept in float", b""
        verify_content(result, spec)
    except TfdatafreeError as error:
        return f"refused: {type(error).__name__}", b""
    return "written", result.content


def run(content: bytes, exact: bytes, least: float, seed: int, usual: bool) -> str:
    """Runs the file on the lowest, the highest and random integers; "ran", what LiteRT says, or by how much it is off.

    Args:
        exact: The float file, which computes what the integers should come to.
        least: 0 for operators that take no negative values.
    """
    from tfdatafree.tflite.runtime import Runner

    random, worst = np.random.default_rng(seed), 0.0
    try:
        reference = Runner(exact, num_threads=1)
        for delegate in (False, True):
            runner = Runner(content, delegate=delegate, num_threads=1)
            for at in range(3):
                inputs = [_integers(detail, at, least, random) for detail in runner.inputs]
                reals = [_real(detail, x) for detail, x in zip(runner.inputs, inputs, strict=True)]
                pairs = zip(runner.run(inputs), reference.run(reals), runner.outputs, strict=True)
                worst = max([worst, *(_steps_off(*pair) for pair in pairs)])
    except (ValueError, RuntimeError) as error:
        return f"FAILED: {error}"[:160]
    return "ran" if not usual or worst <= _MOST_STEPS[runner.outputs[0]["dtype"]] else f"WRONG: {worst:.0f} steps off"


def _integers(detail: dict, at: int, least: float, random: np.random.Generator) -> np.ndarray:
    limits = np.iinfo(detail["dtype"])
    low = max(limits.min, detail["quantization"][1] if least >= 0 else limits.min)
    value = (low, limits.max)[at] if at < 2 else random.integers(low, limits.max + 1, detail["shape"])
    return np.broadcast_to(value, detail["shape"]).astype(detail["dtype"])


def _real(detail: dict, integers: np.ndarray) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    return (scale * (integers.astype(np.float64) - zero_point)).astype(np.float32)


def _steps_off(integers: np.ndarray, real: np.ndarray, detail: dict) -> float:
    """Largest difference in steps of the output; 0 where the real values are beyond a float32, or have no steps."""
    scale, zero_point = detail["quantization"]
    if not scale or not np.isfinite(real).all():
        return 0.0
    limits = np.iinfo(detail["dtype"])
    wanted = np.clip(np.rint(real.astype(np.float64) / scale) + zero_point, limits.min, limits.max)
    return float(np.abs(wanted - integers).max(initial=0))


def _define_flags() -> None:
    flags.DEFINE_integer("n", 200, "Files of each operator and width.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "The same seed draws the same ranges.", lower_bound=0)
    flags.DEFINE_list("operators", None, "Only these operators.")
    flags.DEFINE_string("keep", None, "Folder for the files that cannot be run.")


def main(values: flags.FlagValues) -> int:
    from tfdatafree.tflite.operators import OPERATORS

    with command.input_errors():
        names = command.choose("operators", values.operators or list(OPERATORS), OPERATORS)
    own_process, failed = OwnProcess(_SECONDS), False
    try:
        for name in names:
            files, least = float_files(name)
            for bits in OPERATORS[name].versions:
                random = np.random.default_rng([values.seed, list(OPERATORS).index(name), bits])
                ends = collections.Counter()
                for at in range(values.n):
                    usual = at % 2 == 0
                    end, content = integer_file(files[at // 2 % len(files)], bits, random, usual=usual)
                    if content:
                        end = own_process(run, content, files[at // 2 % len(files)], least, at, usual)
                    if end.startswith(("FAILED", "WRONG")) and values.keep:
                        Path(values.keep).mkdir(parents=True, exist_ok=True)
                        (Path(values.keep) / f"{name}_{bits}_{at}.tflite").write_bytes(content)
                    ends[end] += 1
                failed |= any(end.startswith(("FAILED", "WRONG")) for end in ends)
                print(
                    f"{name:<24}{bits:3d} bits  " + ", ".join(f"{n} {end}" for end, n in ends.most_common()), flush=True
                )
    finally:
        own_process.close()
    return int(failed)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
