"""One operator of an integer file with its tensors' integers: what every kernel of this folder takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdatafree.numerics.affine import Quantizer


@dataclass(frozen=True)
class Operation:
    """An operator, ready to be computed.

    Attributes:
        name: Its name in TFLite, such as CONV_2D.
        options: Its options as the schema's object; None where it has none.
        inputs: Integers of its inputs, a batch of one; None where an optional input is missing.
        grids: Grid of each input; None where it has none.
        targets: Grid of each output; None where it has none.
        shapes: Shape of each output.
        dtypes: NumPy type of each output.
    """

    name: str
    options: Any
    inputs: list[np.ndarray | None]
    grids: list[Quantizer | None]
    targets: list[Quantizer | None]
    shapes: list[tuple[int, ...]]
    dtypes: list[np.dtype]

    def values(self, position: int) -> np.ndarray:
        """Integers of the input at `position`, int64."""
        array = self.inputs[position]
        assert array is not None, f"{self.name} lacks input {position}"
        return array.astype(np.int64)

    def centred(self, position: int) -> np.ndarray:
        """x - Z of the input at `position`, int64."""
        return self.values(position) - self.zero_point(position)

    def written(self, values: np.ndarray, activation: int = 0) -> np.ndarray:
        """`values` without a zero point as integers of the first output, clipped to what `activation` lets through."""
        low, high = activation_range(self.target, activation)
        return np.clip(values + int(self.target.zero_point), low, high).astype(self.dtypes[0]).reshape(self.shapes[0])

    @property
    def activation(self) -> int:
        """The fused activation, as the schema numbers them; 0 for none."""
        return int(getattr(self.options, "fusedActivationFunction", 0))

    def grid(self, position: int) -> Quantizer:
        grid = self.grids[position]
        if grid is None:
            raise Unknown(f"{self.name} with an input that has no scale")
        return grid

    @property
    def target(self) -> Quantizer:
        """Grid of the first output."""
        grid = self.targets[0]
        if grid is None:
            raise Unknown(f"{self.name} with an output that has no scale")
        return grid

    def has(self, position: int) -> bool:
        """Whether there is an input at `position`."""
        return len(self.inputs) > position and self.inputs[position] is not None

    def scale(self, position: int) -> np.float32:
        """Scale of an input with one scale, as a float32."""
        return np.float32(self.grid(position).scale)

    def zero_point(self, position: int) -> int:
        return int(self.grid(position).zero_point)


class Unknown(Exception):
    """No kernel of this folder computes the operator. The message says which operator and why."""


# A kernel returns the integers of each output.
Kernel = Callable[[Operation], list[np.ndarray]]


def activation_range(target: Quantizer, activation: int) -> tuple[int, int]:
    """(lowest, highest) integer that a fused activation lets through.

    Args:
        activation: The schema's ActivationFunctionType.

    Raises:
        Unknown: It is a TANH or a SIGN_BIT, which integer kernels do not take.
    """
    real = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}.get(int(activation))
    if real is None:
        raise Unknown(f"the fused activation {activation}")
    scale, zero_point = np.float32(target.scale), int(target.zero_point)

    def integer(value: float) -> int:
        return zero_point + int(round_away(np.float32(value) / scale))

    low, high = real
    return (
        target.qmin if low is None else max(target.qmin, integer(low)),
        target.qmax if high is None else min(target.qmax, integer(high)),
    )


def round_away(x: np.ndarray | np.floating) -> np.ndarray:
    """x rounded to nearest, halves away from zero."""
    return np.sign(x) * np.floor(np.abs(x) + 0.5)
