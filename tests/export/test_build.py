import dataclasses

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers as L
from keras import ops
from tiny_models import KINDS, Exported, build, each, every_kind, export, exported, image, random_inputs, randomized

from tfdatafree.canonical.separate import separate
from tfdatafree.compress import compress
from tfdatafree.errors import ExportError
from tfdatafree.export import build as build_module
from tfdatafree.export.build import _measure
from tfdatafree.export.emit import IntegerModel, quantize_file
from tfdatafree.export.float_model import convert
from tfdatafree.export.plan import Spec, tensors_without_grid
from tfdatafree.export.tolerance import _resize_lsb
from tfdatafree.export.verify import TensorCheck, check_parity, compare_tensors, verify_content
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import activation_quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import OPERATORS
from tfdatafree.tflite.runtime import Runner

INT16, PER_TENSOR = Quantize(activation_bits=16), Quantize(per_channel=False)
UINT8, FLOAT_EDGES = Quantize(edge_dtype="uint8"), Quantize(edge_dtype="float32")
SOME = ["branch_add", "two_inputs", "two_outputs", "concatenate", "squeeze_excite", "shared_layer",
        "input_is_an_output"]  # fmt: skip
some_models = pytest.mark.parametrize("name", SOME)
# Sums, kernels of several layouts, and a layer that is called twice; and every way that edges are shared.
some_kernels = pytest.mark.parametrize("name", ["branch_add", "squeeze_excite", "shared_layer"])
some_edges = pytest.mark.parametrize("name", ["two_inputs", "two_outputs", "input_is_an_output"])
# What TFLite cannot compute in integers.
KEPT_FLOAT = {"sine": r"SIN sin\w*: TFLite has no integer kernel for SIN"}
# Layers with a channel of zeros get scales that suit their biases.
REFITTED = {"dead_channels", "zero_kernel"}
# The converter multiplies these factors into the weights of the layers next to them.
MERGED = {"relu6": {8.0}, "ops_activation": {4.0}, "concatenate": {4.0}, "uint8_input": {1 / 255}}
# Keras operations that become several operators. Operators inside of them clip, which the simulation does not do.
SEVERAL_OPERATORS = {
    "batchnorm_of_a_vector": {"relu"}, "batchnorm_on_another_axis": {"bn"}, "conv1d": {"bn_2"},
    "hard_swish": {"conv_2_hard_sigmoid"}, "merges": {"average"}, "normalization": {"normalize"}, "rescaling": {"rescale"},
}  # fmt: skip
# Number of operators that write no tensor of the graph: those above, and reshapes to four axes and back, for example.
UNSEEN = {
    "batchnorm_of_a_vector": 1, "batchnorm_on_another_axis": 2, "conv1d": 4, "hard_swish": 1, "merges": 2, "rescaling": 1,
    "normalization": 1, "upsampling_nearest": 4, "sine": 3, "input_is_an_output": -1,
}  # fmt: skip


def weighted(file: File):
    """(operator, its row, kernel as (anything, out), kernel index, bias index or None) of each operator with weights."""
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is None or rule.kernel is None:
            continue
        index = operator.inputs[rule.kernel]
        kernel = file.constant(index)
        if file.operator_name(operator) != "DEPTHWISE_CONV_2D":
            kernel = np.moveaxis(kernel, 0, -1)
        bias = operator.inputs[rule.bias] if len(operator.inputs) > rule.bias else -1
        yield operator, rule, kernel.reshape(-1, kernel.shape[-1]), index, None if bias < 0 else bias


def scales(file: File, index: int) -> np.ndarray:
    return np.asarray(file.tensors[index].quantization.scale, np.float32)


def index_of(file: File, found: Exported) -> dict[str, int]:
    """Graph tensor -> file tensor, by name."""
    by_name = {file.name(i): i for i in range(len(file.tensors))}
    by_name.update(zip([*found.reference.inputs, *found.reference.outputs], [*file.inputs, *file.outputs], strict=True))
    # The output of a float operator becomes integers in a QUANTIZE.
    return {tensor: by_name.get(f"{tensor}_requantized", by_name[tensor]) if file.dtype(by_name[tensor]) == "float32"
            else by_name[tensor] for tensor in found.built.grids}  # fmt: skip


