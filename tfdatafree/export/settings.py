"""What decides an integer file besides its weights, kept beside it, so that other weights can be written on the same grids."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.export.build import Built, build_integer_file
from tfdatafree.export.simulate import simulate
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import LayerRules
from tfdatafree.targets.target import Target


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How an integer file (or where there can be none, its simulation) is made of a graph and integer kernels.

    Attributes:
        teacher: The folded float graph that the file is compared with, tensor by tensor.
        ranges: Graph tensor -> range.
        inner: Once written: the ranges of all tensors by their names in the float file. None until then: tensors inside
            operations are measured, and decisions get their headroom.
        options, rules, target: How to quantize, and for which device.
        input_range, seed: Of the generated inputs on which the file is verified.
        given: The user's own inputs in their place.
        apart: Layer -> its integers, where its kernel lies on no grid along one axis (`rounding.kernel_grids`).
    """

    teacher: Graph
    ranges: Mapping[str, Range]
    inner: Mapping[str, Range] | None = None
    options: Quantize
    rules: LayerRules
    target: Target
    input_range: tuple[float, float]
    seed: int
    given: Sequence[np.ndarray] | None = None
    apart: Mapping[str, IntegerKernel] = field(default_factory=dict)

    def write(self, graph: Graph, kernels: Mapping[str, IntegerKernel], inputs: Sequence[np.ndarray]) -> Built:
        """The verified file of `graph`, whose kernels are these integers.

        Raises:
            ExportError: The file would not be what was decided.
        """
        given = graph, self.teacher, kernels, self.ranges, inputs, self.options
        if self.options.simulated:
            return simulate(*given, rules=self.rules, widen=self.inner is None)
        return build_integer_file(*given, rules=self.rules, input_grid=self.target.input_grid, inner=self.inner)

    def settled(
        self, built: Built, kernels: Mapping[str, IntegerKernel], grids: Mapping[str, Quantizer | None]
    ) -> "Writing":
        """The same with the grids of what was written; `grids` are those of its kernels."""
        apart = {key: integers for key, integers in kernels.items() if grids[key] is None}
        return dataclasses.replace(self, ranges=built.ranges, inner=built.inner, apart=apart)

    def inputs(self, n: int) -> list[np.ndarray]:
        """The first `n` of the inputs that the first file was made with."""
        if self.given is not None:
            return [array[:n] for array in self.given]
        return make_inputs(self.teacher, n, self.input_range, seed=self.seed)

    def integers(self, graph: Graph, grids: Mapping[str, Quantizer | None]) -> dict[str, IntegerKernel]:
        """Layer -> the integers of its kernel in `graph`, which lies on its grid; those in `apart` as they were."""
        found = dict(self.apart)
        for key, grid in grids.items():
            if grid is not None:
                flat = dataclasses.replace(grid, channel_axis=None if grid.channel_axis is None else 1)
                matrix = output_last(kernel_of(graph.layers[key]), layout_of(graph.layers[key]))
                found[key] = IntegerKernel(flat.quantize(matrix), flat)
        return found
