"""Finds joined branches that lose their values on the common grid, such as the scores of a detector beside its boxes.

useful step of a branch   the scale of the grid that its own range would get; not below the scale of the grid that it comes from
forced step               the scale of the grid of the tensor that joins the branches
so that a branch whose useful step is more than 8 times smaller than the forced one keeps fewer than 32 of its 256 levels.
"""

from dataclasses import dataclass

from tfdatafree.model.joins import branch_names, joins_branches
from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.numerics.range import without_room
from tfdatafree.quantization.decision import Decision

# Three bits of a branch's eight.
UNEVEN = 8.0


@dataclass(frozen=True)
class Uneven:
    """A node that joins branches of very different steps.

    Attributes:
        node: Name of the node.
        tensor: What it writes.
        forced: Step of that tensor's grid.
        steps: Branch -> its useful step.
    """

    node: str
    tensor: str
    forced: float
    steps: dict[str, float]

    @property
    def lost(self) -> dict[str, float]:
        """The branches that lose, each with its useful step."""
        return {name: step for name, step in self.steps.items() if step * UNEVEN < self.forced}

    def __str__(self) -> str:
        widest = max(self.steps, key=lambda name: self.steps[name])
        lost = " and ".join(f"'{name}' needs steps of {step:.2g}" for name, step in self.lost.items())
        return f"in '{self.node}' {lost}, '{widest}' forces {self.forced:.2g} on it"


def find_uneven(decision: Decision) -> list[Uneven]:
    """The nodes whose branches lose, in order of execution."""
    graph, bits = decision.graph, decision.options.activation_bits
    grids, found = decision.placement.grids(decision.ranges, bits), []
    for node in graph.nodes:
        if not joins_branches(graph, node) or node.output not in grids:
            continue
        common, steps = grids[node.output], dict[str, float]()
        for tensor, name in zip(node.inputs, branch_names(graph, list(node.inputs)), strict=True):
            range_ = decision.ranges.get(tensor)
            if range_ is None or range_.low == range_.high:
                continue
            if bits == 16:
                range_ = without_room(range_)
            step = float(activation_quantizer(range_.low, range_.high, min(bits, 8)).scale)
            own = grids.get(tensor)
            if own is not None and own != common:
                step = max(step, float(own.scale))  # it is rounded before
            steps[name] = step
        uneven = Uneven(node.name, node.output, float(common.scale), steps)
        if uneven.lost:
            found.append(uneven)
    return found
