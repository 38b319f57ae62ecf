"""Searches the scale of a kernel's grid, by the error that rounding and clipping cause in the layer's output.

For scales f S, with S from max|W| and f = 1 ... 0.3, the expected squared error of output channel o around its mean is

    e_o(f) = (Q_f(W) - W)_o^T H (Q_f(W) - W)_o,      H = cov(x) + damping * mean(diag cov(x)) * I

The chosen f minimises e_o for each o (one scale per channel) or sum_o w_o e_o (one scale per tensor). The weight w_o says how
much an error of this output changes the next layers (`importance.py`). f = 1 is one of the candidates,
so that by this measure no chosen scale is worse than that of max|W|.
"""

import dataclasses

import numpy as np

from tfdatafree.numerics.affine import SMALLEST_SCALE, Quantizer
from tfdatafree.numerics.second_moment import output_errors

FRACTIONS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3)


def search_scale(
    matrix: np.ndarray, covariance: np.ndarray, quantizer: Quantizer, importance: np.ndarray | None = None
) -> Quantizer:
    """Replaces each scale of `quantizer` by the best of FRACTIONS of it.

    Args:
        matrix, covariance, quantizer: As for `feedback.round_with_feedback`.
        importance: Weight of each output's squared error, (outputs,), for a quantizer with one scale.
    """
    weights = np.ones(matrix.shape[1]) if importance is None else importance
    best, chosen = None, None
    for fraction in FRACTIONS:
        scale = np.maximum(np.asarray(quantizer.scale, np.float64) * fraction, SMALLEST_SCALE)
        candidate = dataclasses.replace(quantizer, scale=scale)
        errors = output_errors(candidate(matrix) - matrix, covariance)
        errors = errors if quantizer.channel_axis is not None else np.sum(weights * errors)
        better = True if best is None else errors < best
        best = errors if best is None else np.where(better, errors, best)
        chosen = scale if chosen is None else np.where(better, scale, chosen)
    assert chosen is not None, "there are fractions to choose from"
    return dataclasses.replace(quantizer, scale=chosen)
