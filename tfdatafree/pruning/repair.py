"""What makes good a part of what zeros take: least squares, variances, and means.

    refitted   the weights that stay change the layer's output least                     (`second_order.refit`)
    restored   every output channel has the variance of the float layer's again, within a factor of 2
    student    the reference with these kernels, and biases that take the shift of the means back

Zeros stay zeros in all of them.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import from_output_last, kernel_of, layout_of, with_kernel
from tfdatafree.numerics.second_moment import output_variance, refit
from tfdatafree.pruning.problem import Problem
from tfdatafree.quantization.bias import correct_biases

# The most that restoring its variance scales a channel by.
_MOST_RESTORED = 2.0


def refitted(problem: Problem, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights on `masks` by least squares; those of a layer whose inputs are not known keep their values."""
    return {
        key: refit(matrix, masks[key], problem.covariances[key])
        if key in problem.covariances and not masks[key].all()
        else matrix * masks[key]
        for key, matrix in problem.matrices.items()
    }


def restored(problem: Problem, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`weights` with each output channel scaled such that its variance is again that of the float layer."""
    found = {}
    for key, values in weights.items():
        found[key] = values
        if key not in problem.covariances:
            continue
        wanted = output_variance(problem.matrices[key], problem.covariances[key])
        present = output_variance(values, problem.covariances[key])
        ratio = np.sqrt(wanted / np.where(present > 0, present, 1))
        gain = np.where(present > 0, np.clip(ratio, 1 / _MOST_RESTORED, _MOST_RESTORED), 1)
        found[key] = (values * gain).astype(values.dtype)
    return found


def student(problem: Problem, weights: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """The reference with these kernels and, if asked for, corrected biases; and why which bias was not."""
    graph = problem.reference.copy()
    for key, values in weights.items():
        layer = graph.layers[key]
        graph.layers[key] = with_kernel(layer, from_output_last(values, kernel_of(layer).shape, layout_of(layer)))
    if not problem.options.correct:
        return graph, {}
    return correct_biases(graph, problem.reference, problem.means)
