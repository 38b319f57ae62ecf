"""The integers of a kernel and their grid."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of
from tfdatafree.numerics.affine import Quantizer


@dataclass(frozen=True)
class IntegerKernel:
    """Integers of a layer's kernel as (anything, output channel) with the quantizer along axis 1 (or per tensor)."""

    values: np.ndarray
    quantizer: Quantizer


def kernel_grids(
    graph: Graph, kernels: Mapping[str, IntegerKernel], written: Mapping[str, Quantizer]
) -> dict[str, Quantizer | None]:
    """Layer key -> the grid that its kernel in `graph` lies on, along the axes that Keras has; None where no single axis
    does: several steps per input channel of a depthwise kernel, or factors on both sides of an equalized one.

    Args:
        written: Layer key -> the grid along the file's axes, where steps may have been raised to hold a bias.
    """
    found: dict[str, Quantizer | None] = {}
    for key, integers in kernels.items():
        layout, kernel = layout_of(graph.layers[key]), kernel_of(graph.layers[key])
        grid = dataclasses.replace(integers.quantizer, scale=written.get(key, integers.quantizer).scale)
        if grid.channel_axis is not None:
            axis = {"transpose": -2, "depthwise": -1 if kernel.shape[-2] == 1 else -2}.get(layout.kind, -1)
            grid = dataclasses.replace(grid, channel_axis=axis % kernel.ndim)
        fits = grid.channel_axis is None or kernel.shape[grid.channel_axis] == np.size(grid.scale)
        found[key] = grid if fits and np.array_equal(grid(kernel), kernel) else None
    return found
