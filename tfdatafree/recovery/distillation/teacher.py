"""The network that is imitated: its values, and what its BatchNorms see of a batch beside what they store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.inputs.stored_statistics import StoredStatistics
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.mixed_precision import in_float32, mixed


@dataclass(frozen=True)
class Seen:
    """What the teacher makes of a batch.

    Attributes:
        values: The named tensors.
        moments: (2, channels of all BatchNorms), as `StoredStatistics` takes them; None where they were not asked for.
    """

    values: dict[str, Any]
    moments: tf.Tensor | None


class Teacher:
    """A separated graph with its BatchNorms, which compute with their stored statistics. It never changes.

    Args:
        mixed_precision: Multiply kernels in bfloat16 where no statistics are asked for.
    """

    def __init__(self, graph: Graph, *, mixed_precision: bool = False):
        self.graph = graph
        normalized = any(is_batchnorm(graph.layer_of(node)) for node in graph.nodes)
        self._stored = StoredStatistics(graph) if normalized else None
        self._with_tensors = differentiable(graph.with_tensors())
        # The same values in fewer operations. Folded layers write the tensors that their BatchNorms wrote.
        self._folded = differentiable(fold(graph).graph.with_tensors())
        if mixed_precision:
            self._folded = mixed(self._folded)
        if self._stored is not None:  # their statistics are read as arrays
            self._with_tensors.layers |= {key: graph.layers[key] for key in self._stored.keys}

    @property
    def has_statistics(self) -> bool:
        """Whether it has BatchNorms."""
        return self._stored is not None

    @property
    def stored(self) -> StoredStatistics:
        """What its BatchNorms store."""
        assert self._stored is not None, "whoever needs statistics asks `has_statistics` first"
        return self._stored

    def see(self, inputs: Sequence[Any], tensors: Sequence[str], *, statistics: bool = False) -> Seen:
        """The values of the named tensors, differentiable in the inputs.

        Args:
            statistics: Also return the moments at all BatchNorms. The graph must have some.
        """
        stored = self.stored if statistics else None
        needed = set(tensors) if stored is None else {*tensors, *(node.output for node in stored.nodes)}
        folds = stored is None and needed <= self._folded.specs.keys()
        graph = (self._folded if folds else self._with_tensors).up_to(sorted(needed))
        moments_of: dict[str, list] = {key: [] for key in (stored.keys if stored is not None else ())}

        def call(node: Node, live: Mapping[str, Any]) -> tuple:
            if stored is not None and node.layer in moments_of:
                x = live[node.inputs[0]]
                moments_of[node.layer].append(stored.observe(node.layer, x))
                return (stored.normalize(node.layer, x),)
            return in_float32(graph.call(node, live))

        live = dict(zip(graph.inputs, inputs, strict=True))
        for _, live in graph.walk(inputs, call):
            pass
        # A layer called several times stored the statistics of all its calls.
        means = [tf.add_n(found) / len(found) for found in moments_of.values()]
        return Seen({tensor: live[tensor] for tensor in tensors}, tf.concat(means, axis=-1) if means else None)
