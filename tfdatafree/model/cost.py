"""What running a network costs, and how much one input shows of it, before it is run."""

import math

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import find_layout, kernel_of

# From this number of positions on, one input shows a channel in many states.
_MANY_POSITIONS = 2**12


def multiplications(graph: Graph) -> int:
    """Multiplications of one example in convolutions and dense layers, padding counted as input. Unknown sizes count as 1."""
    return sum(multiplications_of(graph, node) for node in graph.nodes)


def multiplications_of(graph: Graph, node: Node) -> int:
    """Multiplications of one node, as `multiplications` counts them; 0 without a kernel."""
    layer = graph.layer_of(node)
    layout = find_layout(layer)
    if layout is None:
        return 0
    # A kernel is applied once per output position, or once per input position if it is transposed.
    tensor = node.inputs[0] if layout.kind == "transpose" else node.output
    positions = math.prod(size or 1 for size in graph.specs[tensor].shape[1:-1])
    return positions * kernel_of(layer).size


def is_full_image(graph: Graph) -> bool:
    """Whether every tensor keeps the extent of an image, as in networks for super-resolution or denoising.

    One input then shows every channel at thousands of positions. Behind a pooling or a Flatten it shows a channel once.
    """
    return all(math.prod(size or 1 for size in spec.shape[1:-1]) >= _MANY_POSITIONS for spec in graph.specs.values())
