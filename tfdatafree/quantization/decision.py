"""An integer network as it is decided: what a file, a simulation and an estimate of size are made of."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import NO_RULES, LayerRules
from tfdatafree.targets.registry import GENERIC
from tfdatafree.targets.target import Target


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Integers, ranges and options of one network.

    Attributes:
        graph: Kernels on their grids, biases corrected.
        reference: The folded float network with the same tensors.
        kernels: Layer -> integers of its kernel.
        ranges: Tensor -> range of its values.
        options: How to quantize.
        rules: What single layers get instead.
        target: Device or runtime that the file is for.
        file_ranges: Ranges of all tensors by their names in the float file, as `Built.file_ranges` of a file of the same graph
            with other weights has them: all grids become that file's. None: tensors inside operations are measured, and
            decision tensors get headroom.
        reasons: Layer -> what was not done to it, and why.
    """

    graph: Graph
    reference: Graph
    kernels: Mapping[str, IntegerKernel]
    ranges: Mapping[str, Range]
    options: Quantize
    rules: LayerRules = NO_RULES
    target: Target = GENERIC
    file_ranges: Mapping[str, Range] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def with_weights(self, graph: Graph, grids: Mapping[str, Quantizer | None]) -> "Decision":
        """The same decision for other weights.

        Args:
            graph: The network with kernels that lie on `grids`, and with other biases.
            grids: Layer -> grid of its kernel, along an axis of Keras; None: it keeps the integers that it has here.
        """
        kernels = {
            key: self.kernels[key] if grid is None else IntegerKernel.from_float(graph.layers[key], grid)
            for key, grid in grids.items()
        }
        return dataclasses.replace(self, graph=graph, kernels=kernels)
