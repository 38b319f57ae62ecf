"""Improves the integers and the scales of a rounded kernel by coordinate descent.

    minimise over integers q and scales s   tr (s q - W)^T H (s q - W),     H = cov(x) + damping * mean(diag cov(x)) * I

This is the error of the layer's output around its mean, which `feedback.py` has made small. Two updates improve it further:

    s    = q^T H w / q^T H q                       the best scale for these integers, per output channel (or for all)
    q_i  = clip(round(q_i - g_i / (s H_ii)))       the best integer of input i given all others,  g = H (s q - w)

They alternate, and q is updated one input after the other. Error feedback rounds each weight when it knows only the errors of
the weights before it. Here each weight is rounded again when all others are known,
so that neither update makes the error larger.                    (the same quadratic form: Behdin et al. 2023, QuantEase)
"""

import dataclasses

import numpy as np

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.second_moment import ROUNDING_DAMPING, by_group, damped, from_groups

_ROUNDS = 3
# Number of inputs that are updated before the gradient of all other inputs is updated at once.
_BLOCK = 64


def descend(
    integers: np.ndarray,
    matrix: np.ndarray,
    covariance: np.ndarray,
    quantizer: Quantizer,
    *,
    damping: float = ROUNDING_DAMPING,
    mask: np.ndarray | None = None,
    new_scales: bool = True,
    rounds: int = _ROUNDS,
) -> tuple[np.ndarray, Quantizer]:
    """Improved integers, and the quantizer with improved scales; the error in the module's formula never gets larger.

    Args:
        integers: `matrix` rounded by `quantizer`, in its shape.
        matrix, covariance, quantizer, damping, mask: As for `feedback.round_with_feedback`.
        new_scales: Whether scales may change; else only integers change.
        rounds: How often both are improved.
    """
    groups, inputs, _ = covariance.shape

    def split(values) -> np.ndarray:
        return by_group(np.broadcast_to(values, matrix.shape), groups, inputs)

    h, w = damped(covariance, damping), split(matrix).astype(np.float32)
    zero_point = np.asarray(quantizer.zero_point, np.float32)
    q = split(integers - zero_point).astype(np.float32)
    limits = tuple(split(limit - zero_point)[:, 0].astype(np.float32) for limit in (quantizer.qmin, quantizer.qmax))
    free = np.ones(q.shape, bool) if mask is None else split(mask)
    for _ in range(rounds):
        quantizer = _with_best_scale(quantizer, q, h, w, matrix.shape) if new_scales else quantizer
        scale = split(np.asarray(quantizer.scale, np.float32))[:, 0]
        (_update_blocked if groups == 1 else _update)(q, h, h @ (q * scale[:, None] - w), scale, limits, free)
    improved = from_groups(q, matrix.shape) + zero_point
    return improved.astype(quantizer.dtype), quantizer


def _with_best_scale(
    quantizer: Quantizer, q: np.ndarray, h: np.ndarray, w: np.ndarray, shape: tuple[int, int]
) -> Quantizer:
    groups, inputs, columns = q.shape
    sums = []
    for other in (w, q):
        by_column = np.einsum("gic,gic->gc", q, h @ other, dtype=np.float64)
        by_output = by_column.reshape(groups, shape[0] // inputs, -1).sum(axis=1).reshape(shape[1])
        sums.append(by_output if quantizer.channel_axis is not None else by_output.sum())
    along, square = sums
    useful = (along > 0) & (square > 0)
    scale = np.where(useful, along / np.where(useful, square, 1.0), quantizer.scale)
    return dataclasses.replace(quantizer, scale=scale if quantizer.channel_axis is not None else float(scale))


def _update(
    q: np.ndarray, h: np.ndarray, gradient: np.ndarray, scale: np.ndarray, limits: tuple, free: np.ndarray
) -> None:
    """Updates all columns of one input at once, one input after the other. Changes `q` and its `gradient` in place."""
    for at in range(q.shape[1]):
        best = _best_integers(q[:, at], gradient[:, at] / h[:, at, at, None], scale, limits, free[:, at])
        change, q[:, at] = (best - q[:, at]) * scale, best
        gradient += h[:, :, at, None] * change[:, None]


def _update_blocked(
    q: np.ndarray, h: np.ndarray, gradient: np.ndarray, scale: np.ndarray, limits: tuple, free: np.ndarray
) -> None:
    """`_update` of one group, which updates the gradient input by input inside a block, and once per block outside it."""
    for start in range(0, q.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        before, inside = q[:, block].copy(), gradient[:, block].copy()
        _update(q[:, block], h[:, block, block], inside, scale, limits, free[:, block])
        gradient += h[:, :, block] @ ((q[:, block] - before) * scale[:, None])


def _best_integers(q: np.ndarray, excess: np.ndarray, scale: np.ndarray, limits: tuple, free: np.ndarray) -> np.ndarray:
    """clip(round(q - excess / scale)); `excess` is g_i / H_ii."""
    return np.clip(np.rint(q - excess / scale), *limits) * free
