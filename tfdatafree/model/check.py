"""Checks whether a graph can be compressed at all."""

import numpy as np

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.model.batchnorm import is_batchnorm, variance_of
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout


def require_channels_last(graph: Graph) -> None:
    """Raises UnsupportedModelError for a layer with its channels first. The passes of `canonical/` expect them last."""
    for key, layer in graph.layers.items():
        if getattr(layer.operation, "data_format", None) == "channels_first":
            raise UnsupportedModelError(
                f"'{key}' ({layer.class_name}) has its channels first, which TFLite does not compute: build the model with "
                "data_format='channels_last', set the same weights, and transpose its inputs."
            )


def require_quantizable(graph: Graph) -> None:
    """Raises UnsupportedModelError unless some layer has a kernel, and for layers and weights that give no results."""
    if not any(find_layout(layer) for layer in graph.layers.values()):
        classes = ", ".join(sorted({layer.class_name for layer in graph.layers.values()})) or "none"
        raise UnsupportedModelError(
            f"'{graph.name}' has no layer with weights to compress (convolution or Dense); its layers are: {classes}."
        )
    for key, layer in graph.layers.items():
        if is_batchnorm(layer) and not np.all(variance_of(layer) > 0):
            raise UnsupportedModelError(
                f"'{key}' ({layer.class_name}) has a moving_variance whose sum with epsilon is not positive (smallest "
                f"{variance_of(layer).min():.3g}), so its outputs are NaN; take a sound checkpoint."
            )
        for values in layer.weights:
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise UnsupportedModelError(
                    f"'{key}' ({layer.class_name}) holds NaN or infinite weights; retrain it or take a sound checkpoint."
                )
