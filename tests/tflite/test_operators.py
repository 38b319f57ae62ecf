"""LiteRT runs every row of the table of integer operators: a float file with only this operator, and its integer file.

The float file gets the values that the integer file's inputs stand for, so that only the kernel's rounding makes a difference.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from operator_cases import CASES, Case, quantized, weights

from tfdatafree.export import plan
from tfdatafree.export.emit import IntegerModel
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import OPERATORS
from tfdatafree.tflite.runtime import Runner

ROWS = [(name, bits) for name, rule in OPERATORS.items() for bits in rule.versions]


def run_both(name: str, bits: int) -> tuple[list[np.ndarray], list[np.ndarray], list[float], IntegerModel]:
    """(outputs of the integer file, outputs of the float file on the same values, scales, integer file) of one row."""
    inputs = CASES[name].inputs()
    content, result = quantized(CASES[name], bits)
    file = File.parse(content)
    assert [file.operator_name(operator) for operator in file.operators] == [name]
    exact = Runner(content, keep_all=True)
    runner = Runner(result.content, keep_all=True)
    outputs = runner.predict(inputs)
    values = [result.grids[index](value) for index, value in zip(file.inputs, inputs, strict=True)]
    return outputs, exact.run(values), [detail["quantization"][0] for detail in runner.outputs], result


def test_every_row_is_run():
    assert CASES.keys() == OPERATORS.keys()


@pytest.mark.parametrize(("name", "bits"), ROWS)
@pytest.mark.slow
def test_integer_kernel_computes_what_the_float_kernel_does(name, bits):
    outputs, expected, scales, result = run_both(name, bits)
    assert not result.float_reasons
    rule = OPERATORS[name]
    bound = max(1 if bits == 8 else 4, rule.table_lsb.get(bits, 0)) + result.requantized
    for output, expected_output, scale in zip(outputs, expected, scales, strict=True):
        if scale:
            assert np.abs(output - expected_output).max() / scale <= bound + 0.5
        else:
            assert np.mean(output == expected_output) > 0.98, "indices and truth values, ties aside"


# With an odd number of weights, inputs or channels, half a byte is unused.
WITH_KERNEL = {
    "CONV_2D": (
        CASES["CONV_2D"],
        Case(lambda x: tf.nn.conv2d(x, weights(1, 1, 3, 3), 2, "VALID"), shapes=((1, 5, 5, 3),)),
    ),
    "DEPTHWISE_CONV_2D": (
        CASES["DEPTHWISE_CONV_2D"],
        Case(lambda x: tf.nn.depthwise_conv2d(x, weights(3, 3, 5, 1), [1] * 4, "SAME"), shapes=((1, 6, 6, 5),)),
    ),
    "FULLY_CONNECTED": (CASES["FULLY_CONNECTED"], Case(lambda x: x @ weights(7, 3), shapes=((1, 7),))),
    "TRANSPOSE_CONV": (CASES["TRANSPOSE_CONV"],),
}


def integers(content: bytes, case: Case) -> np.ndarray:
    """Output of LiteRT's own kernels. XNNPACK only runs INT8 weights, and may differ by one integer."""
    return Runner(content, keep_all=True).predict(case.inputs())[0]


def test_every_operator_with_a_kernel_is_stored_both_ways():
    assert WITH_KERNEL.keys() == {name for name, rule in OPERATORS.items() if rule.kernel is not None}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("name", "bits"), [(n, b) for n in WITH_KERNEL for b in OPERATORS[n].int4])
@pytest.mark.slow
def test_packed_weights_compute_the_same_integers_in_half_the_bytes(name, bits, per_channel):
    for case in WITH_KERNEL[name]:
        options = {"kernel_bits": 4, "per_channel": per_channel}
        unpacked, packed = (quantized(case, bits, int4=int4, **options)[1] for int4 in (False, True))
        np.testing.assert_array_equal(integers(packed.content, case), integers(unpacked.content, case))
        (index,) = packed.index_of_kernel.values()
        packed_file, file = File.parse(packed.content), File.parse(unpacked.content)
        assert (packed_file.dtype(index), file.dtype(index), packed_file.quantizer(index).bits) == ("int4", "int8", 4)
        sizes = [len(f.model.buffers[f.tensors[index].buffer].data) for f in (file, packed_file)]
        assert sizes[1] == (sizes[0] + 1) // 2
        np.testing.assert_array_equal(packed_file.constant(index), file.constant(index))
        assert not packed.adjusted


@pytest.mark.parametrize(("name", "bits"), [(n, b) for n in WITH_KERNEL for b in (8, 16) if b not in OPERATORS[n].int4])
def test_where_packed_weights_cannot_be_read_they_take_a_byte_and_the_reason_is_told(name, bits, monkeypatch):
    case = WITH_KERNEL[name][0]
    result = quantized(case, bits, kernel_bits=4, int4=True)[1]
    (index,) = result.index_of_kernel.values()
    assert File.parse(result.content).dtype(index) == "int8"
    assert list(result.adjusted.values()) == [f"4-bit weights take a byte each: {name} does not read packed ones here"]
    # The row is not stricter than necessary.
    monkeypatch.setitem(plan.OPERATORS, name, dataclasses.replace(OPERATORS[name], int4={bits: 1}))
    forced = quantized(case, bits, kernel_bits=4, int4=True)[1]
    assert not forced.adjusted
    try:
        outputs = integers(forced.content, case)
    except ValueError:
        return
    assert not np.allclose(outputs, integers(result.content, case), atol=0.1)
