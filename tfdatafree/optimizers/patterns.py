"""Where zeros may lie: patterns that hardware with sparse kernels asks for.

    "n:m"   of every m weights that follow each other along the input channels of one output, at most n stay
    "axb"   weights stay or go in blocks of a input channels by b outputs; what TFLite calls 1x16 is "16x1" here

so that every m (or block) lies within one tap of a kernel, in the order in which TFLite stores the weights of an output.
"""

import re
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern.

    Attributes:
        text: As it was written.
        kept: Weights that stay of each `inputs`; None for blocks.
        inputs, outputs: Size of a block; `outputs` is 1 for "n:m".
    """

    text: str
    kept: int | None
    inputs: int
    outputs: int

    @property
    def sparsity(self) -> float | None:
        """What the pattern gives; None if it gives any."""
        return None if self.kept is None else 1 - self.kept / self.inputs


def parse_pattern(text: str) -> Pattern:
    """The pattern that `text` names, e.g. "2:4" or "4x1". Raises ValueError for anything else."""
    ratio = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
    block = re.fullmatch(r"(\d+)x(\d+)", text) if isinstance(text, str) else None
    if ratio and 0 < int(ratio[1]) < int(ratio[2]):
        return Pattern(text, int(ratio[1]), int(ratio[2]), 1)
    if block and int(block[1]) * int(block[2]) > 1:
        return Pattern(text, None, int(block[1]), int(block[2]))
    raise ValueError(
        f"pattern is {text!r}; write 'n:m' with 0 < n < m, e.g. '2:4', or 'axb' for blocks of a inputs by b outputs, "
        "e.g. '4x1'."
    )


def refuse(pattern: Pattern, inputs: int, outputs: int) -> str | None:
    """Why a layer with so many input channels per group and output channels cannot have the pattern; None if it can."""
    if inputs % pattern.inputs:
        return f"its {inputs} input channels are no multiple of the {pattern.inputs} of pattern {pattern.text}"
    if outputs % pattern.outputs:
        return f"its {outputs} output channels are no multiple of the {pattern.outputs} of pattern {pattern.text}"
    return None


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
