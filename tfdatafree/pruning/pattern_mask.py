"""Chooses weights under a pattern of zeros, as hardware with sparse kernels needs it.

    "n:m"   of every m weights that follow each other along the input channels of one output, at most n stay
    "axb"   weights stay or go in blocks of a input channels by b outputs; what TFLite calls 1x16 is "16x1" here

so that every m weights (or each block) lie within one tap of a kernel, in the order in which TFLite stores an output's weights.
"""

import numpy as np

from tfdatafree.recipe.pattern import Pattern


def mask_of(scores: np.ndarray, pattern: Pattern, count: int | None = None) -> np.ndarray:
    """Mask of the highest scores that the pattern allows.

    Args:
        scores: Non-negative, (..., inputs, outputs); inputs and outputs multiples of the pattern's.
        count: Number of weights that stay. It is rounded to whole blocks, at least one; n:m does not use it.
    """
    *front, inputs, outputs = scores.shape
    rows, columns = inputs // pattern.inputs, outputs // pattern.outputs
    blocks = scores.reshape(*front, rows, pattern.inputs, columns, pattern.outputs)
    if pattern.kept is not None:
        order = np.argsort(-blocks, axis=-3, kind="stable")
        mask = np.zeros(blocks.shape, bool)
        np.put_along_axis(mask, order[..., : pattern.kept, :, :], True, axis=-3)
        return mask.reshape(scores.shape)
    assert count is not None, "a pattern of blocks needs the number of weights that stay"
    sums = blocks.sum(axis=(-3, -1), dtype=np.float64, keepdims=True)
    chosen_blocks = int(np.clip(round(count / (pattern.inputs * pattern.outputs)), 1, sums.size))
    chosen = np.zeros(sums.size, bool)
    chosen[np.argsort(-sums.reshape(-1), kind="stable")[:chosen_blocks]] = True
    return np.broadcast_to(chosen.reshape(sums.shape), blocks.shape).reshape(scores.shape)
