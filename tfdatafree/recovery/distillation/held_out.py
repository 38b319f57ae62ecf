"""Judges a student by inputs that do not train it, without labels."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfdatafree.model.graph import Graph
from tfdatafree.numerics.metrics import output_discrepancy
from tfdatafree.recovery.distillation.student import Student


class HeldOut:
    """Inputs, and the teacher's outputs for them.

    Args:
        inputs: One array (n, ...) per graph input.
        batch_size: Inputs that pass through a network at once.
    """

    def __init__(self, teacher: Graph, inputs: Sequence[np.ndarray], batch_size: int):
        self.inputs, self._size = list(inputs), batch_size
        self._targets = teacher.run_in_batches(self.inputs, batch_size)

    def of(self, student: Student):
        """A function without arguments: the present student's Output Discrepancy, mean over the outputs; inf if not finite."""
        outputs_of = tf.function(
            lambda inputs: student.values_of(inputs, student.graph.outputs), autograph=False, reduce_retracing=True
        )

        def discrepancy() -> float:
            parts = []
            for at in range(0, len(self.inputs[0]), self._size):
                values = outputs_of([tf.constant(array[at : at + self._size]) for array in self.inputs])
                parts.append([values[tensor].numpy() for tensor in student.graph.outputs])
            return self._distance([np.concatenate(column) for column in zip(*parts, strict=True)])

        return discrepancy

    def of_graph(self, graph: Graph) -> float:
        """The Output Discrepancy of a graph, as `of` measures it."""
        return self._distance(graph.run_in_batches(self.inputs, self._size))

    def _distance(self, outputs: Sequence[np.ndarray]) -> float:
        if not all(np.isfinite(array).all() for array in outputs):
            return float("inf")
        return float(np.mean([output_discrepancy(a, b) for a, b in zip(outputs, self._targets, strict=True)]))
