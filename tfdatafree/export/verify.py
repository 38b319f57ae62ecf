"""Reads an integer file back and compares it with the decision. A difference raises an ExportError, so no file is returned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.constants import Constant
from tfdatafree.export.emit import IntegerModel
from tfdatafree.export.plan import Spec
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.tflite.flatbuffer import FLOAT32, File
from tfdatafree.tflite.operators import OPERATORS
from tfdatafree.tflite.runtime import Runner

# The integer kernels round twice (once in the fixed-point multiplier), the simulation once.
PARITY_BOUND_LSB = 1
# The simulation sums float32 products. Its rounding errors are larger than the scale of a 16-bit grid.
PARITY_BOUND_LSB_16 = 4
# TFLite runs 8-bit operators on CPUs with XNNPACK. It refuses an operator if the product of its input and weight scales is
# this many times its output scale. LiteRT then cannot prepare the file, or aborts the process.
_LARGEST_SCALE_RATIO = 256


def verify_content(result: IntegerModel, spec: Spec) -> File:
    """Compares types, grids, integers and biases of the file with the decision; returns the file as it was read back.

    Raises:
        ExportError: A tensor is not as decided; names the first one.
    """
    file = File.parse(result.content)
    _check_types(file, result, spec)
    for old, index in result.index_of.items():
        if file.quantizer(index) != result.grids[old]:
            raise ExportError(
                f"tensor '{file.name(index)}' has the grid {file.quantizer(index)} in the file, "
                f"but {result.grids[old]} was decided."
            )
    for old, index in result.index_of_kernel.items():
        kernel = result.kernel_of[old]
        _check_constant(file, index, kernel)
        if max(int(kernel.values.max(initial=0)), -int(kernel.values.min(initial=0))) > kernel.quantizer.qmax:
            raise ExportError(f"'{file.name(index)}' holds integers outside +-{kernel.quantizer.qmax}.")
        if file.dtype(index) not in ("int8", "int4") or (file.dtype(index) == "int4" and not spec.int4):
            raise ExportError(f"the weights '{file.name(index)}' are stored as {file.dtype(index)}.")
    for index, constant in result.constants.items():
        _check_constant(file, index, constant)
    _check_biases(file)
    _check_products(file)
    for index in (*file.inputs, *file.outputs):
        shape = file.shape(index)
        if any(size < 1 for size in shape):
            raise ExportError(f"edge '{file.name(index)}' has the dynamic shape {shape}.")
    return file


def _check_constant(file: File, index: int, decided: Constant) -> None:
    integers = file.constant(index)
    if integers is None or not np.array_equal(integers, decided.values):
        raise ExportError(f"the integers of '{file.name(index)}' are not those that were chosen.")
    written = file.tensors[index].quantization
    for values, chosen in ((written.scale, decided.quantizer.scale), (written.zeroPoint, decided.quantizer.zero_point)):
        # In a file, one scale per tensor looks the same as one scale per channel with a single channel.
        if not np.array_equal(np.ravel(values).astype(np.float32), np.ravel(chosen).astype(np.float32)):
            raise ExportError(f"the scales or zero points of '{file.name(index)}' are not those that were chosen.")


def _check_types(file: File, result: IntegerModel, spec: Spec) -> None:
    edges = {*file.inputs, *file.outputs}
    for index in edges:
        dtype = file.dtype(index)
        if dtype != spec.edge_dtype and dtype in ("float32", "int8", "uint8", "int16"):
            raise ExportError(f"edge '{file.name(index)}' is {dtype}, not {spec.edge_dtype}.")
    if result.float_reasons:
        return
    allowed = edges if spec.edge_dtype == "float32" else set()
    for index, tensor in enumerate(file.tensors):
        if tensor.type == FLOAT32 and index not in allowed:
            raise ExportError(f"tensor '{file.name(index)}' is still float32.")


def _check_biases(file: File) -> None:
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is None or rule.bias is None or len(operator.inputs) <= rule.bias or operator.inputs[rule.bias] < 0:
            continue
        bias = file.constant(operator.inputs[rule.bias])
        if bias is None or bias.dtype.kind != "i":
            continue
        if np.abs(bias.astype(np.float64)).max(initial=0) >= np.iinfo(bias.dtype).max:
            raise ExportError(f"the bias of '{file.name(operator.outputs[0])}' overflows {bias.dtype}.")


def _check_products(file: File) -> None:
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is None or rule.kernel is None:
            continue
        output = operator.outputs[0]
        source, kernel, target = (
            file.quantizer(i) for i in (operator.inputs[rule.source], operator.inputs[rule.kernel], output)
        )
        if source is None or kernel is None or target is None or target.bits != 8:
            continue
        ratio = float(np.max(source.scale)) * float(np.max(kernel.scale)) / float(np.max(target.scale))
        if ratio >= _LARGEST_SCALE_RATIO:
            raise ExportError(
                f"at '{file.name(output)}' the input scale times the weight scale is {ratio:,.0f} times the output scale, but "
                f"CPU runtimes need less than {_LARGEST_SCALE_RATIO}. Weights that large are most likely broken; check this "
                "layer, or keep it in float with Rule(..., keep_float=True)."
            )


@dataclass(frozen=True)
class TensorCheck:
    """One tensor of the file compared with the simulation and with the float model, over all probe inputs.

    Attributes:
        lsb: Largest difference of the integers between file and simulation, which has the file's own inputs of that layer.
        signal, noise: Mean square of the float tensor, and of its difference from the dequantized file tensor.
        count: Number of probe inputs.
        own_noise: Mean square of the difference between file and simulation, which has the file's own inputs of that layer.
    """

    lsb: int
    signal: float
    noise: float
    count: int = 1
    own_noise: float = 0.0

    @property
    def sqnr_db(self) -> float:
        return _decibels(self.signal, self.noise)

    @property
    def own_sqnr_db(self) -> float:
        """SQNR with the noise of this layer alone."""
        return _decibels(self.signal, self.own_noise)


def _decibels(signal: float, noise: float) -> float:
    return float("inf") if noise == 0 else float(10 * np.log10(max(signal, 1e-30) / noise))


def compare_tensors(
    content: bytes,
    written: Graph,
    reference: Graph,
    grids: Mapping[str, Quantizer],
    index_of: Mapping[str, int],
    inputs: Sequence[np.ndarray],
) -> dict[str, TensorCheck]:
    """Runs file, simulation and float model on `inputs`, one input at a time, and compares their tensors.

    Each simulated layer reads the tensors that the file computed, so that a difference comes from this layer alone.

    Args:
        written: Graph with the file's weights and biases, without quantizers.
        reference: The float graph with the same tensors.
        grids, index_of: Graph tensor -> its grid, and its index in the file.
    """
    runner, written, reference = Runner(content, keep_all=True), written.with_tensors(), reference.with_tensors()
    checks: dict[str, TensorCheck] = {}
    for at in range(len(inputs[0])):
        one_input = [array[at : at + 1] for array in inputs]
        runner.predict(one_input)
        file_input = []
        for tensor, array in zip(written.inputs, one_input, strict=True):
            grid = grids.get(tensor)
            value = array if grid is None else grid.dequantize(runner.kept_value(index_of[tensor]))
            file_input.append(keras.ops.convert_to_tensor(value))
            if grid is not None:
                note_difference(checks, tensor, 0, array, value)
        reference_input = [keras.ops.convert_to_tensor(array) for array in one_input]
        walks = zip(written.walk(file_input), reference.walk(reference_input), strict=True)
        for (node, live), (_, reference_live) in walks:
            for tensor in node.outputs:
                if tensor not in grids:
                    continue
                grid, real = grids[tensor], np.asarray(live[tensor])
                simulated = grid.quantize(real).astype(np.int64)
                # The file has a sequence as an image with one row.
                integers = runner.kept_value(index_of[tensor]).reshape(simulated.shape)
                lsb = int(np.abs(simulated - integers).max(initial=0))
                value = grid.dequantize(integers)
                live[tensor] = keras.ops.convert_to_tensor(value)
                own_noise = float(np.mean(np.square(real.astype(np.float64) - value)))
                note_difference(checks, tensor, lsb, np.asarray(reference_live[tensor]), value, own_noise)
    return checks


def output_noise(
    content: bytes,
    reference: Graph,
    grids: Mapping[str, Quantizer],
    index_of: Mapping[str, int],
    inputs: Sequence[np.ndarray],
) -> dict[str, float]:
    """Output of `reference` -> mean square error of the file there, as `compare_tensors` has it, without a simulation.

    Args:
        reference: The float graph. It ends at the tensors of interest, which have grids in the file.
    """
    runner, reference = Runner(content, keep_all=True), reference.with_tensors()
    checks: dict[str, TensorCheck] = {}
    for at in range(len(inputs[0])):
        one_input = [array[at : at + 1] for array in inputs]
        runner.predict(one_input)
        for tensor, expected in zip(reference.outputs, reference.predict(one_input), strict=True):
            value = grids[tensor].dequantize(runner.kept_value(index_of[tensor])).reshape(np.shape(expected))
            note_difference(checks, tensor, 0, expected, value)
    return {tensor: check.noise for tensor, check in checks.items()}


def note_difference(
    checks: dict[str, TensorCheck],
    tensor: str,
    lsb: int,
    reference: np.ndarray,
    dequantized: np.ndarray,
    own_noise: float = 0.0,
) -> None:
    """Adds the difference on one probe input to the check of `tensor`."""
    signal = float(np.mean(np.square(reference, dtype=np.float64)))
    noise = float(np.mean(np.square(reference.astype(np.float64) - dequantized)))
    former = checks.get(tensor, TensorCheck(0, 0.0, 0.0, 0))
    count = former.count + 1
    checks[tensor] = TensorCheck(
        max(former.lsb, lsb),
        former.signal + (signal - former.signal) / count,
        former.noise + (noise - former.noise) / count,
        count,
        former.own_noise + (own_noise - former.own_noise) / count,
    )


def check_parity(
    checks: Mapping[str, TensorCheck],
    grids: Mapping[str, Quantizer],
    exempt: Mapping[str, str],
    table_lsb: Mapping[str, int],
) -> None:
    """Raises ExportError for a tensor that differs from its simulation by more than its bound.

    Args:
        exempt: Tensor -> why the simulation does not compute it operator by operator.
        table_lsb: Tensor -> error of the approximating table in its kernel, in integers (LSB).
    """
    for tensor, check in checks.items():
        bound = PARITY_BOUND_LSB if grids[tensor].bits == 8 else PARITY_BOUND_LSB_16
        bound = max(bound, table_lsb.get(tensor, 0))
        if check.lsb > bound and tensor not in exempt:
            raise ExportError(
                f"tensor '{tensor}' of the file differs from its simulation by {check.lsb} LSB (at most {bound} expected); "
                "please report the layer that computes it."
            )