# The file is what was decided -----------------------------------------------------------------------------------------


@every_kind
def test_every_tensor_is_an_integer_and_every_edge_int8_with_batch_1(name):
    found = exported(name)
    file = File.parse(found.built.content)
    for index in (*file.inputs, *file.outputs):
        assert file.dtype(index) == "int8" and file.shape(index)[0] == 1
    kept = [f"{key}: {reason}" for key, reason in found.built.float_reasons.items()]
    if name in KEPT_FLOAT:
        with pytest.raises(RuntimeError, match=KEPT_FLOAT[name]):
            raise RuntimeError(*kept)
    else:
        assert not kept
        assert {file.dtype(i) for i in range(len(file.tensors))} <= {"int8", "int32"}


@every_kind
def test_the_signature_has_the_models_names(name):
    model, found = build(name), exported(name)
    interpreter = Interpreter(model_content=found.built.content)
    (signature,) = interpreter.get_signature_list().values()
    graph = Graph.from_keras(model)
    assert sorted(signature["inputs"]) == sorted(x.name for x in model.inputs)
    assert len(signature["outputs"]) == len(model.outputs)
    assert set(signature["outputs"]) >= set(graph.output_names)
    # Each name belongs to the tensor of that shape.
    run = interpreter.get_signature_runner()
    for x in model.inputs:
        assert tuple(run.get_input_details()[x.name]["shape"][1:]) == tuple(x.shape[1:])
    for wanted, y in zip(graph.output_names, model.outputs, strict=True):
        if graph.output_names.count(wanted) == 1:
            assert tuple(run.get_output_details()[wanted]["shape"][1:]) == tuple(y.shape[1:])


def test_a_dict_of_outputs_is_signed_with_its_keys():
    interpreter = Interpreter(model_content=exported("dict_outputs").built.content)
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["outputs"]) == ["mask", "scores"]
    details = interpreter.get_signature_runner().get_output_details()
    assert details["mask"]["shape"].size == 4 and details["scores"]["shape"].size == 2


@each(name for name in KINDS if name not in REFITTED)
def test_weights_are_bit_for_bit_the_integers_that_were_chosen(name):
    found = exported(name)
    file = File.parse(found.built.content)
    chosen = {kernel.matrix.astype(np.int8).tobytes(): np.ravel(kernel.grid.scale) for kernel in found.kernels.values()}
    if name not in MERGED:
        assert set(found.built.kernels) == set(found.kernels), "no kernel was rounded to nearest again"
    written, factors = set(), set()
    for _, _, kernel, index, _ in weighted(file):
        assert file.dtype(index) == "int8" and kernel.min() >= -127
        assert not np.any(file.tensors[index].quantization.zeroPoint)
        written.add(kernel.tobytes())
        factor = scales(file, index) / chosen[kernel.tobytes()]
        np.testing.assert_allclose(factor, factor[0], rtol=1e-6)
        factors.add(factor[0])
    assert written == set(chosen)
    assert sorted(factors) == pytest.approx(sorted(MERGED.get(name, set()) | {1.0}), rel=1e-6)
    if name not in MERGED:
        assert factors == {1.0}, "bit for bit"


@every_kind
def test_biases_are_rounded_to_the_product_of_both_steps(name):
    found = exported(name)
    file = File.parse(found.built.content)
    by_kernel = {kernel.matrix.astype(np.int8).tobytes(): key for key, kernel in found.kernels.items()}
    for operator, rule, kernel, index, bias in weighted(file):
        source = operator.inputs[rule.operands[0]]
        step = np.float64(scales(file, source)) * scales(file, index)
        if bias is None:
            continue
        assert file.dtype(bias) == "int32"
        np.testing.assert_allclose(scales(file, bias), step, rtol=1e-6)
        wanted = found.rounded.layers[by_kernel[kernel.tobytes()]].weight("bias") if name not in REFITTED else None
        # `hard_sigmoid` and a BatchNorm on another axis add constants, which the converter moves between operators. Equal
        # kernels cannot be told apart.
        if wanted is not None and name not in {"hard_swish", "batchnorm_on_another_axis", "twin_layers", *MERGED}:
            assert np.abs(file.constant(bias) * step - wanted).max() <= step.max() * 0.501, file.name(bias)


