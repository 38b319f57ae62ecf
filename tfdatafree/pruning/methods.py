"""The methods of pruning: a problem -> the weights of each layer, zeros where they were dropped.

Measured harm, by which "obs" and "str" share the weights out: energies of different layers do not compare, because layers
differ in what the results make of their errors. So each layer is pruned alone, as one threshold on the energies has it, and the
results are looked at on generated images; where a unit of energy cost more than elsewhere, the layer's energies count for more;
and again (`sparsity.py`, `balanced`). A classifier is measured by the covariance of its inputs, which knows of the
classes that generated images do not show. (Layers that are thought to see independent samples are not measured: what the paper's
inputs and its ablations are worth stays clear.)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from tfdatafree.measuring.damage import single_layer_damages
from tfdatafree.numerics.second_moment import DAMPING, damped, output_change
from tfdatafree.pruning.pattern_mask import mask_of
from tfdatafree.pruning.problem import Problem
from tfdatafree.pruning.repair import refitted, restored, student
from tfdatafree.pruning.soft_threshold import train_to_count, train_with_strength
from tfdatafree.pruning.sparsity import balanced, erk, erk_lwdf, largest_of_all, largest_of_each, share_rest, uniform
from tfdatafree.pruning.support import choose_support, energy_scores

# How far the sensitivity of outputs is trusted (1: it is what an error costs; 0: all outputs are alike), and the least that
# an output counts, in parts of the mean of its layer.
_SENSITIVITY, _LEAST_SENSITIVITY = 0.5, 1e-3


def _energy(problem: Problem) -> dict[str, np.ndarray]:
    return _masked(problem, _highest(problem, _energy_scores(problem)))


def _global(problem: Problem) -> dict[str, np.ndarray]:
    return _masked(problem, _highest(problem, _magnitudes(problem.matrices)))


def _global_unfolded(problem: Problem) -> dict[str, np.ndarray]:
    return _masked(problem, _highest(problem, _magnitudes(problem.unfolded)))


def _uniform(problem: Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _shared_out(problem, problem.sizes, uniform))


def _erk(problem: Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _shared_out(problem, problem.shapes, erk))


def _erk_lwdf(problem: Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _shared_out(problem, problem.shapes, erk_lwdf))


def _obs(problem: Problem) -> dict[str, np.ndarray]:
    weighted = dataclasses.replace(problem, matrices={key: _weighted(problem, key) for key in problem.matrices})
    counts = _balanced_counts(problem, _energy_scores(weighted, DAMPING))
    by_magnitude = _largest_masks(problem, _magnitudes(weighted.matrices), counts)
    masks = {
        key: choose_support(matrix, problem.covariances[key], counts[key], pattern=problem.pattern)
        if key in problem.covariances
        else by_magnitude[key]
        for key, matrix in weighted.matrices.items()
    }
    return _masked(problem, masks)


def _weighted(problem: Problem, key: str) -> np.ndarray:
    """The layer's weights with each output scaled by its sensitivity to the power _SENSITIVITY / 2: errors count by it."""
    sensitivity = problem.sensitivities.get(key)
    if sensitivity is None or not sensitivity.any():
        return problem.matrices[key]
    sensitivity = sensitivity / sensitivity.mean()
    return problem.matrices[key] * ((sensitivity + _LEAST_SENSITIVITY) ** (_SENSITIVITY / 2)).astype(np.float32)


def _str(problem: Problem) -> dict[str, np.ndarray]:
    options, found = problem.options, {}
    counts = {key: problem.sizes[key] - round(part * problem.sizes[key]) for key, part in problem.fixed.items()}
    if options.strength is None:
        counts = _balanced_counts(problem, _energy_scores(problem, DAMPING))
    by_magnitude = largest_of_each({key: np.abs(problem.matrices[key]) for key in counts}, counts)
    for key, matrix in problem.matrices.items():
        covariance = problem.covariances.get(key)
        if covariance is None:
            found[key] = matrix * by_magnitude[key] if key in counts else matrix
        elif key not in counts:
            found[key] = train_with_strength(matrix, covariance, options.strength)
        else:
            found[key] = train_to_count(matrix, covariance, counts[key])
    return found


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
    """`second_order.energy_scores`; inputs of equal variance where nothing is known of them."""
    scores = {}
    for key, matrix in problem.matrices.items():
        if key in problem.covariances:
            scores[key] = energy_scores(matrix, damped(problem.covariances[key], damping))
        else:
            squares = np.square(matrix.astype(np.float64))
            scores[key] = squares / max(squares.sum(), 1e-30)
    return scores


def _highest(problem: Problem, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks of the highest scores of the network, those of each layer as the pattern lets them lie."""
    masks = _highest_of_all(problem, scores)
    return masks if problem.pattern is None else _largest_masks(problem, scores, _counts(masks))


def _balanced_counts(problem: Problem, scores: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Weights kept per layer such that the next weight costs the results about alike in every layer, as measured alone."""
    counts, sparsity = share_rest(problem.sizes, problem.options.sparsity, problem.fixed)
    free = {key: values for key, values in scores.items() if key not in counts}
    decided = problem.pattern is not None and problem.pattern.sparsity is not None
    if len(free) < 2 or decided or problem.options.inputs != "normalized":
        return _counts(_highest_of_all(problem, scores))
    some = dataclasses.replace(problem, matrices={key: problem.matrices[key] for key in free})
    return counts | _counts(balanced(free, sparsity, functools.partial(_harm, some)))


def _harm(problem: Problem, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Layer key -> relative squared change of the model's results when this layer alone is pruned and repaired."""
    weights = restored(problem, refitted(problem, masks))
    pruned, _ = student(problem, weights)
    others = [key for key in weights if key not in problem.classifiers]
    found = single_layer_damages(problem.reference, pruned, others, problem.images)
    for key in problem.classifiers & weights.keys():
        found[key] = output_change(problem.matrices[key], weights[key], problem.covariances[key])
    return found


def _highest_of_all(problem: Problem, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks by one threshold for the scores of all layers whose sparsity is not fixed, and of each other layer's highest."""
    counts, sparsity = share_rest(problem.sizes, problem.options.sparsity, problem.fixed)
    free = {key: values for key, values in scores.items() if key not in counts}
    masks = largest_of_all(free, sparsity) if free else {}
    masks |= largest_of_each({key: scores[key] for key in counts}, counts)
    return {key: masks[key] for key in scores}


def _shared_out(problem: Problem, known: Mapping, policy: Callable[[Mapping, float], dict[str, int]]) -> dict[str, int]:
    """Weights kept per layer: what is fixed, and the policy's among the others, of which it gets what is `known`."""
    counts, sparsity = share_rest(problem.sizes, problem.options.sparsity, problem.fixed)
    free = {key: value for key, value in known.items() if key not in counts}
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


def _counts(masks: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {key: int(np.count_nonzero(mask)) for key, mask in masks.items()}


def _masked(problem: Problem, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: matrix * masks[key] for key, matrix in problem.matrices.items()}


def _largest(problem: Problem, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    return _masked(problem, largest_of_each(_magnitudes(problem.matrices), counts))
