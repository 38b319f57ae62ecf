"""The inputs that a file was verified on, for when it is written once more."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph


@dataclass(frozen=True, kw_only=True)
class Probes:
    """A few inputs, kept where the user gave them and otherwise made again from their seed.

    Attributes:
        input_range: (low, high) of the generated inputs.
        seed: Their seed.
        given: The user's own inputs in their place, one array (n, *shape) per graph input.
    """

    input_range: tuple[float, float]
    seed: int
    given: Sequence[np.ndarray] | None = None

    def first(self, n: int, graph: Graph) -> list[np.ndarray]:
        """The first `n` of them, one array per input of `graph`."""
        if self.given is not None:
            return [array[:n] for array in self.given]
        return make_inputs(graph, n, self.input_range, seed=self.seed)
