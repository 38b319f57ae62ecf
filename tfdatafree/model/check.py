"""Checks whether a graph can be compressed at all."""

import numpy as np

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout


def require_quantizable(graph: Graph) -> None:
    """Raises UnsupportedModelError unless some layer has a kernel, and for weights that are not finite."""
    if not any(find_layout(layer) for layer in graph.layers.values()):
        classes = ", ".join(sorted({layer.class_name for layer in graph.layers.values()})) or "none"
        raise UnsupportedModelError(
            f"'{graph.name}' has no layer with weights to compress (convolution or Dense); its layers are: {classes}."
        )
    for key, layer in graph.layers.items():
        for values in layer.weights:
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise UnsupportedModelError(
                    f"'{key}' ({layer.class_name}) holds NaN or infinite weights; retrain it or take a sound checkpoint."
                )
