"""Patterns of zeros that kernels can be asked for, as they are written in a recipe."""

import re
from dataclasses import dataclass


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
