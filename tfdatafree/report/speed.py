"""How long the file takes on this CPU, beside what TFLite's converter alone makes of the same model."""

from collections.abc import Sequence

import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.float_model import converters_file
from tfdatafree.model.graph import Graph
from tfdatafree.runtimes.latency import Latency, latencies, summarize

OURS = "this file"
_ROUNDS = 10
# Inputs that the converter is calibrated on. Its ranges hardly change how long its file takes.
_CALIBRATED = 2


def measure_latency(source: Graph, content: bytes, inputs: Sequence[np.ndarray]) -> tuple[Latency, ...]:
    """Seconds of one inference by LiteRT with XNNPACK, one thread, and of the others the ratio to the first.

    Args:
        source: The user's model.
        content: The file that was made of it.
        inputs: Real inputs (n, *shape), on which the converter is calibrated.

    Returns:
        This file, the float file, and the int8 file of the converter; less those that it cannot make or LiteRT cannot run.
    """
    files = {OURS: content}
    calibration = [array[:_CALIBRATED] for array in inputs]
    for name, given in (("float", None), ("int8 by TFLite's converter", calibration)):
        try:
            other = converters_file(source, given)
            latencies([other], 1)
            files[name] = other
        except (ExportError, ValueError):
            continue
    return tuple(summarize(list(files), latencies(list(files.values()), _ROUNDS)))
