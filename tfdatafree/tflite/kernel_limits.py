"""Grids that LiteRT's integer kernels do not take: they end the process, refuse to run on some inputs, or compute nonsense.

Sources: `Prepare` of the kernels, which puts ratios of scales into fixed-point multipliers below 1; `tools/fuzz_kernels.py`.
"""

import numpy as np

from tfdatafree.numerics.affine import Quantizer

_COMPARISONS = ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
# Operators that are left in float although there is an integer kernel -> why.
UNUSABLE = {"DIV": "TFLite's integer DIV refuses to run where the divisor rounds to 0"}
# Operators of sums -> activation bits -> bits by which twice the larger input's steps may exceed the output's. By as many bits
# kernels shift their inputs to the left; but ADD of 8 bits narrows sums to 16 bits before it cuts them off.
_SUMS = {"ADD": {8: 7, 16: 15}, "SUB": {8: 20, 16: 15}, "SQUARED_DIFFERENCE": {8: 14}}
# Bits of the integers that MUL multiplies. Its kernel takes ratios of products to outputs below 1 only, and does not say so.
_PRODUCTS = (8, 16)
# HARD_SWISH computes with inputs in steps of this part of their own, and cannot make steps smaller than these.
_HARD_SWISH_PART = 128
# Operators whose kernels take any grids, apart from what `refusal` says and `verify_content` checks.
SAFE = frozenset(
    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV ADD SUB MUL MEAN SUM ABS RELU RELU6 RELU_N1_TO_1 LEAKY_RELU "
    "PRELU ELU HARD_SWISH LOGISTIC SOFTMAX TANH MAX_POOL_2D AVERAGE_POOL_2D REDUCE_MAX REDUCE_MIN RESHAPE TRANSPOSE PAD "
    "PADV2 MIRROR_PAD SLICE STRIDED_SLICE SPLIT SPLIT_V CONCATENATION PACK UNPACK MAXIMUM MINIMUM RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR DEPTH_TO_SPACE SPACE_TO_DEPTH SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND TILE QUANTIZE DEQUANTIZE".split()
)


def refusal(name: str, inputs: list[Quantizer], output: Quantizer | None) -> str | None:
    """Why the integer kernel of an operator does not take these grids; None: it does.

    Args:
        name: The operator.
        inputs: Grids of its operands.
        output: Grid of its first output; None for truth values and indices.
    """
    largest = max((float(np.max(grid.scale)) for grid in inputs), default=0.0)
    if name in _COMPARISONS and largest >= 1:
        return f"TFLite's integer {name} takes steps below 1, and its inputs have steps of {largest:.3g}"
    if name == "MUL" and output is not None and len(inputs) == 2 and output.bits in _PRODUCTS:
        product, step = float(np.prod([np.max(grid.scale) for grid in inputs])), float(np.max(output.scale))
        if product >= step:
            return f"TFLite's integer {name} cannot turn products in steps of {product:.3g} into steps of {step:.3g}"
    if name == "HARD_SWISH" and output is not None and largest >= _HARD_SWISH_PART * float(np.max(output.scale)):
        return f"TFLite's integer {name} cannot turn steps of {largest:.3g} into steps of {float(np.max(output.scale)):.3g}"
    if name in _SUMS and output is not None and output.bits in _SUMS[name]:
        step = float(np.max(output.scale))
        if (2 * largest) ** (2 if name == "SQUARED_DIFFERENCE" else 1) >= 2.0 ** _SUMS[name][output.bits] * step:
            return f"TFLite's integer {name} cannot turn steps of {largest:.3g} into steps of {step:.3g}"
    return None
