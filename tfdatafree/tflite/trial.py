"""Runs a file in a process of its own: a kernel that ends the process, or never ends, ends only that one."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# Runs a file on the lowest, the highest and random integers, without and with XNNPACK; or once, as `Runner` does.
_CHILD = """
import sys
sys.path[:] = filter(None, sys.path)  # no module of the user's current folder is imported
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

path, once, most_bytes = sys.argv[1], sys.argv[2] == "once", int(sys.argv[3])
if most_bytes:
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    except (ImportError, OSError, ValueError):
        pass  # this system has no such limit
random = np.random.default_rng(0)
content = open(path, "rb").read()
for resolver in (OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO)[once:]:
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    for at in range(2 if once else 0, 3):
        for detail in interpreter.get_input_details():
            shape, dtype = detail["shape"], detail["dtype"]
            if np.dtype(dtype).kind in "iu":
                low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
                value = np.full(shape, (low, high)[at]) if at < 2 else random.integers(low, high, shape, endpoint=True)
            else:
                value = np.full(shape, at) if at < 2 else random.uniform(-1, 1, shape)
            interpreter.set_tensor(detail["index"], np.asarray(value, dtype))
        interpreter.invoke()
"""


def failure_of(content: bytes) -> str | None:
    """What happens to a process that runs the file on all kinds of inputs, with all of LiteRT's kernels; None: nothing."""
    return _run(content, once=False)


def death_of(content: bytes, *, seconds: float, most_bytes: int) -> str | None:
    """How a process ends that runs the file once: by a signal, or not in time; None if it goes on or raises an error.

    Args:
        seconds: How long it may take.
        most_bytes: Memory that it may ask for, where the system can limit it.
    """
    return _run(content, once=True, seconds=seconds, most_bytes=most_bytes)


def _run(content: bytes, *, once: bool, seconds: float | None = None, most_bytes: int = 0) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.tflite"
        path.write_bytes(content)
        command = [sys.executable, "-c", _CHILD, str(path), "once" if once else "thoroughly", str(most_bytes)]
        try:
            child = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"one input takes more than {seconds:g} s"
        except OSError:  # no process can be started here
            return None
    if child.returncode < 0:
        return f"it ends the process ({signal.Signals(-child.returncode).name})"
    if child.returncode == 0 or once:
        return None
    return (child.stderr.strip().splitlines() or ["no reason is given"])[-1][:200]
