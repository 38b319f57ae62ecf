"""The inputs that a file was verified on. They are needed again when it is rewritten."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRanges


@dataclass(frozen=True, kw_only=True)
class Probes:
    """A few inputs. The user's are stored, and generated ones are made again from their seed.

    Attributes:
        ranges: Ranges of the generated inputs.
        seed: Their seed.
        user_inputs: The user's own inputs, one array (n, *shape) per graph input; None: inputs are generated.
    """

    ranges: InputRanges
    seed: int
    user_inputs: Sequence[np.ndarray] | None = None

    def first(self, n: int, graph: Graph) -> list[np.ndarray]:
        """The first `n` of them, one array per input of `graph`."""
        if self.user_inputs is not None:
            return [array[:n] for array in self.user_inputs]
        return make_inputs(graph, n, self.ranges, seed=self.seed)
