"""Better integers for a rounded kernel, and better steps for them.

    minimise over integers q and steps s   tr (s q - W)^T H (s q - W),     H = cov(x) + damping * mean(diag cov(x)) * I

the error in the layer's output around its mean that `feedback.py` starts to make small. Where it ends, two things are left:

    s    = q^T H w / q^T H q                       the best step for these integers, of each output channel (or of all)
    q_i  = clip(round(q_i - g_i / (s H_ii)))       the best integer of input i given all others,  g = H (s q - w)

taken in turns, q one input after the other. Neither ever makes the error larger: feedback settles each weight knowing only
what the ones before it lost, and here it is looked at again when all are known. (Coordinate descent on the same quadratic
form: Behdin et al. 2023, QuantEase.)
"""

import dataclasses

import numpy as np

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.second_moment import ROUNDING_DAMPING, by_group, damped, from_groups

_ROUNDS = 3
# Inputs that are settled before the gradient of the others is brought up to date at once.
_BLOCK = 64


def descend(
    integers: np.ndarray,
    matrix: np.ndarray,
    covariance: np.ndarray,
    quantizer: Quantizer,
    *,
    damping: float = ROUNDING_DAMPING,
    kept: np.ndarray | None = None,
    new_steps: bool = True,
    rounds: int = _ROUNDS,
) -> tuple[np.ndarray, Quantizer]:
    """(integers, quantizer with other steps), by the module's measure at least as near to `matrix` as they came.

    Args:
        integers: `matrix` as rounded by `quantizer`, of its shape.
        matrix, covariance, quantizer, damping, kept: As for `feedback.round_with_feedback`.
        new_steps: Whether steps may change; else only integers do.
        rounds: How often both are improved.
    """
    groups, inputs, _ = covariance.shape

    def split(values) -> np.ndarray:
        return by_group(np.broadcast_to(values, matrix.shape), groups, inputs)

    h, w = damped(covariance, damping), split(matrix).astype(np.float32)
    zero_point = np.asarray(quantizer.zero_point, np.float32)
    q = split(integers - zero_point).astype(np.float32)
    ends = tuple(split(end - zero_point)[:, 0].astype(np.float32) for end in (quantizer.qmin, quantizer.qmax))
    free = np.ones(q.shape, bool) if kept is None else split(kept)
    for _ in range(rounds):
        quantizer = _with_best_step(quantizer, q, h, w, matrix.shape) if new_steps else quantizer
        scale = split(np.asarray(quantizer.scale, np.float32))[:, 0]
        (_settle_blocked if groups == 1 else _settle)(q, h, h @ (q * scale[:, None] - w), scale, ends, free)
    whole = from_groups(q, matrix.shape) + zero_point
    return whole.astype(quantizer.dtype), quantizer


def _with_best_step(
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


def _settle(
    q: np.ndarray, h: np.ndarray, gradient: np.ndarray, scale: np.ndarray, ends: tuple, free: np.ndarray
) -> None:
    """Each input's integers of all columns at once, one input after the other; `q` and its `gradient` change in place."""
    for at in range(q.shape[1]):
        moved = _best(q[:, at], gradient[:, at] / h[:, at, at, None], scale, ends, free[:, at])
        change, q[:, at] = (moved - q[:, at]) * scale, moved
        gradient += h[:, :, at, None] * change[:, None]


def _settle_blocked(
    q: np.ndarray, h: np.ndarray, gradient: np.ndarray, scale: np.ndarray, ends: tuple, free: np.ndarray
) -> None:
    """`_settle` of one group: input by input inside a block, block by block outside it."""
    for start in range(0, q.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        before, inside = q[:, block].copy(), gradient[:, block].copy()
        _settle(q[:, block], h[:, block, block], inside, scale, ends, free[:, block])
        gradient += h[:, :, block] @ ((q[:, block] - before) * scale[:, None])


def _best(q: np.ndarray, ahead: np.ndarray, scale: np.ndarray, ends: tuple, free: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(q - ahead / scale), *ends) * free
