"""Chooses which weights of a layer stay (the support), so that its output changes least.

    minimise  tr (V - W)^T H (V - W)   over V with at most k weights,     H = cov(x) + damping * mean(diag cov(x)) * I

This is the change of the layer's output around its mean; the bias correction takes back the shift of the mean.

The support comes from the alternating direction method of multipliers. V is free, D has k weights, and a growing rho pulls
both together:
    V = (H + rho I)^-1 (H W + rho D - Y),     D = the k largest of V + Y / rho,     Y += rho (V - D)
Inputs are scaled to unit variance, so that the size of a weight is what it contributes. H is factorized once.
                                        (Boyd et al. 2011, section 9.1; for networks Meng et al. 2024, ALPS)
The values are then the least-squares solution on that support (`second_moment.refit`), by conjugate gradients for all outputs
at once,
so that changing a single remaining weight cannot improve the result, and it is never worse than W with zeros.

If several taps of a kernel share one covariance, each tap's weights count as further outputs.
"""

import numpy as np
from scipy import linalg

from tfdatafree.numerics.second_moment import DAMPING, by_group, damped, from_groups, output_variance
from tfdatafree.pruning.pattern_mask import mask_of
from tfdatafree.recipe.pattern import Pattern

_ROUNDS = 30
_FIRST_RHO = 0.1
# (part of the support that changed since the last check, growth of rho): rho grows faster while the support changes much.
_GROWTH = ((0.1, 1.4), (0.005, 1.3), (0.0, 1.15))
_CHECK_EVERY = 3


def with_class_means(covariance: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The covariance of a classifier's inputs with the class means added: half of the trace is measured, half is between classes.

    In a trained network the class means, around their common mean, lie where the classifier's weights point to. So their
    covariance is, up to a factor, that of the weights over the classes. (Papyan, Han and Donoho 2020, "neural collapse",
    self-duality.) Generated inputs have no classes, and excite these directions too little.

    Args:
        covariance: (1, inputs, inputs).
        matrix: Weights (inputs, classes).
    """
    centred = (matrix - matrix.mean(axis=1, keepdims=True)).astype(np.float32)
    between = centred @ centred.T
    measured_trace, between_trace = float(np.trace(covariance[0])), float(np.trace(between))
    if between_trace <= 0:
        return covariance
    return ((covariance + (measured_trace / between_trace) * between) / 2).astype(np.float32)


def energy_scores(matrix: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Part of the variance of the layer's outputs that each weight contributes, w^2 var(x) / total; (rows, outputs)."""
    groups, inputs, _ = covariance.shape
    variance = np.einsum("gii->gi", covariance)[:, :, None]
    scores = np.square(by_group(matrix, groups, inputs).astype(np.float64)) * variance
    return from_groups(scores, matrix.shape) / max(output_variance(matrix, covariance).sum(), 1e-30)


def choose_support(
    matrix: np.ndarray,
    covariance: np.ndarray,
    count: int,
    *,
    damping: float = DAMPING,
    pattern: Pattern | None = None,
) -> np.ndarray:
    """Mask of exactly `count` weights, or of as many as `pattern` makes of that number.

    Args:
        matrix: Weights (taps * inputs per group, outputs).
        covariance: Covariance of each group's inputs, (groups, inputs, inputs).
    """

    def largest(values: np.ndarray) -> np.ndarray:
        return _largest(values, count) if pattern is None else mask_of(np.square(values), pattern, count)

    if pattern is None and (count <= 0 or count >= matrix.size):
        return np.full(matrix.shape, count > 0)
    groups, inputs, _ = covariance.shape
    h = damped(covariance, damping)
    deviation = np.sqrt(np.einsum("gii->gi", h))
    scaled = by_group(matrix, groups, inputs).astype(np.float32) * deviation[:, :, None]
    h /= deviation[:, :, None] * deviation[:, None, :]
    if groups == 1:
        # LAPACK's divide and conquer in single precision; NumPy would loop over the groups.
        spectrum, vectors = linalg.eigh(h[0], driver="evd")
        spectrum, vectors = spectrum[None], vectors[None]
    else:
        spectrum, vectors = np.linalg.eigh(h)
    transposed = np.swapaxes(vectors, 1, 2)
    target = transposed @ (h @ scaled)
    rho = np.float32(_FIRST_RHO)
    support = largest(scaled)
    sparse, multiplier = scaled * support, np.zeros_like(scaled)
    last_checked = support
    for step in range(_ROUNDS):
        free = vectors @ ((target + transposed @ (rho * sparse - multiplier)) / (spectrum + rho)[:, :, None])
        candidate = free + multiplier / rho
        support = largest(candidate)
        sparse = candidate * support
        multiplier += rho * (free - sparse)
        if step % _CHECK_EVERY == _CHECK_EVERY - 1:
            changed = np.count_nonzero(support != last_checked) / max(2 * count, 1)
            if changed == 0 and step > _ROUNDS // 2:
                break
            rho *= np.float32(next(growth for least, growth in _GROWTH if changed >= least))
            last_checked = support
    return from_groups(support, matrix.shape)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Mask of the `count` largest magnitudes; of equal ones the first."""
    magnitude = np.abs(values).reshape(-1)
    threshold = np.partition(magnitude, magnitude.size - count)[magnitude.size - count]
    mask = magnitude > threshold
    ties = np.flatnonzero(magnitude == threshold)[: count - np.count_nonzero(mask)]
    mask[ties] = True
    return mask.reshape(values.shape)
