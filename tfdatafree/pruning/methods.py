"""The methods of pruning. Each takes a problem and returns the weights of all layers, with zeros for dropped weights.

"obs" and "str" distribute the weights over layers by measured damage. Energies of different layers cannot be compared, because
the results depend on some layers' errors more than on others'. So each layer is pruned alone, by one threshold on all energies,
and the damage to the results is measured on generated images. Where a unit of energy costs more than elsewhere, the energies of
this layer then count for more. This is repeated (`sparsity.balance`). For a classifier, the damage comes from the covariance of
its inputs, which includes the classes that generated images do not show.

With the paper's inputs, which are independent samples, nothing is measured, so that they can be judged alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from tfdatafree.measuring.damage import single_layer_damages
from tfdatafree.numerics.second_moment import DAMPING, damped, output_change
from tfdatafree.pruning.pattern_mask import mask_of
from tfdatafree.pruning.problem import Problem
from tfdatafree.pruning.repair import build_pruned, refit_weights, restore_variances
from tfdatafree.pruning.soft_threshold import train_to_count, train_with_strength
from tfdatafree.pruning.sparsity import (
    balance,
    erk,
    erk_lwdf,
    largest_of_all,
    largest_of_each,
    scaled,
    share_rest,
    uniform,
)
from tfdatafree.pruning.support import choose_support, energy_scores

# How far sensitivities of outputs are trusted (1: fully; 0: all outputs count alike). Then the least sensitivity of an output, as
# a part of its layer's mean.
_SENSITIVITY, _LEAST_SENSITIVITY = 0.5, 1e-3


def _energy(problem: Problem) -> dict[str, np.ndarray]:
    return _apply_masks(problem, _highest(problem, _energy_scores(problem)))


def _global(problem: Problem) -> dict[str, np.ndarray]:
    return _apply_masks(problem, _highest(problem, _magnitudes(problem.matrices)))


def _global_unfolded(problem: Problem) -> dict[str, np.ndarray]:
    return _apply_masks(problem, _highest(problem, _magnitudes(problem.unfolded)))


def _uniform(problem: Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _share_out(problem, problem.sizes, uniform))


def _erk(problem: Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _share_out(problem, problem.shapes, erk))


def _erk_lwdf(problem: Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _share_out(problem, problem.shapes, erk_lwdf))


def _obs(problem: Problem) -> dict[str, np.ndarray]:
    weighted = _weighted(problem)
    counts = _balance_counts(problem, _energy_scores(weighted, DAMPING))
    by_magnitude = _largest_masks(problem, _magnitudes(weighted.matrices), counts)
    masks = {
        key: choose_support(matrix, problem.covariances[key], counts[key], pattern=problem.pattern)
        if key in problem.covariances
        else by_magnitude[key]
        for key, matrix in weighted.matrices.items()
    }
    return _apply_masks(problem, masks)


def _weighted(problem: Problem) -> Problem:
    """The problem with weights scaled by how much the results need each output."""
    return dataclasses.replace(problem, matrices={key: _weight_outputs(problem, key) for key in problem.matrices})


def _weight_outputs(problem: Problem, key: str) -> np.ndarray:
    """The layer's weights, each output scaled by its sensitivity to the power _SENSITIVITY / 2, which weighs its errors."""
    sensitivity = problem.sensitivities.get(key)
    if sensitivity is None or not sensitivity.any():
        return problem.matrices[key]
    sensitivity = sensitivity / sensitivity.mean()
    return problem.matrices[key] * ((sensitivity + _LEAST_SENSITIVITY) ** (_SENSITIVITY / 2)).astype(np.float32)


def _str(problem: Problem) -> dict[str, np.ndarray]:
    options, weights = problem.options, {}
    counts = {key: problem.sizes[key] - round(part * problem.sizes[key]) for key, part in problem.fixed.items()}
    if options.strength is None:
        counts = _balance_counts(problem, _energy_scores(problem, DAMPING))
    by_magnitude = largest_of_each({key: np.abs(problem.matrices[key]) for key in counts}, counts)
    for key, matrix in problem.matrices.items():
        covariance = problem.covariances.get(key)
        if covariance is None:
            weights[key] = matrix * by_magnitude[key] if key in counts else matrix
        elif key not in counts:
            assert options.strength is not None, "without a strength all layers have counts"
            weights[key] = train_with_strength(matrix, covariance, options.strength)
        else:
            weights[key] = train_to_count(matrix, covariance, counts[key])
    return weights


def _budget(problem: Problem) -> dict[str, np.ndarray]:
    return _largest(problem, {key: int(np.count_nonzero(values)) for key, values in _str(problem).items()})


