"""What the report says about one tensor of the file."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One tensor of the file.

    Attributes:
        name: Graph tensor, named after the Keras layer that writes it.
        operation: Keras class that writes it; "Conv2D + ReLU" if the file computes two as one operator.
        weight_bits: Bits of the weights; None for layers without weights.
        weight_scales: Number of weight scales: one per tensor, or one per channel.
        activation_bits: Bits of the tensor's integers.
        low, high: Lowest and highest float value that the integers stand for.
        sqnr_db: Signal-to-quantization-noise ratio against the float model, with the noise of all earlier layers.
        lsb: Largest difference of the integers between file and simulation, for the same inputs.
        layer: Keras layer with the kernel that computes it; None without a kernel.
        reads: Rows whose tensors it is computed from.
        shape: Shape of the tensor without the batch.
        weights: Number of weights in the kernel.
        sparsity: Fraction of them that is exactly 0.
        weight_steps: Smallest and largest scale of the kernel's grids.
        seen: Extremes of the float tensor on generated inputs.
        clipped: Fraction of its values on these inputs that the integers clip.
        known_by: What tells its range. "data": real inputs. "bound": a function or the input range bounds it. "norm": a
            normalization tells its mean and deviation; "norm+2": two layers before. "generated": generated inputs alone.
        damage: Error of the results before softmax, relative to them, from the rounding of this tensor and its kernel alone.
            The squares of all rows add up to about the square of the whole error. After recovery the kernel does not count,
            because kernels then mend each other's errors. None if it was not measured.
        bytes: Bytes of the kernel in the file; None without a kernel.
        multiplications: Multiplications of convolutions and dense layers for one input.
    """

    name: str
    operation: str
    weight_bits: int | None
    weight_scales: int | None
    activation_bits: int
    low: float
    high: float
    sqnr_db: float
    lsb: int
    layer: str | None = None
    reads: tuple[str, ...] = ()
    shape: tuple[int | None, ...] = ()
    weights: int | None = None
    sparsity: float | None = None
    weight_steps: tuple[float, float] | None = None
    seen: tuple[float, float] | None = None
    clipped: float | None = None
    known_by: str = ""
    damage: float | None = None
    bytes: int | None = None
    multiplications: int = 0

    @property
    def step(self) -> float:
        """Scale of the tensor's grid."""
        return (self.high - self.low) / (2**self.activation_bits - 1)
