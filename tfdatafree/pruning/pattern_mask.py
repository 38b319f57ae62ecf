"""Where zeros may lie: patterns that hardware with sparse kernels asks for.

    "n:m"   of every m weights that follow each other along the input channels of one output, at most n stay
    "axb"   weights stay or go in blocks of a input channels by b outputs; what TFLite calls 1x16 is "16x1" here

so that every m (or block) lies within one tap of a kernel, in the order in which TFLite stores the weights of an output.
"""

import numpy as np

from tfdatafree.recipe.pattern import Pattern


def mask_of(scores: np.ndarray, pattern: Pattern, count: int | None = None) -> np.ndarray:
    """Mask (True: kept) of the highest scores that the pattern allows.

    Args:
        scores: Non-negative, (..., inputs, outputs); inputs and outputs multiples of the pattern's.
        count: Weights that stay, for blocks: rounded to whole blocks, at least one. n:m decides by itself.
    """
    *front, inputs, outputs = scores.shape
    rows, columns = inputs // pattern.inputs, outputs // pattern.outputs
    blocks = scores.reshape(*front, rows, pattern.inputs, columns, pattern.outputs)
    if pattern.kept is not None:
        order = np.argsort(-blocks, axis=-3, kind="stable")
        mask = np.zeros(blocks.shape, bool)
        np.put_along_axis(mask, order[..., : pattern.kept, :, :], True, axis=-3)
        return mask.reshape(scores.shape)
    sums = blocks.sum(axis=(-3, -1), dtype=np.float64, keepdims=True)
    whole = int(np.clip(round(count / (pattern.inputs * pattern.outputs)), 1, sums.size))
    chosen = np.zeros(sums.size, bool)
    chosen[np.argsort(-sums.reshape(-1), kind="stable")[:whole]] = True
    return np.broadcast_to(chosen.reshape(sums.shape), blocks.shape).reshape(scores.shape)
