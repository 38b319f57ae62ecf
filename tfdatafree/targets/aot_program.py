"""Compiles a file for one chip by LiteRT's ahead-of-time API. `targets.aot` runs it in a process of its own:

    python aot_program.py MODEL.tflite FOLDER VENDOR CHIP

FOLDER gets `compiled.tflite`, if the vendor's compiler makes one, and `outcome.json`: {"seconds": ..., "failures": [...]}.
"""

import importlib
import json
import sys
import time
from pathlib import Path


def main(model: str, folder: str, vendor: str, chip: str) -> None:
    """Compiles `model` for a chip of the vendor's `SocModel`."""
    from ai_edge_litert.aot.aot_compile import aot_compile

    target = importlib.import_module(f"ai_edge_litert.aot.vendors.{vendor}.target")
    start = time.perf_counter()
    result = aot_compile(model, folder, target.Target(target.SocModel(chip)), keep_going=True)
    seconds = time.perf_counter() - start
    for compiled in result.models:
        compiled.save(Path(folder) / "compiled.tflite", export_only=True)
    failures = [error for _, error in result.failed_backends]
    (Path(folder) / "outcome.json").write_text(json.dumps({"seconds": seconds, "failures": failures}))


if __name__ == "__main__":
    # The folder of this program, which Python puts first, has modules of this package that others could take for theirs.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    main(*sys.argv[1:])