@every_kind
def test_grids_are_read_back_as_reported_and_never_narrower_than_decided(name):
    found = exported(name)
    file = File.parse(found.built.content)
    fixed = ("softmax", "sigmoid", "tanh")
    for tensor, index in index_of(file, found).items():
        grid, wanted = found.built.grids[tensor], found.ranges[tensor]
        assert file.quantizer(index) == grid, tensor
        if not any(word in tensor for word in fixed) and name not in fixed:
            assert grid.low <= wanted.low + grid.scale / 2 and grid.high >= wanted.high - grid.scale / 2, tensor
        if tensor in found.reference.inputs:
            assert grid == activation_quantizer(wanted.low, wanted.high)


@pytest.mark.parametrize("name", ["plain", "branch_add", "depthwise", "elu", "two_inputs", "swish"])
@pytest.mark.slow
def test_grids_are_exactly_those_of_the_ranges(name):
    found = exported(name)
    file = File.parse(found.built.content)
    # These take the grid of another tensor, or a built-in one; decision tensors get headroom.
    exempt = {"join", "b_conv", "a_relu"} if name == "two_inputs" else set(decision_tensors(found.reference))
    for tensor, index in index_of(file, found).items():
        if tensor not in exempt and "sigmoid" not in tensor and tensor != "head":
            wanted = found.ranges[tensor]
            assert file.quantizer(index) == activation_quantizer(wanted.low, wanted.high), tensor


@pytest.mark.parametrize(
    "name, tensor, scale, zero_point",
    [
        ("softmax", "head_softmax", 1 / 256, -128),
        ("sigmoid", "a_sigmoid", 1 / 256, -128),
        ("tanh", "a_tanh", 1 / 128, 0),
    ],
)
def test_built_in_grids(name, tensor, scale, zero_point):
    found = exported(name)
    file = File.parse(found.built.content)
    quantizer = file.quantizer(index_of(file, found)[tensor])
    assert (quantizer.scale, quantizer.zero_point) == (scale, zero_point)


def test_concatenated_tensors_have_one_grid():
    found = exported("concatenate")
    file = File.parse(found.built.content)
    (join,) = (o for o in file.operators if file.operator_name(o) == "CONCATENATION")
    assert len({(file.quantizer(i).scale, file.quantizer(i).zero_point) for i in (*join.inputs, *join.outputs)}) == 1


# The file computes what is simulated ----------------------------------------------------------------------------------


@every_kind
def test_each_tensor_is_within_one_step_of_its_simulation(name):
    found = exported(name)
    built = found.built
    assert not built.notes or name in REFITTED
    assert all(check.lsb <= 1 for check in built.checks.values())
    # On other inputs than the export used, some of them beyond the range.
    inputs = random_inputs(found.reference, 2, seed=7)
    file = File.parse(built.content)
    checks = compare_tensors(built.content, built.graph, found.reference, built.grids, index_of(file, found), inputs)
    off = {tensor for tensor, check in checks.items() if check.lsb > 1}
    assert off <= SEVERAL_OPERATORS.get(name, set())
    assert set(checks) >= set(found.reference.outputs) | set(found.reference.inputs)
    # Every tensor that a runtime stores is compared, except those inside a Keras operation.
    assert len(file.operators) - len(checks) + len(found.reference.inputs) <= UNSEEN.get(name, 0)


