"""Patterns of zeros in kernels, as a recipe writes them."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern.

    Attributes:
        text: The pattern as it was written.
        kept: Number of weights that stay of each `inputs`; None for blocks.
        inputs, outputs: Size of a block in input and output channels; `outputs` is 1 for "n:m".
    """

    text: str
    kept: int | None
    inputs: int
    outputs: int

    @property
    def sparsity(self) -> float | None:
        """The sparsity that the pattern decides; None for blocks, of which any part may be zero."""
        return None if self.kept is None else 1 - self.kept / self.inputs


def parse_pattern(text: str) -> Pattern:
    """The pattern in `text`, e.g. "2:4" or "4x1". Raises ValueError for anything else.

    Groups are of a power of two, as in all kernels and NPUs that skip such zeros: rows of channels are whole numbers of them.
    """
    ratio = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
    block = re.fullmatch(r"(\d+)x(\d+)", text) if isinstance(text, str) else None
    if ratio and 0 < int(ratio[1]) < int(ratio[2]) and int(ratio[2]).bit_count() == 1:
        return Pattern(text, int(ratio[1]), int(ratio[2]), 1)
    if block and int(block[1]) * int(block[2]) > 1:
        return Pattern(text, None, int(block[1]), int(block[2]))
    raise ValueError(
        f"pattern is {text!r}; write 'n:m' with 0 < n < m and m = 2, 4, 8, 16 ..., e.g. '2:4', "
        "or 'axb' for blocks of a inputs by b outputs, e.g. '4x1'."
    )


def refuse(pattern: Pattern, inputs: int, outputs: int) -> str | None:
    """Why a layer cannot have the pattern; None if it can.

    Args:
        inputs: Input channels of the layer, per group.
        outputs: Output channels of the layer.
    """
    if inputs % pattern.inputs:
        return f"its {inputs} input channels are not a multiple of the {pattern.inputs} of pattern {pattern.text}"
    if outputs % pattern.outputs:
        return f"its {outputs} output channels are not a multiple of the {pattern.outputs} of pattern {pattern.text}"
    return None
