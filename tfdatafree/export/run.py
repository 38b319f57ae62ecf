"""Runs integer files, or the graphs that simulate them, on float inputs."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfdatafree.export.simulate import insert_quantizers
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.tflite.runtime import Runner


def predict_as_written(
    content: bytes | None, graph: Graph, grids: Mapping[str, Quantizer], inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Float outputs (n, ...) of the file, one input at a time; without a file those of the graph that simulates it."""
    if content is None:
        return insert_quantizers(graph, grids).run_in_batches(inputs)
    runner = Runner(content)
    rows = [runner.predict([array[at : at + 1] for array in inputs]) for at in range(len(inputs[0]))]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
