"""Rounds with error feedback: weights that are still to be rounded make up for the errors of those before them.

For each output channel, this minimises the error that rounding causes in the layer's output around its mean,

    E || (W_q - W)^T (x - E x) ||^2 = tr (W_q - W)^T H (W_q - W),      H = cov(x) + damping * mean(diag cov(x)) * I

Inputs are rounded one at a time. After each, the remaining weights move to their optimum, given what is already rounded. The
bias correction takes back the shift of the mean itself.                                (Frantar et al. 2023, GPTQ, alg. 1)
"""

import numpy as np
from scipy import linalg

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.second_moment import ROUNDING_DAMPING

# Number of inputs that are rounded before the weights of all later ones are updated at once.
_BLOCK = 64


def round_with_feedback(
    matrix: np.ndarray,
    covariance: np.ndarray,
    quantizer: Quantizer,
    *,
    damping: float = ROUNDING_DAMPING,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Integers of `matrix` on the grid of `quantizer`.

    Args:
        matrix: Weights (taps * inputs per group, outputs), outputs split evenly over the groups. With several taps
            (positions of a kernel too large for one covariance) each tap is rounded by itself.
        covariance: Of each group's inputs, (groups, inputs, inputs). One group for ordinary layers; for grouped and
            depthwise convolutions group g feeds the g-th part of the outputs.
        quantizer: Grid with `channel_axis` 1 or None; any zero point.
        mask: For pruned kernels: True where a weight stays, False where it has to be 0; in the shape of `matrix`.
    """
    groups, inputs, _ = covariance.shape
    taps, outputs = len(matrix) // inputs, matrix.shape[1]
    factors = _inverse_factors(covariance, damping)
    # All taps read the same inputs, so the weights of each tap are rounded as further outputs.
    split = matrix.astype(np.float32).reshape(taps, inputs, groups, outputs // groups)
    weights = split.transpose(1, 2, 0, 3).reshape(inputs, groups, -1)

    def per_output(values: float | np.ndarray) -> np.ndarray:
        steps = np.broadcast_to(np.asarray(values, np.float32), (outputs,)).reshape(groups, 1, -1)
        return np.tile(steps, (1, taps, 1)).reshape(groups, -1)

    # Integers less their zero point. Real values are scale times these.
    scale = per_output(quantizer.scale)
    lowest = per_output(quantizer.qmin - np.asarray(quantizer.zero_point))
    highest = per_output(quantizer.qmax - np.asarray(quantizer.zero_point))
    allowed = None
    if mask is not None:
        by_tap = mask.reshape(taps, inputs, groups, outputs // groups)
        allowed = by_tap.transpose(1, 2, 0, 3).reshape(inputs, groups, -1)
    integers = np.empty_like(weights)
    if groups == 1:
        integers[:, 0] = _round_blocked(
            weights[:, 0], factors[0], scale[0], lowest[0], highest[0], None if allowed is None else allowed[:, 0]
        )
    else:
        for row in range(inputs):
            integers[row] = np.clip(np.rint(weights[row] / scale), lowest, highest)
            if allowed is not None:
                integers[row] *= allowed[row]
            error = (weights[row] - integers[row] * scale) / factors[:, row, row, None]
            # (later inputs, groups, 1) times (groups, outputs per group)
            weights[row + 1 :] -= factors[:, row, row + 1 :].T[:, :, None] * error
    ordered = integers.reshape(inputs, groups, taps, -1).transpose(2, 0, 1, 3)
    return (ordered.reshape(matrix.shape) + np.float32(quantizer.zero_point)).astype(quantizer.dtype)


def _inverse_factors(covariance: np.ndarray, damping: float) -> np.ndarray:
    """Upper triangular U with U^T U = H^-1, float32, per group. Damping keeps H far from singular at this precision."""
    groups, size, _ = covariance.shape
    ridge = damping * np.maximum(np.einsum("gii->g", covariance) / size, 1e-12)
    if groups > 1:
        damped = covariance + ridge[:, None, None] * np.eye(size)
        return np.swapaxes(np.linalg.cholesky(np.linalg.inv(damped)), 1, 2).astype(np.float32)
    # H = R R^T with R upper triangular (Cholesky from the last row up), so U = R^-1: no inverse of H is formed.
    flipped = np.array(covariance[0, ::-1, ::-1], np.float32, order="F")
    # Entries this far below the ridge change no rounding, and arithmetic on their tiny products is slow.
    flipped[np.abs(flipped) < 1e-7 * ridge[0]] = 0
    flipped[np.diag_indices(size)] += ridge[0]
    lower, failed = linalg.lapack.spotrf(flipped, lower=1, clean=1, overwrite_a=1)
    if failed:
        raise ValueError(
            "the covariance of a layer's inputs is not positive definite; it must be symmetric and finite."
        )
    return linalg.lapack.strtri(lower, lower=1, overwrite_c=1)[0][::-1, ::-1][None]


def _round_blocked(
    weights: np.ndarray,
    factor: np.ndarray,
    scale: np.ndarray,
    lowest: np.ndarray,
    highest: np.ndarray,
    allowed: np.ndarray | None,
) -> np.ndarray:
    """The recursion for one group, (inputs, outputs): row by row inside a block, block by block outside it."""
    weights = weights.copy()
    integers = np.empty_like(weights)
    products = np.empty((_BLOCK, weights.shape[1]), weights.dtype)
    for start in range(0, len(weights), _BLOCK):
        stop = min(start + _BLOCK, len(weights))
        errors = np.empty((stop - start, weights.shape[1]), weights.dtype)
        # Results go into existing arrays: a row has so few values that making arrays takes longer than the arithmetic.
        for row in range(start, stop):
            rounded, error, later = integers[row], errors[row - start], products[: stop - row - 1]
            np.divide(weights[row], scale, out=rounded)
            np.rint(rounded, out=rounded)
            np.maximum(rounded, lowest, out=rounded)
            np.minimum(rounded, highest, out=rounded)
            if allowed is not None:
                rounded *= allowed[row]
            np.multiply(rounded, scale, out=error)
            np.subtract(weights[row], error, out=error)
            error /= factor[row, row]
            np.multiply(factor[row, row + 1 : stop, None], error, out=later)
            weights[row + 1 : stop] -= later
        weights[stop:] -= factor[start:stop, stop:].T @ errors
    return integers
