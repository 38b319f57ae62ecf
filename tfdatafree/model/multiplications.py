"""How many multiplications one pass through a network takes: what running it costs, before it is run."""

import math

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of


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
