"""Reads an integer file back and holds it against what was decided. A difference is an ExportError, never a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
# A sum of float32 products cannot be known to one step of a 16-bit grid: rounding noise of the simulation itself.
PARITY_BOUND_LSB_16 = 4
# XNNPACK, which TFLite runs 8-bit operators with on CPUs, refuses those whose steps of input and weight make, multiplied, this
# many steps of the output; LiteRT then fails to prepare the file, or aborts the process.
_MOST_OUTPUT_STEPS = 256


def verify_content(result: IntegerModel, spec: Spec) -> None:
    """Checks types, grids, integers and biases of the file against the decisions.

    Raises:
        ExportError: Names the first tensor that is not as decided.
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


def _check_constant(file: File, index: int, wanted: Constant) -> None:
    if not np.array_equal(file.constant(index), wanted.values):
        raise ExportError(f"the integers of '{file.name(index)}' are not those that were chosen.")
    found = file.tensors[index].quantization
    for values, chosen in ((found.scale, wanted.quantizer.scale), (found.zeroPoint, wanted.quantizer.zero_point)):
        # A file does not tell one scale for all from one scale for the only channel.
        if not np.array_equal(np.ravel(values).astype(np.float32), np.ravel(chosen).astype(np.float32)):
            raise ExportError(f"the steps of '{file.name(index)}' are not those that were chosen.")


def _check_types(file: File, result: IntegerModel, spec: Spec) -> None:
    edges = {*file.inputs, *file.outputs}
    for index in edges:
        dtype = file.dtype(index)
        if dtype != spec.edge_dtype and dtype in ("float32", "int8", "uint8", "int16"):
            raise ExportError(f"edge '{file.name(index)}' is {dtype}, not {spec.edge_dtype}.")
    if result.kept_float:
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
        grids = [file.quantizer(i) for i in (operator.inputs[rule.operands[0]], operator.inputs[rule.kernel], output)]
        if None in grids or grids[-1].bits != 8:
            continue
        source, kernel, target = (float(np.max(grid.scale)) for grid in grids)
        steps = source * kernel / target
        if steps >= _MOST_OUTPUT_STEPS:
            raise ExportError(
                f"at '{file.name(output)}' one step of the input times one of the weights makes {steps:,.0f} steps "
                f"of the output, and CPU runtimes take less than {_MOST_OUTPUT_STEPS}: weights so large for their output are "
                "most likely broken; look at this layer, or keep it in float with Rule(..., keep_float=True)."
            )


@dataclass(frozen=True)
class TensorCheck:
    """One tensor of the file beside the simulation and the float model, over all probe inputs.

    Attributes:
        lsb: Largest difference to the simulated tensor, in integer steps, given the file's own inputs of that layer.
        signal, noise: Mean square of the float tensor, and of its difference to the dequantized file tensor.
        count: Probe inputs behind them.
    """

    lsb: int
    signal: float
    noise: float
    count: int = 1

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return float("inf")
        return float(10 * np.log10(max(self.signal, 1e-30) / self.noise))


def compare_tensors(
    content: bytes,
    student: Graph,
    teacher: Graph,
    grids: Mapping[str, Quantizer],
    index_of: Mapping[str, int],
    inputs: Sequence[np.ndarray],
) -> dict[str, TensorCheck]:
    """Runs file, simulation and float model side by side on `inputs` (any batch, one at a time).

    The simulation is fed, layer by layer, with what the file computed, so that each difference is that layer's own.

    Args:
        student: Graph with the file's weights and biases, without quantizers.
        teacher: The float graph; same tensors.
        grids, index_of: Graph tensor -> its grid, and its index in the file.
    """
    runner = Runner(content, keep_all=True)
    checks: dict[str, TensorCheck] = {}
    for at in range(len(inputs[0])):
        one = [array[at : at + 1] for array in inputs]
        runner.predict(one)
        forced = []
        for tensor, array in zip(student.inputs, one, strict=True):
            grid = grids.get(tensor)
            forced.append(array if grid is None else grid.dequantize(runner.value(index_of[tensor])))
            if grid is not None:
                note_difference(checks, tensor, 0, array, forced[-1])
        for (node, live), (_, reference) in zip(student.walk(forced), teacher.walk(one), strict=True):
            for tensor in node.outputs:
                if tensor not in grids:
                    continue
                grid, found = grids[tensor], runner.value(index_of[tensor])
                simulated = grid.quantize(np.asarray(live[tensor])).astype(np.int64)
                lsb = int(np.abs(simulated - found).max(initial=0))
                live[tensor] = grid.dequantize(found)
                note_difference(checks, tensor, lsb, np.asarray(reference[tensor]), live[tensor])
    return checks


def note_difference(
    checks: dict[str, TensorCheck], tensor: str, lsb: int, reference: np.ndarray, found: np.ndarray
) -> None:
    """Adds one probe input's difference to the check of `tensor`."""
    signal = float(np.mean(np.square(reference, dtype=np.float64)))
    noise = float(np.mean(np.square(reference.astype(np.float64) - found)))
    known = checks.get(tensor, TensorCheck(0, 0.0, 0.0, 0))
    count = known.count + 1
    checks[tensor] = TensorCheck(
        max(known.lsb, lsb),
        known.signal + (signal - known.signal) / count,
        known.noise + (noise - known.noise) / count,
        count,
    )


def check_parity(
    checks: Mapping[str, TensorCheck],
    grids: Mapping[str, Quantizer],
    exempt: Mapping[str, str],
    table_lsb: Mapping[str, int],
) -> None:
    """Raises ExportError for a tensor further from its simulation than its bound.

    Args:
        exempt: Tensors that the simulation does not compute operator by operator, and why.
        table_lsb: Tensors whose kernel works by an approximating table, and how far that may be off.
    """
    for tensor, check in checks.items():
        bound = PARITY_BOUND_LSB if grids[tensor].bits == 8 else PARITY_BOUND_LSB_16
        bound = max(bound, table_lsb.get(tensor, 0))
        if check.lsb > bound and tensor not in exempt:
            raise ExportError(
                f"tensor '{tensor}' of the file is {check.lsb} steps from its simulation (at most {bound} expected); "
                "please report the layer that computes it."
            )
