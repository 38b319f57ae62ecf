"""What TFLite's integer kernels require of their tensors, one row per operator.

Sources: the TensorFlow Lite 8-bit quantization specification, and what the kernels of LiteRT accept
(`tests/tflite/test_operators.py` runs every row). An operator without a row has no integer kernel and stays in float.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Fixed:
    """A grid that is built into the kernel."""

    scale: float
    zero_point: int


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Rules of one operator.

    Attributes:
        operands: Positions of the inputs that hold real values; None means every float input.
        kernel, bias: Positions of the weights and the bias, for operators that multiply by weights.
        kernel_axis: The axis of the weights along which scales may run.
        grid: "own": the output's grid is free. "input": the outputs have the grid of the first operand.
            "all": every operand and the output have one grid.
        fixed: Activation bits -> the output's built-in grid.
        versions: Activation bits -> lowest operator version whose kernel takes such integers. A missing bit width has
            no kernel.
        int4: Activation bits -> lowest operator version whose kernel reads weights packed as INT4, two per byte.
        table_lsb: Activation bits -> largest error of the kernel's interpolated table, in integers (LSB).
    """

    operands: tuple[int, ...] | None = None
    kernel: int | None = None
    bias: int | None = None
    kernel_axis: int = 0
    grid: Literal["own", "input", "all"] = "own"
    fixed: dict[int, Fixed] | None = None
    versions: dict[int, int] = dataclasses.field(default_factory=lambda: {8: 2, 16: 2})
    int4: dict[int, int] = dataclasses.field(default_factory=dict)
    table_lsb: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def source(self) -> int:
        """Position of the input that an operator with weights multiplies by them."""
        assert self.operands is not None, "the row of an operator with weights lists its operands"
        return self.operands[0]


def _versions(int8: int, int16: int | None = None) -> dict[int, int]:
    return {8: int8} if int16 is None else {8: int8, 16: int16}


# The 16-bit kernels interpolate exp, sigmoid and tanh in tables of 513 entries: an error of about 12 of 32768 integers.
_TABLE = {16: 16}
# A function that turns from 0 to x between two entries: a quarter of their distance, 2 * 32768 / 512 / 4, and the rounding.
_TURN = {16: 36}
# Where a function is steep, near 0, linear interpolation has a larger error.
_STEEP = {16: 1024}
# A softmax sums such values over its classes: an error of 181 was measured with 1000 classes.
_SUMMED = {16: 1024}
_PROBABILITY = {8: Fixed(1 / 256, -128), 16: Fixed(1 / 32768, 0)}

