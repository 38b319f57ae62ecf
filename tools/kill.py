"""Kills `tfdatafree compress` at many moments: nothing half-written may be left, and a later run has to finish the work.

    python tools/kill.py --kills=18

Each model is compressed once without a kill, then from the start and killed (SIGKILL) at moments spread over that time. After
each kill the folder of outputs may hold whole files only, and the folder of temporary files nothing but folders named after
the killed process, which the next run removes. A last run has to give the bytes of the run without a kill.
"""

import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import command
import own_process
from absl import flags

FLAGS = {
    "int8": ("--report=out/report.json",),
    "pruned": ("--sparsity=0.5", "--save_recipe=out/recipe.json"),
    "recovered": ("--sparsity=0.5", "--recover=32", "--simulated=out/simulated.keras"),
}
_SECONDS = 600
_LONG_AGO = 7200  # seconds: temporary folders of processes killed an hour ago are removed


@dataclass(frozen=True)
class Found:
    """What a kill left.

    Attributes:
        at: Seconds after the start.
        outputs: Names in the folder of outputs.
        faults: What is wrong; empty: nothing.
    """

    at: float
    outputs: tuple[str, ...]
    faults: tuple[str, ...]


def start(folder: Path, arguments: tuple[str, ...]) -> int:
    """Starts compressing `folder`/model.keras in a process of its own, and returns its number.

    The outputs are in `folder`/out, temporary files in `folder`/temporary. The process is a copy of this one, which has imported
    TensorFlow and done nothing with it: importing takes longer than the work.
    """
    from tfdatafree.cli import main

    line = [
        "compress",
        "model.keras",
        "-o",
        "out/model.tflite",
        "--input_range=-1,1",
        "--overwrite",
        "--quiet",
        *arguments,
    ]
    (folder / "out").mkdir(exist_ok=True)
    (folder / "temporary").mkdir(exist_ok=True)
    if process := os.fork():
        return process
    code = 1
    try:
        os.chdir(folder)
        tempfile.tempdir = str(folder / "temporary")
        code = main(line)
    finally:
        os._exit(code)


def wait(process: int, seconds: float) -> int | None:
    """The exit code of the process; None if it still runs after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def finish(folder: Path, arguments: tuple[str, ...]) -> dict[str, bytes]:
    """Runs to the end; returns what it wrote. Raises RuntimeError if it fails."""
    code = wait(start(folder, arguments), _SECONDS)
    if code != 0:
        raise RuntimeError(f"the command line ended with code {code}")
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def kill_at(folder: Path, arguments: tuple[str, ...], seconds: float, whole: dict[str, bytes]) -> Found:
    """Kills a run after `seconds` and looks at what it left. `whole` is what a run writes that nobody kills."""
    process = start(folder, arguments)
    if wait(process, seconds) is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    faults = []
    outputs = sorted(path.name for path in (folder / "out").iterdir())
    for name in outputs:
        content = (folder / "out" / name).read_bytes()
        if name not in whole:
            # A write in progress has a hidden name of its own; no reader takes it for a result.
            if not name.startswith("."):
                faults.append(f"'{name}' is no output")
        elif name.endswith(".tflite") and content != whole[name]:
            faults.append(f"'{name}' is not whole")
        elif len(content) < len(whole[name]) // 2:
            faults.append(f"'{name}' is cut off")
    for path in (folder / "temporary").iterdir():
        if not path.name.startswith(f"tfdatafree-{process}-"):
            faults.append(f"'{path.name}' is left in the temporary folder")
    return Found(seconds, tuple(outputs), tuple(faults))


def try_kills(folder: Path, arguments: tuple[str, ...], kills: int) -> list[Found]:
    """Kills as many runs at evenly spread moments, then lets one finish."""
    started = time.perf_counter()
    whole = finish(folder, arguments)
    duration = time.perf_counter() - started
    found = []
    for at in range(kills):
        shutil.rmtree(folder / "out")
        found.append(kill_at(folder, arguments, duration * (at + 0.5) / kills, whole))
    faults = []
    for left in (folder / "temporary").iterdir():
        os.utime(left, (time.time() - _LONG_AGO,) * 2)
    again = finish(folder, arguments)
    if again["model.tflite"] != whole["model.tflite"]:
        faults.append("the run after the kills wrote other bytes")
    if left := [path.name for path in (folder / "temporary").iterdir()]:
        faults.append(f"{', '.join(left)} stayed in the temporary folder")
    if hidden := [name for name in again if name not in whole]:
        faults.append(f"{', '.join(hidden)} stayed beside the outputs")
    return [*found, Found(duration, tuple(sorted(again)), tuple(faults))]


def save_model(path: Path) -> None:
    """A small network with BatchNorm and a residual sum."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 12, 3))
    for filters in (8, 8):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(x)))
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):  # as if it were trained: recovery makes images by these
            layer.moving_mean.assign(0.1 + layer.moving_mean)
            layer.moving_variance.assign(0.3 * layer.moving_variance)
    model.save(path)


def _define_flags() -> None:
    flags.DEFINE_integer("kills", 18, "Kills of each kind of run.", lower_bound=1)
    flags.DEFINE_list("runs", list(FLAGS), "Kinds of runs.")


def main(values: flags.FlagValues) -> int:
    with command.input_errors():
        runs = command.choose("runs", values.runs, FLAGS)
    import tfdatafree.compress  # noqa: F401  (before the first copy of this process)

    wrong = False
    for run in runs:
        with tempfile.TemporaryDirectory() as name:
            own_process.run(save_model, Path(name) / "model.keras")
            for found in try_kills(Path(name), FLAGS[run], values.kills):
                wrong |= bool(found.faults)
                print(
                    f"{run:<10}{found.at:7.2f} s  {' '.join(found.outputs) or '-':<50} {'; '.join(found.faults) or 'sound'}",
                    flush=True,
                )
    return int(wrong)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command.run(main, _define_flags)
