"""All that was decided about an integer network: files, simulations and estimates of size are made from it."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.placement import Placement
from tfdatafree.quantization.wide_tensors import wide_tensors
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import NO_RULES, LayerRules
from tfdatafree.targets.registry import GENERIC
from tfdatafree.targets.target import Target
from tfdatafree.tflite.metadata import About


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Integers, ranges and options of one network.

    Attributes:
        graph: Kernels on their grids, biases corrected.
        reference: The folded float network with the same tensors.
        kernels: Layer -> integers of its kernel.
        ranges: Tensor -> range of its values.
        limits: Tensor that only saturating functions read -> (low, high) beyond which values do not matter.
        real: Whether ranges are from the user's own inputs.
        options: How to quantize.
        rules: Options of single layers.
        target: Device or runtime that the file is for.
        file_ranges: Float-file tensor name -> range: the `Built.file_ranges` of a file of the same graph with other weights,
            whose grids are then used. None measures tensors inside operations, and gives decision tensors headroom.
        reasons: Layer -> what was not done to it, and why.
        tail: Joins the graph's outputs to those of the model; None if they are the same.
        notes: Layer -> what was done to it.
        about: What the file says of its making; None: nothing.
    """

    graph: Graph
    reference: Graph
    kernels: Mapping[str, IntegerKernel]
    ranges: Mapping[str, Range]
    options: Quantize
    rules: LayerRules = NO_RULES
    target: Target = GENERIC
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    real: bool = False
    file_ranges: Mapping[str, Range] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    tail: Graph | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    about: About | None = None

    @functools.cached_property
    def placement(self) -> Placement:
        """Which tensors of the graph are rounded, and which share a grid."""
        return Placement(self.graph, self.rules, wide_tensors(self.graph, self.target))

    def with_weights(self, graph: Graph, grids: Mapping[str, Quantizer | None]) -> "Decision":
        """The same decision for other weights.

        Args:
            graph: The network with other kernels, which lie on `grids`, and other biases.
            grids: Layer -> grid along an axis of its Keras kernel. None: the layer keeps its integers.
        """
        kernels = {
            key: self.kernels[key] if grid is None else IntegerKernel.from_float(graph.layers[key], grid)
            for key, grid in grids.items()
        }
        return dataclasses.replace(self, graph=graph, kernels=kernels)
