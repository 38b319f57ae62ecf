import pytest

from tfdatafree.numerics.affine import Quantizer
from tfdatafree.tflite.kernel_limits import refusal


def grid(scale: float, bits: int = 8) -> Quantizer:
    return Quantizer(scale, 0, bits)


@pytest.mark.parametrize(
    ("name", "inputs", "output", "text"),
    [
        ("GREATER", [grid(1.0), grid(0.1)], None, "steps below 1"),
        ("ADD", [grid(4e-3), grid(4e-9)], grid(3.9e-9), "cannot turn steps"),
        ("ADD", [grid(4e-3), grid(1e-3)], grid(6e-5), "cannot turn steps"),
        ("SUB", [grid(4e-3, 16)], grid(1e-7, 16), "cannot turn steps"),
        ("SQUARED_DIFFERENCE", [grid(1.0)], grid(1e-4), "cannot turn steps"),
        ("MUL", [grid(1.0), grid(0.004)], grid(3e-3), "cannot turn products"),
        ("MUL", [grid(1e-3, 16), grid(1e-3, 16)], grid(9e-7, 16), "cannot turn products"),
        ("HARD_SWISH", [grid(1.29)], grid(0.01), "cannot turn steps"),
    ],
)
def test_grids_on_which_the_kernel_would_end_the_process(name, inputs, output, text):
    assert text in (refusal(name, inputs, output) or "")


@pytest.mark.parametrize(
    ("name", "inputs", "output"),
    [
        ("GREATER", [grid(0.9)], None),
        ("ADD", [grid(4e-3)], grid(1e-4)),
        ("SUB", [grid(4e-3)], grid(1e-8)),
        ("MUL", [grid(1.0), grid(0.004)], grid(5e-3)),
        ("HARD_SWISH", [grid(1.27)], grid(0.01)),
    ],
)
def test_grids_that_the_kernel_takes(name, inputs, output):
    assert refusal(name, inputs, output) is None