@every_kind
def test_each_output_is_close_to_the_float_models(name):
    found = exported(name)
    runner = Runner(found.built.content)
    inputs = [array[:1] for array in found.inputs]
    for tensor, y, wanted in zip(
        found.reference.outputs, runner.predict(inputs), found.reference.predict(inputs), strict=True
    ):
        noise = np.sqrt(np.mean(np.square(y - wanted)))
        assert noise < 0.05 * np.abs(wanted).max() + 2 * found.built.grids[tensor].scale, tensor


@pytest.mark.parametrize("weight", ["kernel", "bias"])
def test_parity_notices_a_weight_that_is_off_by_a_few_steps(weight):
    found = exported("plain")
    built = found.built
    layer = built.graph.layers["b_conv"]
    other = built.graph.copy()
    other.layers["b_conv"] = layer.with_weights(**{weight: layer.weight(weight) * 1.05})
    file = File.parse(built.content)
    checks = compare_tensors(built.content, other, found.reference, built.grids, index_of(file, found), found.inputs)
    assert checks["b_relu"].lsb > 1
    with pytest.raises(
        ExportError, match=f"'b_relu' of the file differs from its simulation by {checks['b_relu'].lsb} LSB"
    ):
        check_parity(checks, built.grids, {}, {})
    check_parity(checks, built.grids, {"b_relu": "a reason"}, {})
    # The difference is that of this layer only, because the next layers get the file's output of this layer.
    assert all(check.lsb <= 1 for tensor, check in checks.items() if tensor != "b_relu")


def test_parity_bounds():
    grids = {"x": activation_quantizer(-1, 1), "y": activation_quantizer(-1, 1, 16, symmetric=True)}
    check_parity({"x": TensorCheck(1, 1, 1), "y": TensorCheck(4, 1, 1)}, grids, {}, {})
    with pytest.raises(ExportError, match="'x' of the file differs from its simulation by 2 LSB"):
        check_parity({"x": TensorCheck(2, 1, 1)}, grids, {}, {})
    with pytest.raises(ExportError, match="'y' of the file differs from its simulation by 9 LSB"):
        check_parity({"y": TensorCheck(9, 1, 1)}, grids, {}, {})
    check_parity({"y": TensorCheck(9, 1, 1)}, grids, {}, {"y": 12})


@pytest.mark.parametrize("factor, exact", [(2, True), (3, False), (7, False)])
def test_a_resizing_may_miss_by_what_its_rounded_positions_do(factor, exact):
    x = image((26, 26, 3))
    resized = L.UpSampling2D(factor, interpolation="bilinear", name="up")(L.Conv2D(4, 3, name="conv")(x))
    found = export(randomized(keras.Model(x, resized)))
    lsb, bound = found.built.checks["up"].lsb, _resize_lsb((24, 24), (24 * factor, 24 * factor), 8)
    assert bound == 0 if exact else 2 < bound < 32
    assert lsb <= max(bound, 1)


# Other recipes --------------------------------------------------------------------------------------------------------


@some_models
@pytest.mark.slow
def test_16_bit_activations(name):
    found = exported(name, INT16)
    file = File.parse(found.built.content)
    dtypes = {file.dtype(i) for i in range(len(file.tensors))}
    assert dtypes <= {"int16", "int8", "int64", "int32"} and not found.built.float_reasons
    assert all(file.dtype(i) == "int16" for i in (*file.inputs, *file.outputs))
    for tensor, index in index_of(file, found).items():
        assert file.quantizer(index).zero_point == 0 and file.quantizer(index) == found.built.grids[tensor]
    for operator, rule, _, index, bias in weighted(file):
        if bias is not None:
            assert file.dtype(bias) == "int64"
            step = np.float64(scales(file, operator.inputs[rule.operands[0]])) * scales(file, index)
            np.testing.assert_allclose(scales(file, bias), step, rtol=1e-6)
    assert all(
        check.lsb <= 4 for tensor, check in found.built.checks.items() if not tensor.endswith(("softmax", "sigmoid"))
    )
    for tensor in found.reference.inputs:
        assert found.built.checks[tensor].sqnr_db > exported(name).built.checks[tensor].sqnr_db + 40


