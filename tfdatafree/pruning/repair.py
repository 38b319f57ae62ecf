"""Repairs a part of the error that zeros cause: by least squares, and by correcting variances and means.

    refit_weights      the remaining weights change the layer's output least                     (`second_moment.refit`)
    restore_variances  every output channel has the variance of the float layer's again, within a factor of 2
    build_pruned       the reference with these kernels, and with biases that take back the shift of the means

Zeros stay zeros in all of them.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import from_output_last, kernel_of, layout_of, with_kernel
from tfdatafree.numerics.second_moment import output_variance, refit
from tfdatafree.pruning.problem import Problem
from tfdatafree.quantization.bias import correct_biases

# The largest factor by which a channel is scaled to restore its variance.
_LARGEST_GAIN = 2.0


def refit_weights(problem: Problem, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights on `masks` by least squares; in layers without a covariance they keep their values."""
    return {
        key: refit(matrix, masks[key], problem.covariances[key])
        if key in problem.covariances and not masks[key].all()
        else matrix * masks[key]
        for key, matrix in problem.matrices.items()
    }


def restore_variances(problem: Problem, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`weights` with each output channel scaled so that its variance is again that of the float layer."""
    scaled = {}
    for key, values in weights.items():
        scaled[key] = values
        if key not in problem.covariances:
            continue
        reference = output_variance(problem.matrices[key], problem.covariances[key])
        pruned = output_variance(values, problem.covariances[key])
        ratio = np.sqrt(reference / np.where(pruned > 0, pruned, 1))
        gain = np.where(pruned > 0, np.clip(ratio, 1 / _LARGEST_GAIN, _LARGEST_GAIN), 1)
        scaled[key] = (values * gain).astype(values.dtype)
    return scaled


def build_pruned(problem: Problem, weights: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """(the reference with these kernels, and with corrected biases if the options say so; layer -> why its bias was not)."""
    graph = problem.reference.copy()
    for key, values in weights.items():
        layer = graph.layers[key]
        graph.layers[key] = with_kernel(layer, from_output_last(values, kernel_of(layer).shape, layout_of(layer)))
    if not problem.options.correct:
        return graph, {}
    return correct_biases(graph, problem.reference, problem.means)
