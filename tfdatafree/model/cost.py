"""What running a network costs, and how much one input shows of it, before it is run."""

import math

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of

# From this number of positions on, one input shows a channel in many states.
_MANY_POSITIONS = 2**12


def multiplications(graph: Graph) -> int:
    """Multiplications of one example in convolutions and dense layers, padding counted as input. Unknown sizes count as 1."""
    total = 0
    for node in graph.nodes:
        layer = graph.layer_of(node)
        layout = find_layout(layer)
        if layout is None:
            continue
        # A kernel is applied once per output position, or once per input position if it is transposed.
        tensor = node.inputs[0] if layout.kind == "transpose" else node.output
        positions = math.prod(size or 1 for size in graph.specs[tensor].shape[1:-1])
        total += positions * kernel_of(layer).size
    return total


def is_full_image(graph: Graph) -> bool:
    """Whether every tensor keeps the extent of an image, as in networks for super-resolution or denoising.

    One input then shows every channel at thousands of positions. Behind a pooling or a Flatten it shows a channel once.
    """
    return all(math.prod(size or 1 for size in spec.shape[1:-1]) >= _MANY_POSITIONS for spec in graph.specs.values())