@pytest.mark.slow
def test_what_has_no_16_bit_kernel_stays_in_float_and_says_so():
    found = exported("prelu", INT16)
    assert found.built.float_reasons["PRELU prelu"] == "TFLite's PRELU has no 16-bit kernel"
    assert len(exported("elu", INT16).built.float_reasons) == 2, "and the simulation rounds its output"
    file = File.parse(found.built.content)
    for operator in file.operators:
        if file.operator_name(operator) == "PRELU":
            assert {file.dtype(i) for i in (*operator.inputs, *operator.outputs)} == {"float32"}
        elif file.operator_name(operator) not in ("QUANTIZE", "DEQUANTIZE"):
            assert "float32" not in {file.dtype(i) for i in (*operator.inputs, *operator.outputs)}
    assert all(check.lsb <= 4 for check in found.built.checks.values())


@some_kernels
@pytest.mark.slow
def test_one_weight_step_per_tensor(name):
    found, per_channel = exported(name, PER_TENSOR), exported(name)
    file = File.parse(found.built.content)
    for _, _, _, index, bias in weighted(file):
        assert len(scales(file, index)) == 1 and (bias is None or len(scales(file, bias)) == 1)
    for _, _, kernel, index, _ in weighted(File.parse(per_channel.built.content)):
        assert len(scales(File.parse(per_channel.built.content), index)) == kernel.shape[1]
    assert all(np.ndim(kernel.grid.scale) == 0 for kernel in found.built.kernels.values())
    assert all(check.lsb <= 1 for check in found.built.checks.values())


def test_4_bit_weights_lie_between_minus_7_and_7():
    found = exported("plain", Quantize(weight_bits=4))
    kernels = [kernel for _, _, kernel, _, _ in weighted(File.parse(found.built.content))]
    assert {int(np.abs(kernel).max()) for kernel in kernels} == {7}
    assert all(kernel.dtype == np.int8 for kernel in kernels)


