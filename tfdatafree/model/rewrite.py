"""The result of a pass, and passes applied one after another.

A pass is a function (graph, ...) -> Rewrite. It never changes the graph that it is given.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.model.graph import Graph

Scales = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A new graph, and what one pass, or several passes in a row, did to get it.

    Holds for every instance: each layer that a pass wanted to change and did not has its reason in `kept`. A layer that is
    named in neither `kept` nor `notes` needed no change, or its change needs no words. A pass that has more to say
    returns a subclass with more fields; `then` passes on the fields of this class only.

    Attributes:
        graph: The new graph.
        kept: Layer -> why it was left alone.
        notes: Layer -> what was done.
        scales: First layer of those that write the same channels -> what these channels were multiplied by, (channels,).
        inexact: Options of the recipe that may move the float outputs by more than rounding would. Whoever applies the passes
            measures by how much. Empty: the function is meant to be the same.
    """

    graph: Graph
    kept: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    scales: Scales = field(default_factory=dict)
    inexact: tuple[str, ...] = ()

    def then(self, apply: "Pass") -> "Rewrite":
        """This rewrite and the pass `apply` after it. A layer that both mention keeps both texts."""
        after = apply(self.graph)
        return Rewrite(
            graph=after.graph,
            kept=_joined(self.kept, after.kept),
            notes=_joined(self.notes, after.notes),
            scales=multiplied(self.scales, after.scales),
            inexact=(*self.inexact, *after.inexact),
        )


Pass = Callable[[Graph], Rewrite]


def apply_passes(graph: Graph, passes: Iterable[Pass]) -> Rewrite:
    """The passes applied in their order."""
    rewrite = Rewrite(graph=graph)
    for apply in passes:
        rewrite = rewrite.then(apply)
    return rewrite


def multiplied(first: Scales, second: Scales) -> dict[str, np.ndarray]:
    """Scales of the channels after two scalings: one after the other on the same channels is their product."""
    return {**first, **{name: first.get(name, 1.0) * scale for name, scale in second.items()}}


def _joined(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    both = {name: f"{first[name]}; {text}" for name, text in second.items() if name in first and first[name] != text}
    return {**first, **second, **both}