METHODS = {
    "obs": _obs,
    "str": _str,
    "energy": _energy,
    "global": _global,
    "global_unfolded": _global_unfolded,
    "uniform": _uniform,
    "erk": _erk,
    "erk_lwdf": _erk_lwdf,
    "budget": _budget,
}


def _energy_scores(problem: Problem, damping: float = 0.0) -> dict[str, np.ndarray]:
    """`support.energy_scores`; where a layer's inputs are unknown, those of inputs of equal variance."""
    scores = {}
    for key, matrix in problem.matrices.items():
        if key in problem.covariances:
            scores[key] = energy_scores(matrix, damped(problem.covariances[key], damping))
        else:
            squares = np.square(matrix.astype(np.float64))
            scores[key] = squares / max(squares.sum(), 1e-30)
    return scores


def _highest(problem: Problem, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks of the highest scores of the network; with a pattern, each layer's share of them as the pattern allows."""
    masks = _highest_of_all(problem, scores)
    return masks if problem.pattern is None else _largest_masks(problem, scores, _count_weights(masks))


def measure_prices(problem: Problem, method: str) -> dict[str, float] | None:
    """What a unit of each layer's scores costs the results at the problem's sparsity; None: `method` does not ask.

    The prices change little with the sparsity, so that they also serve near by.
    """
    if method not in ("obs", "str", "budget") or problem.options.strength is not None:
        return None
    fixed, sparsity = share_rest(problem.sizes, problem.options.zeros, problem.fixed)
    free = problem.matrices.keys() - fixed.keys()
    decided = problem.pattern is not None and problem.pattern.sparsity is not None
    if len(free) < 2 or decided or problem.options.inputs != "normalized":
        return None
    scores = _energy_scores(_weighted(problem) if method == "obs" else problem, DAMPING)
    free_problem = dataclasses.replace(
        problem, matrices={key: matrix for key, matrix in problem.matrices.items() if key in free}
    )
    free_scores = {key: values for key, values in scores.items() if key in free}
    return balance(free_scores, sparsity, functools.partial(_measure_damages, free_problem))


def _balance_counts(problem: Problem, scores: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Weights that stay per layer, so that the next weight costs the results about the same in every layer."""
    prices = dict.fromkeys(scores, 1.0) | dict(problem.prices or {})
    return _count_weights(_highest_of_all(problem, scaled(scores, prices)))


def _measure_damages(problem: Problem, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Layer key -> relative squared change of the model's results when this layer alone is pruned and repaired."""
    weights = restore_variances(problem, refit_weights(problem, masks))
    pruned, _ = build_pruned(problem, weights)
    measured = [key for key in weights if key not in problem.classifiers]
    damages = single_layer_damages(problem.reference, pruned, measured, problem.images)
    for key in problem.classifiers & weights.keys():
        damages[key] = output_change(problem.matrices[key], weights[key], problem.covariances[key])
    return damages


def _highest_of_all(problem: Problem, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks by one threshold on the scores of all layers, and of its highest scores where a layer's sparsity is fixed."""
    counts, sparsity = share_rest(problem.sizes, problem.options.zeros, problem.fixed)
    free = {key: values for key, values in scores.items() if key not in counts}
    masks = largest_of_all(free, sparsity) if free else {}
    masks |= largest_of_each({key: scores[key] for key in counts}, counts)
    return {key: masks[key] for key in scores}


def _share_out(problem: Problem, sizes: Mapping, policy: Callable[[Mapping, float], dict[str, int]]) -> dict[str, int]:
    """Weights that stay per layer. Rules fix some layers, and the policy decides for the others from their `sizes`."""
    counts, sparsity = share_rest(problem.sizes, problem.options.zeros, problem.fixed)
    free = {key: value for key, value in sizes.items() if key not in counts}
    return counts | (policy(free, sparsity) if free else {})


def _largest_masks(
    problem: Problem, scores: Mapping[str, np.ndarray], counts: Mapping[str, int]
) -> dict[str, np.ndarray]:
    pattern = problem.pattern
    if pattern is None:
        return largest_of_each(scores, counts)
    return {key: mask_of(values, pattern, counts[key]) for key, values in scores.items()}


def _magnitudes(matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.abs(matrix) for key, matrix in matrices.items()}


def _count_weights(masks: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {key: int(np.count_nonzero(mask)) for key, mask in masks.items()}


def _apply_masks(problem: Problem, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: matrix * masks[key] for key, matrix in problem.matrices.items()}


def _largest(problem: Problem, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    return _apply_masks(problem, largest_of_each(_magnitudes(problem.matrices), counts))