@some_kernels
@pytest.mark.slow
def test_packed_4_bit_weights_make_half_the_kernels_and_the_same_tensors(name):
    packed, whole = (exported(name, Quantize(weight_bits=4, int4=int4)) for int4 in (True, False))
    inputs = [array[:1] for array in whole.inputs]
    results = [Runner(found.built.content, keep_all=True).predict(inputs) for found in (packed, whole)]
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(found, wanted)
    file = File.parse(packed.built.content)
    transposed = {int(op.inputs[1]) for op in file.operators if file.operator_name(op) == "TRANSPOSE_CONV"}
    kernels = {index: kernel.size for _, _, kernel, index, _ in weighted(file) if index not in transposed}
    assert {file.dtype(index) for index in kernels} == {"int4"}
    assert {file.dtype(index) for index in transposed} <= {"int8"}
    saved = len(whole.built.content) - len(packed.built.content)
    # Buffers start at multiples of 16 bytes, and a file may name both versions of an operator.
    assert abs(saved - sum(size // 2 for size in kernels.values())) <= 16 * len(kernels) + 256


def raw_edges(options: Quantize, name: str) -> tuple[list[np.ndarray], list[np.ndarray], list[dict]]:
    found = exported(name, options)
    runner = Runner(found.built.content)
    return (
        [a[:1] for a in found.inputs],
        runner.predict([a[:1] for a in found.inputs]),
        [*runner.inputs, *runner.outputs],
    )


@some_edges
@pytest.mark.slow
def test_uint8_edges_hold_the_int8_values_plus_128(name):
    _, wanted, signed = raw_edges(Quantize(), name)
    _, outputs, unsigned = raw_edges(UINT8, name)
    for y, y8 in zip(outputs, wanted, strict=True):
        np.testing.assert_array_equal(y, y8)
    for a, b in zip(signed, unsigned, strict=True):
        assert (a["dtype"], b["dtype"]) == (np.int8, np.uint8)
        assert b["quantization"] == (a["quantization"][0], a["quantization"][1] + 128)
        assert a["name"] in b["name"]


@some_edges
@pytest.mark.slow
def test_float_edges_hold_the_dequantized_values(name):
    inputs, wanted, _ = raw_edges(Quantize(), name)
    _, outputs, edges = raw_edges(FLOAT_EDGES, name)
    assert all(edge["dtype"] == np.float32 for edge in edges)
    file = File.parse(exported(name, FLOAT_EDGES).built.content)
    inside = {file.dtype(i) for i in range(len(file.tensors)) if i not in (*file.inputs, *file.outputs)}
    assert inside <= {"int8", "int32"}
    for y, y8 in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(y, y8, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_8_bit_images_enter_with_step_1():
    found = exported("uint8_input", UINT8)
    (edge,) = Runner(found.built.content).inputs
    assert edge["dtype"] == np.uint8 and edge["quantization"] == (1.0, 0)


# Files that are not as decided are refused ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written() -> tuple[IntegerModel, Spec]:
    """The integer file of `plain`, and its specification."""
    found = exported("plain")
    float_model = convert(found.rounded, [array[:1] for array in found.inputs])
    spec = Spec(
        {index: found.ranges[tensor] for tensor, index in float_model.tensor_of.items()},
        names={index: tensor for tensor, index in float_model.tensor_of.items()},
    )
    result = quantize_file(float_model.file, spec)
    verify_content(result, spec)
    return result, spec


def tampered(result: IntegerModel, change) -> IntegerModel:
    file = File.parse(result.content)
    change(file)
    return dataclasses.replace(result, content=file.serialize())


def change_constant(file: File, suffix: str) -> None:
    (index,) = (i for i in range(len(file.tensors)) if file.name(i) == suffix)
    data = np.array(file.model.buffers[file.tensors[index].buffer].data)
    data[0] ^= 1
    file.model.buffers[file.tensors[index].buffer].data = data


def change_quantization(file: File, name: str, **changes) -> None:
    (index,) = (i for i in range(len(file.tensors)) if file.name(i) == name)
    quantization = file.tensors[index].quantization
    for key, delta in changes.items():
        values = np.array(getattr(quantization, key)).tolist()
        setattr(quantization, key, [values[0] + delta, *values[1:]])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda file: change_constant(file, "a_relu/kernel"), "the integers of 'a_relu/kernel' are not those"),
        (lambda file: change_constant(file, "a_relu/bias"), "the integers of 'a_relu/bias' are not those"),
        (lambda file: change_quantization(file, "a_relu", scale=1e-6), "tensor 'a_relu' has the grid"),
        (lambda file: change_quantization(file, "b_relu", zeroPoint=1), "tensor 'b_relu' has the grid"),
        (lambda file: change_quantization(file, "head/kernel", scale=1e-6), "the scales or zero points of 'head/kernel'"),
        (lambda file: change_quantization(file, "head/kernel", zeroPoint=1), "the scales or zero points of 'head/kernel'"),
        (lambda file: change_quantization(file, "head/bias", scale=1e-6), "the scales or zero points of 'head/bias'"),
        (lambda file: setattr(file.tensors[file.inputs[0]], "type", 3), "edge 'image' is uint8, not int8"),
        (lambda file: setattr(file.tensors[file.inputs[0]], "shape", [-1, 8, 8, 3]), "edge 'image' has the dynamic shape"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_decided_is_refused(written, change, message):
    result, spec = written
    with pytest.raises(ExportError, match=message):
        verify_content(tampered(result, change), spec)


def test_a_float_tensor_left_behind_is_refused(written):
    result, spec = written
    other = dataclasses.replace(spec, edge_dtype="float32")
    with pytest.raises(ExportError, match="edge 'image' is int8, not float32"):
        verify_content(result, other)
    index = next(old for old in result.index_of if result.index_of[old] not in File.parse(result.content).inputs)
    inner = tampered(result, lambda file: setattr(file.tensors[result.index_of[index]], "type", 0))
    with pytest.raises(ExportError, match="is still float32"):
        verify_content(inner, spec)


def test_a_tensor_without_a_range_is_named():
    graph = exported("plain").rounded
    float_model = convert(graph, random_inputs(graph, 1))
    names = {index: tensor for tensor, index in float_model.tensor_of.items()}
    with pytest.raises(ExportError, match="tensor 'image' must be quantized, but no range was found"):
        quantize_file(float_model.file, Spec({}, names=names))


def test_equal_decisions_give_equal_bytes():
    assert export(build("squeeze_excite")).built.content == exported("squeeze_excite").built.content


# Biases that do not fit -----------------------------------------------------------------------------------------------


def test_a_bias_that_would_overflow_raises_its_channels_step_and_says_so():
    found = exported("dead_channels")
    assert found.built.notes == {"a_relu": "1 weight scale(s) raised: the bias would overflow 32 bits"}
    chosen, used = found.kernels["a_conv"].grid.scale, found.built.kernels["a_conv"].grid.scale
    assert list(used > chosen) == [False, False, True, False] or (used > chosen).sum() <= 2
    bias = found.built.graph.layers["a_conv"].weight("bias")
    np.testing.assert_allclose(bias, found.rounded.layers["a_conv"].weight("bias"), rtol=1e-3, atol=1e-3)


def test_a_layer_of_zeros_keeps_its_bias():
    found = exported("zero_kernel")
    written, wanted = (graph.layers["conv"].weight("bias") for graph in (found.built.graph, found.reference))
    np.testing.assert_allclose(written, wanted, rtol=1e-5)


# What cannot be written -----------------------------------------------------------------------------------------------


def graph_of(x, y) -> Graph:
    return separate(Graph.from_keras(randomized(keras.Model(x, y)))).graph


def test_dynamic_shapes_are_refused():
    x = image((None, None, 3))
    graph = graph_of(x, L.GlobalAveragePooling2D()(L.Conv2D(3, 3)(x)))
    with pytest.raises(ExportError, match=r"'image' has shape \(None, None, None, 3\).*input_shape="):
        convert(graph, [np.zeros((1, 8, 8, 3), np.float32)])


def test_operations_that_tflite_lacks_are_refused():
    x = image()
    graph = graph_of(x, ops.erfinv(L.Conv2D(3, 3)(x)))
    with pytest.raises(ExportError, match="TFLite has no operator for .*Erfinv"):
        convert(graph, random_inputs(graph, 1))


def test_a_shared_layer_gets_steps_that_fit_its_bias_at_every_call():
    x = image()
    conv = L.Conv2D(3, 1, name="conv")
    model = randomized(keras.Model(x, L.Add(name="add")([conv(x), conv(L.Activation("sigmoid", name="sigmoid")(x))])))
    conv.kernel.assign(conv.kernel * 1e-6)
    conv.bias.assign([1.0, 2.0, 3.0])
    found = export(model)
    assert not found.built.float_reasons
    assert all(check.lsb <= 1 for check in found.built.checks.values())
    np.testing.assert_allclose(
        Runner(found.built.content).predict([a[:1] for a in found.inputs])[0][0, 0, 0], [2, 4, 6], rtol=0.02
    )


def test_a_shared_layer_with_a_dead_output_gets_steps_that_fit_the_bias_of_each_call():
    x = image()
    conv = L.Conv2D(3, 1, name="conv")
    first = conv(x) + np.float32([0.1, 0.2, 0.3])
    second = conv(L.Activation("sigmoid", name="sigmoid")(x)) + np.float32([3.0, 4.0, 5.0])
    model = randomized(keras.Model(x, L.Add(name="total")([first, second])))
    conv.kernel.assign(conv.kernel * np.float32([1, 0, 1]))
    found = export(model)
    y, wanted = (
        Runner(found.built.content).predict([a[:1] for a in found.inputs])[0],
        found.reference.predict(found.inputs)[0][:1],
    )
    assert np.abs(y - wanted).max() < 0.1


def test_ranges_of_nothing_but_zeros_are_written():
    x = image()
    y = L.ReLU(name="relu")(L.Rescaling(-1.0, name="negative")(L.ReLU(name="positive")(L.Conv2D(3, 3, name="conv")(x))))
    found = export(randomized(keras.Model(x, [y, L.GlobalAveragePooling2D(name="pool")(y)])))
    assert found.ranges["relu"] == Range(0, 0)
    assert found.built.grids["relu"].scale > 0
    assert not np.any(Runner(found.built.content).predict([a[:1] for a in found.inputs])[0])


@pytest.mark.slow
def test_weights_too_large_for_cpu_runtimes_are_refused_before_they_are_run():
    x = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(4, 1, activation="relu6", name="broken")
    model = keras.Model(x, keras.layers.GlobalAveragePooling2D()(conv(x)))
    for variable, factor in ((conv.kernel, 1e6), (conv.bias, 0)):
        variable.assign(np.asarray(variable) * factor)
    with pytest.raises(ExportError, match="'broken.*times the output scale.*keep_float"):
        compress(model, input_range=(-1, 1), verbose=0)
    conv.kernel.assign(np.asarray(conv.kernel) * 1e-4)
    assert compress(model, input_range=(-1, 1), verbose=0).tflite


# Ranges that nobody chose ---------------------------------------------------------------------------------------------


def float_file(name: str):
    found = exported(name)
    model = convert(found.rounded, [array[:1] for array in found.inputs])
    file = model.file
    ranges = {index: found.ranges[tensor] for tensor, index in model.tensor_of.items() if tensor in found.ranges}
    return model, file, Spec(ranges)


# Operators that share a grid, that have a fixed one, or that become several operators; and one model without any of them.
GRIDS = [
    "plain", "conv1d", "concatenate", "merges", "poolings", "zero_padding", "permuted", "upsampling_nearest",
    "upsampling_bilinear", "ops_nodes", "sine", "hard_swish", "softmax", "tanh", "normalization",
    "batchnorm_on_another_axis", "uint8_input", "input_is_an_output",
]  # fmt: skip


@each(GRIDS)
def test_tensors_on_the_grid_of_a_known_tensor_are_never_measured(name):
    model, file, spec = float_file(name)
    missing = tensors_without_grid(file, spec)
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is None or rule.fixed or (rule.grid != "own" and operator.inputs[0] in spec.ranges):
            assert not set(operator.outputs) & set(missing)
    # And what is not known otherwise is measured: with it nothing is left to find.
    measured = dict.fromkeys(missing, Range(-1, 1))
    assert not tensors_without_grid(file, Spec({**spec.ranges, **measured}))
    quantize_file(model.file, Spec({**spec.ranges, **measured}))


def test_upsampling_is_several_operators_none_of_which_is_measured():
    inputs = keras.Input((8, 3))
    graph = Graph.from_keras(keras.Model(inputs, L.UpSampling1D(2)(inputs)))
    model = convert(graph, [np.ones((1, 8, 3), np.float32)])
    file = model.file
    spec = Spec(dict.fromkeys(model.tensor_of.values(), Range(-1, 1)))
    unknown = {index for operator in file.operators for index in operator.outputs} - spec.ranges.keys()
    assert unknown and not tensors_without_grid(file, spec)


@pytest.mark.parametrize("bytes_at_once", [1, 2**27])
def test_measured_ranges_are_the_extremes_over_all_inputs(bytes_at_once, monkeypatch):
    model, file, spec = float_file("normalization")
    tensors = sorted({index for operator in file.operators[:-2] for index in operator.outputs})
    monkeypatch.setattr(build_module, "_MEASURED_BYTES", bytes_at_once)
    inputs = exported("normalization").inputs
    found = _measure(model.file, tensors, inputs)
    runner = Runner(model.content, keep_all=True)
    seen = {index: [] for index in tensors}
    for at in range(len(inputs[0])):
        runner.run([array[at : at + 1] for array in inputs])
        for index in tensors:
            seen[index].append(runner.value(index))
    assert len(tensors) > 1
    for index, values in seen.items():
        assert found[index] == Range(np.min(values), np.max(values))
