"""Compares pruned graphs with their reference, on inputs that both see. No labels are needed."""

from collections.abc import Sequence

import numpy as np

from tfdatafree.model.classes import class_tensors
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.saturation import softmax_inputs
from tfdatafree.numerics.fidelity import Fidelity, compare
from tfdatafree.numerics.metrics import output_discrepancy


class Judge:
    """Compares the decision tensors of pruned graphs with those of `reference`.

    Args:
        inputs: Arrays (n, ...), one per graph input.
    """

    def __init__(self, reference: Graph, inputs: Sequence[np.ndarray]):
        self._inputs = inputs
        self._watched = decision_tensors(reference) or reference.outputs
        self._reference = self._results(reference)
        classes = {*softmax_inputs(reference), *class_tensors(reference, self._watched)}
        self._classes = [tensor in classes for tensor in self._watched]

    def discrepancy(self, graph: Graph) -> float:
        """Output Discrepancy; the sum over several results."""
        pairs = zip(self._results(graph), self._reference, strict=True)
        return sum(output_discrepancy(np.nan_to_num(pruned), reference) for pruned, reference in pairs)

    def fidelity(self, graph: Graph) -> Fidelity:
        """The fidelity of the worst result: one that fails, one that is not kept, or else that of the smallest share."""
        results = zip(self._reference, self._results(graph), self._classes, strict=True)
        found = [compare(reference, pruned, classes=classes) for reference, pruned, classes in results]
        return min(found, key=lambda fidelity: (not fidelity.fails, fidelity.keeps, fidelity.share))

    def _results(self, graph: Graph) -> list[np.ndarray]:
        return graph.up_to(self._watched).run_in_batches(self._inputs, graph.batch_size())
