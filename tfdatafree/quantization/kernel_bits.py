"""The bits of single kernels: those of the recipe, and more where its options or rules say so."""

from collections.abc import Collection, Iterable, Mapping

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.recipe.quantize import Quantize


def kernel_bits(graph: Graph, options: Quantize, ruled: Mapping[str, int]) -> dict[str, int]:
    """Layer -> bits of its kernel, for the layers where they may differ from `options.weight_bits`.

    Args:
        ruled: The same by rules, which decide before options do.
    """
    bits: dict[str, int] = {}
    if options.depthwise_bits is not None:
        layouts = {key: find_layout(layer) for key, layer in graph.layers.items()}
        depthwise = (key for key, layout in layouts.items() if layout is not None and layout.kind == "depthwise")
        bits |= dict.fromkeys(depthwise, options.depthwise_bits)
    if options.first_last_bits is not None:
        ends = first_and_last(graph)
        bits |= {key: max(bits.get(key, 0), options.first_last_bits) for key in ends}
    return bits | dict(ruled)


def first_and_last(graph: Graph) -> set[str]:
    """Layers with a kernel that read no other such layer's results, and those whose results no other one reads."""
    forward = [(node.layer, node.inputs, node.outputs) for node in graph.nodes]
    backward = [(layer, outputs, inputs) for layer, inputs, outputs in reversed(forward)]
    kernels = {key for key, layer in graph.layers.items() if find_layout(layer) is not None}
    return _foremost(forward, kernels) | _foremost(backward, kernels)


def _foremost(steps: Iterable[tuple[str, Collection[str], Collection[str]]], kernels: Collection[str]) -> set[str]:
    """The layers of `kernels` that no other one comes before; a step is (layer, tensors before it, tensors behind it)."""
    foremost: set[str] = set()
    behind: set[str] = set()
    for layer, before, after in steps:
        follows = not behind.isdisjoint(before)
        if layer in kernels and not follows:
            foremost.add(layer)
        if layer in kernels or follows:
            behind.update(after)
    return foremost
