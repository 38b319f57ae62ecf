"""`tfdatafree demo`: compresses the small network that comes with the package."""

from pathlib import Path

import numpy as np
from absl import flags

from tfdatafree.cli.command import NAME, Command, Flags, import_tensorflow, require_writable, shown_progress
from tfdatafree.demo import load_demo, require_sklearn


def _define(options: Flags) -> None:
    options.add("output", "demo.tflite", "Where to write the TFLite file.", meta="FILE.tflite", short="o")


def _run(values: flags.FlagValues) -> None:
    output = Path(values.output)
    require_writable("output", output, (".tflite",), None, overwrite=True)
    require_sklearn()
    import_tensorflow()
    from tfdatafree.compress import compress

    model, images, labels = load_demo()
    print(f"A small network for handwritten digits: {model.count_params():,} weights, BatchNorm, a residual sum.")
    compressed = compress(model, verbose=shown_progress())
    compressed.save(output, overwrite=True)
    report = compressed.report
    rows = (
        ("float", np.asarray(model.predict(images, verbose=0)), report.float_bytes),
        ("integer", np.asarray(compressed.predict(images)), report.bytes),
    )
    print(f"Compressed in {report.seconds:.1f} s without data. On {len(labels)} digits that were not used in training:")
    print()
    for name, outputs, size in rows:
        print(f"  {name:<8} accuracy {100 * (outputs.argmax(-1) == labels).mean():6.2f} %   {size:>7,} bytes")
    print()
    print(f"wrote {output}; look into it with: {NAME} inspect {output}")


COMMAND = Command(
    (),
    "",
    "Compresses a small network that comes with tfdatafree, and measures it.",
    "It writes demo.tflite into the current folder, and replaces an older one.",
    "tfdatafree demo",
    _define,
    _run,
)
