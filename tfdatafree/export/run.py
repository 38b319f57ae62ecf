"""Runs integer files, or the graphs that simulate them, on float inputs."""

from collections.abc import Sequence

import numpy as np

from tfdatafree.export.build import Built
from tfdatafree.export.simulate import insert_quantizers
from tfdatafree.tflite.runtime import Runner


def predict_as_written(built: Built, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Float outputs (n, ...) of the model, from the file, one input at a time; or from the graph that simulates it."""
    if built.content is None:
        outputs = insert_quantizers(built.graph, built.grids).run_in_batches(inputs)
    else:
        outputs = Runner(built.content).predict_each(inputs)
    return outputs if built.tail is None else built.tail.predict(outputs)