OPERATORS: dict[str, Operator] = {
    # Weights. LiteRT computes the same from INT4 as from the same integers in INT8, per channel and per tensor. There are
    # two exceptions. TRANSPOSE_CONV cannot be prepared. With 16-bit activations, DEPTHWISE_CONV_2D reads each packed byte
    # as one weight, without an error. XNNPACK leaves INT4 convolutions to LiteRT's own kernels, which unpack the weights at
    # every run.
    "CONV_2D": Operator(operands=(0,), kernel=1, bias=2, versions=_versions(3, 4), int4=_versions(7, 7)),
    "DEPTHWISE_CONV_2D": Operator(
        operands=(0,), kernel=1, bias=2, kernel_axis=3, versions=_versions(3, 5), int4=_versions(7)
    ),
    "FULLY_CONNECTED": Operator(operands=(0,), kernel=1, bias=2, versions=_versions(4, 7), int4=_versions(10, 10)),
    "TRANSPOSE_CONV": Operator(operands=(2,), kernel=1, bias=3, versions=_versions(3, 3)),
    # Arithmetic.
    "ADD": Operator(versions=_versions(2, 3)),
    "SUB": Operator(versions=_versions(2, 5)),
    "MUL": Operator(versions=_versions(2, 4)),
    "BATCH_MATMUL": Operator(versions=_versions(2, 3)),
    "SQUARED_DIFFERENCE": Operator(versions=_versions(2)),
    "MEAN": Operator(operands=(0,), versions=_versions(2, 3)),
    "SUM": Operator(operands=(0,), versions=_versions(2, 1)),
    "REDUCE_PROD": Operator(operands=(0,), versions=_versions(2, 2)),
    "ABS": Operator(versions=_versions(2, 3)),
    # Activations.
    "RELU": Operator(versions=_versions(2, 3)),
    "RELU6": Operator(versions=_versions(2, 3)),
    "RELU_N1_TO_1": Operator(versions=_versions(1)),
    "LEAKY_RELU": Operator(versions=_versions(1, 2)),
    "PRELU": Operator(versions=_versions(1)),
    "ELU": Operator(versions=_versions(1)),
    "GELU": Operator(versions=_versions(2, 1), table_lsb=_TURN),
    "HARD_SWISH": Operator(versions=_versions(1)),
    "EXP": Operator(versions=_versions(2, 2), table_lsb=_TABLE),
    "LOG": Operator(versions=_versions(2, 2), table_lsb=_STEEP),
    "SQRT": Operator(versions=_versions(1, 1), table_lsb=_STEEP),
    "RSQRT": Operator(versions=_versions(2, 3), table_lsb=_STEEP),
    "LOGISTIC": Operator(fixed=_PROBABILITY, versions=_versions(2, 3), table_lsb=_TABLE),
    "SOFTMAX": Operator(fixed=_PROBABILITY, versions=_versions(2, 3), table_lsb=_SUMMED),
    "TANH": Operator(fixed={8: Fixed(1 / 128, 0), 16: Fixed(1 / 32768, 0)}, versions=_versions(2, 3), table_lsb=_TABLE),
    "L2_NORMALIZATION": Operator(fixed={8: Fixed(1 / 128, 0)}, versions=_versions(2)),
    "LOG_SOFTMAX": Operator(fixed={8: Fixed(16 / 256, 127)}, versions=_versions(2)),
    # Values that are only moved, selected or averaged: the outputs have the grid of the input.
    "MAX_POOL_2D": Operator(grid="input", versions=_versions(2, 3)),
    "AVERAGE_POOL_2D": Operator(grid="input", versions=_versions(2, 3)),
    "REDUCE_MAX": Operator(operands=(0,), grid="input", versions=_versions(2, 3)),
    "REDUCE_MIN": Operator(operands=(0,), grid="input", versions=_versions(2, 3)),
    "RESHAPE": Operator(operands=(0,), grid="input", versions=_versions(1, 1)),
    "TRANSPOSE": Operator(operands=(0,), grid="input", versions=_versions(2, 5)),
    "PAD": Operator(operands=(0,), grid="input", versions=_versions(2, 3)),
    "PADV2": Operator(operands=(0, 2), grid="all", versions=_versions(2, 3)),
    "MIRROR_PAD": Operator(operands=(0,), grid="input", versions=_versions(2, 3)),
    "SLICE": Operator(operands=(0,), grid="input", versions=_versions(2, 4)),
    "STRIDED_SLICE": Operator(operands=(0,), grid="input", versions=_versions(2, 1)),
    "SPLIT": Operator(operands=(1,), grid="input", versions=_versions(2, 4)),
    "SPLIT_V": Operator(operands=(0,), grid="input", versions=_versions(2, 1)),
    "UNPACK": Operator(operands=(0,), grid="input", versions=_versions(2, 4)),
    "GATHER": Operator(operands=(0,), grid="input", versions=_versions(2, 4)),
    "GATHER_ND": Operator(operands=(0,), grid="input", versions=_versions(1, 3)),
    "TILE": Operator(operands=(0,), grid="input", versions=_versions(3, 1)),
    "BROADCAST_TO": Operator(operands=(0,), grid="input", versions=_versions(3, 3)),
    "REVERSE_V2": Operator(operands=(0,), grid="input", versions=_versions(3, 1)),
    "SPACE_TO_DEPTH": Operator(operands=(0,), grid="input", versions=_versions(2)),
    "DEPTH_TO_SPACE": Operator(operands=(0,), grid="input", versions=_versions(2)),
    "SPACE_TO_BATCH_ND": Operator(operands=(0,), grid="input", versions=_versions(2, 4)),
    "BATCH_TO_SPACE_ND": Operator(operands=(0,), grid="input", versions=_versions(2, 4)),
    "RESIZE_BILINEAR": Operator(operands=(0,), grid="input", versions=_versions(2, 4)),
    "RESIZE_NEAREST_NEIGHBOR": Operator(operands=(0,), grid="input", versions=_versions(2, 4)),
    "CONCATENATION": Operator(grid="all", versions=_versions(2, 3)),
    "PACK": Operator(grid="all", versions=_versions(2, 3)),
    "MAXIMUM": Operator(grid="all", versions=_versions(2, 4)),
    "MINIMUM": Operator(grid="all", versions=_versions(2, 4)),
    "SELECT": Operator(operands=(1, 2), grid="all", versions=_versions(1, 1)),
    "SELECT_V2": Operator(operands=(1, 2), grid="all", versions=_versions(1, 1)),
    "TOPK_V2": Operator(operands=(0,), grid="input", versions=_versions(2, 3)),
    # Operators that read real values and write indices or truth values.
    "ARG_MAX": Operator(operands=(0,), versions=_versions(2)),
    "ARG_MIN": Operator(operands=(0,), versions=_versions(2)),
    "EQUAL": Operator(versions=_versions(2)),
    "NOT_EQUAL": Operator(versions=_versions(2)),
    "GREATER": Operator(versions=_versions(2)),
    "GREATER_EQUAL": Operator(versions=_versions(2)),
    "LESS": Operator(versions=_versions(2)),
    "LESS_EQUAL": Operator(versions=_versions(2)),
}
