"""The table of operations, row by row, held against what Keras computes and what the converter writes."""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tfdatafree.export.float_model import convert
from tfdatafree.model.cap_layer import ChannelCap
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import LAYOUTS
from tfdatafree.model.operations import (
    OPERATIONS,
    UNKNOWN,
    Rectifier,
    cap_of,
    is_activation_layer,
    operation_of,
    rectifier_of,
)
from tfdatafree.tflite.operators import OPERATORS

SHAPE = (4, 4, 3)
RANDOM = {f"Random{name}": factor for name, factor in {"Flip": "horizontal", "Rotation": 0.1, "Zoom": 0.1, "Contrast": 0.1,
                                                       "Brightness": 0.1}.items()}  # fmt: skip
LAYERS = {
    **{name: L.Dropout(0.5) for name in ("Dropout",)},
    "GaussianDropout": L.GaussianDropout(0.5),
    "AlphaDropout": L.AlphaDropout(0.5),
    "GaussianNoise": L.GaussianNoise(1.0),
    "ActivityRegularization": L.ActivityRegularization(0.1),
    **{name: getattr(L, name)(factor) for name, factor in RANDOM.items()},
    "RandomTranslation": L.RandomTranslation(0.1, 0.1),
    "Identity": L.Identity(),
    "ReLU": L.ReLU(),
    "LeakyReLU": L.LeakyReLU(0.1),
    "PReLU": L.PReLU(alpha_initializer=keras.initializers.RandomUniform(0.1, 0.4, seed=1), shared_axes=[1, 2]),
    "ELU": L.ELU(),
    "Rescaling": L.Rescaling(np.float32([2, 3, 4]), np.float32([1, 0, -1])),
    "ChannelCap": ChannelCap([0.5, 1.0, 2.0]),
    "Softmax": L.Softmax(),
    "LayerNormalization": L.LayerNormalization(),
    "Reshape": L.Reshape((2, 8, 3)),
    "Flatten": L.Flatten(),
    "Permute": L.Permute((3, 1, 2)),
    **{f"{name}{dims}D": getattr(L, f"{name}{dims}D")(2 if name not in ("ZeroPadding", "Cropping") else 1)
       for name in ("MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling") for dims in (1, 2, 3)},
    **{f"{name}{dims}D": getattr(L, f"{name}{dims}D")()
       for name in ("GlobalMaxPooling", "GlobalAveragePooling") for dims in (1, 2, 3)},
    **{name: getattr(L, name)(2) for name in dir(L) if name.startswith("Adaptive")},  # of newer versions of Keras
    "RepeatVector": L.RepeatVector(3),
}  # fmt: skip
JOINED = {
    **{name: getattr(L, name)() for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
    "Divide": lambda x: ops.divide(*x),
    "TrueDivide": lambda x: ops.true_divide(*x),
    "Power": lambda x: ops.power(ops.abs(x[0]) + 1, x[1]),
    "Concatenate": L.Concatenate(),
    "Stack": lambda x: ops.stack(x, 1),
    "Dot": L.Dot(axes=(1, 1)),
    "Matmul": lambda x: ops.matmul(x[0], ops.transpose(x[1], (0, 1, 3, 2))),
    "Einsum": lambda x: ops.einsum("bijk,bijl->bikl", *x),
    "Attention": L.Attention(),
}
CALLS = {
    **{name: getattr(ops, function) for name, function in {
        "Relu": "relu", "Relu6": "relu6", "LeakyRelu": "leaky_relu", "Elu": "elu", "HardSilu": "hard_silu", "Sigmoid": "sigmoid",
        "Tanh": "tanh", "HardSigmoid": "hard_sigmoid", "Celu": "celu", "Gelu": "gelu", "HardShrink": "hard_shrink",
        "HardTanh": "hard_tanh", "LogSigmoid": "log_sigmoid", "Selu": "selu", "Silu": "silu", "SoftShrink": "soft_shrink",
        "Softplus": "softplus", "Softsign": "softsign", "SparsePlus": "sparse_plus", "Squareplus": "squareplus",
        "TanhShrink": "tanh_shrink", "Absolute": "absolute", "Arctan": "arctan", "Ceil": "ceil", "Copy": "copy",
        "Cos": "cos", "Erf": "erf", "Exp": "exp", "Expm1": "expm1", "Floor": "floor", "Negative": "negative",
        "Reciprocal": "reciprocal", "Round": "round", "Sign": "sign", "Sin": "sin", "Square": "square",
        "StopGradient": "stop_gradient", "LogSoftmax": "log_softmax", "Log": "log", "Log1p": "log1p", "Sqrt": "sqrt",
        "Rsqrt": "rsqrt", "Transpose": "transpose"}.items()},
    "Threshold": lambda x: ops.threshold(x, 0.3, 0.1),
    "Cast": lambda x: ops.cast(x, "float16"),
    "Clip": lambda x: ops.clip(x, 0, 1),
    "Squeeze": lambda x: ops.squeeze(ops.reshape(x, (-1, 16, 1, 3)), 2),
    "ExpandDims": lambda x: ops.expand_dims(x, 1),
    "Moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "Swapaxes": lambda x: ops.swapaxes(x, 1, -1),
    "Pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0))),
    "GetItem": lambda x: x[:, ::2, :, 1:],
    "Slice": lambda x: ops.slice(x, (0, 1, 1, 0), (x.shape[0], 2, 2, 3)),
    "Split": lambda x: ops.split(x, 2, 1),
}  # fmt: skip
OTHER_SHAPES = {"RepeatVector": (3,), "Attention": (6, 3)}
BATCH = 2
"""What is sliced has a static batch."""


def function_of(name: str):
    known = JOINED.get(name) or LAYERS.get(name) or CALLS.get(name) or L.Activation(name)
    if not isinstance(known, L.Layer):
        return known
    # With a name that Keras gives now: another test may have reset the numbers in names.
    return type(known).from_config({key: value for key, value in known.get_config().items() if key != "name"})


@functools.cache
def example(name: str) -> tuple[Graph, Layer]:
    """A graph whose last operation is the one called `name`, and that operation."""
    shape = {"1D": (6, 3), "3D": (4, 4, 4, 3)}.get(name[-2:], OTHER_SHAPES.get(name, SHAPE))
    x = keras.Input(batch_shape=(BATCH, *shape))
    if name in JOINED:
        y = keras.Input(batch_shape=(BATCH, *shape))
        model = keras.Model([x, y], function_of(name)([x, y]))
    else:
        model = keras.Model(x, function_of(name)(x))
    graph = Graph.from_keras(model)
    return graph, graph.layer_of(graph.nodes[-1])


def drawn(graph: Graph) -> list[np.ndarray]:
    """Inputs between -5 and 5; no two values are equal. Positive for functions that have no others."""
    random = np.random.default_rng(0)
    inputs = [random.uniform(0.1, 5, graph.specs[tensor].shape).astype(np.float32) for tensor in graph.inputs]
    if graph.layer_of(graph.nodes[-1]).class_name in ("Log", "Log1p", "Sqrt", "Rsqrt"):
        return inputs
    return [x * random.choice(np.float32([1, -1]), x.shape) for x in inputs]


def computed(graph: Graph, inputs: list[np.ndarray]) -> np.ndarray:
    return graph.predict([np.float32(x) for x in inputs])[0]


def with_property(**wanted) -> list[str]:
    return [
        name
        for name, row in OPERATIONS.items()
        if all(getattr(row, key) == value for key, value in wanted.items())
        and (not name.startswith("Adaptive") or hasattr(L, name))
    ]


every_row = pytest.mark.parametrize("name", with_property())


@every_row
def test_each_name_is_that_of_an_operation(name):
    _, layer = example(name)
    assert operation_of(layer) is OPERATIONS[name]
    function = layer.operation.activation if isinstance(layer.operation, L.Activation) else type(layer.operation)
    assert function.__name__ == name
    assert name not in LAYOUTS


@pytest.mark.parametrize("name", with_property(no_op=True))
def test_a_no_op_returns_its_input(name):
    graph, layer = example(name)
    (x,) = drawn(graph)
    np.testing.assert_array_equal(
        np.asarray(layer.operation(x.astype(np.float32), training=False)), x.astype(np.float32)
    )


@functools.cache
def dependence(name: str) -> np.ndarray:
    """[i, j]: whether channel j of the output changes with channel i of all inputs."""
    graph, _ = example(name)
    inputs, rows = drawn(graph), []
    before = computed(graph, inputs)
    for channel in range(3):
        after = computed(graph, [np.where(np.arange(3) == channel, 1.3 * x + 0.2, x) for x in inputs])
        rows.append((before != after).reshape(-1, before.shape[-1]).any(axis=0))
    return np.array(rows)


@pytest.mark.parametrize("name", with_property(channels="apart") + with_property(channels="joined"))
def test_channels_stay_apart(name):
    assert not dependence(name)[~np.eye(3, dtype=bool)].any()


@pytest.mark.parametrize("name", sorted(set(with_property(channels="mixed")) - {"glu"}))
def test_mixed_channels_depend_on_one_another(name):
    assert dependence(name)[~np.eye(3, dtype=bool)].any()


@pytest.mark.parametrize("name", with_property(channels="moved"))
def test_moved_channels_are_not_where_they_were(name):
    assert not np.array_equal(dependence(name), np.eye(3, dtype=bool))


@pytest.mark.parametrize("name", with_property(values="same") + with_property(values="reordered"))
def test_values_move_and_stay_what_they_are(name):
    graph, layer = example(name)
    (x,) = drawn(graph)
    before, after = x.reshape(-1), computed(graph, [x]).reshape(-1)
    assert np.array_equal(before, after) == (operation_of(layer).values == "same")
    np.testing.assert_array_equal(np.sort(before), np.sort(after))


@pytest.mark.parametrize("name", with_property(values="selected"))
def test_values_are_selected(name):
    graph, _ = example(name)
    (x,) = drawn(graph)
    assert set(computed(graph, [x]).reshape(-1).tolist()) <= {*x.reshape(-1).tolist(), 0.0}


@pytest.mark.parametrize("name", with_property(homogeneous=True))
def test_homogeneous_operations_scale_with_their_input(name):
    graph, _ = example(name)
    inputs, scale = drawn(graph), np.float32([0.25, 3, 7])
    wanted = computed(graph, inputs) * scale
    np.testing.assert_allclose(computed(graph, [x * scale for x in inputs]), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", with_property(spatial=True))
def test_one_pixel_stays_itself(name):
    layer = LAYERS[name]
    if name.startswith("Cropping") or (name.startswith(("Max", "Average")) and "Global" not in name):
        config = {"cropping": 0} if name.startswith("Cropping") else {"pool_size": 1}
        layer = type(layer)(**config)
    if name.startswith("AdaptiveMax"):
        pytest.skip("TensorFlow ends the process: Keras asks it for a window of two pixels")
    if name.startswith("Adaptive"):
        layer = type(layer)(1)
    pixel = np.random.default_rng(0).normal(size=(2, *[1] * int(name[-2]), 3)).astype(np.float32)
    found = np.asarray(layer(pixel)).reshape(2, -1, 3)
    assert all(np.allclose(found[:, at], pixel.reshape(2, 3)) or not found[:, at].any() for at in range(found.shape[1]))
    assert any(np.allclose(found[:, at], pixel.reshape(2, 3)) for at in range(found.shape[1]))


@pytest.mark.parametrize("name", with_property(bounded=True))
def test_bounded_outputs_stay_within_their_range(name):
    graph, _ = example(name)
    x = np.linspace(-1e3, 1e3, 96, dtype=np.float32).reshape(BATCH, *SHAPE)
    found = computed(graph, [x])
    assert found.max() <= 6
    assert found.min() >= -1 or "log" in name.lower()  # only one end of log softmax is built in


@pytest.mark.parametrize("name", with_property(squashes=True))
def test_squashing_keeps_the_order(name):
    graph, _ = example(name)
    (x,) = drawn(graph)
    np.testing.assert_array_equal(np.argsort(computed(graph, [x]), axis=-1), np.argsort(x, axis=-1))
    assert OPERATIONS[name].bounded


@pytest.mark.slow
def test_the_converter_writes_the_operators_of_the_table():
    """One model with an output for each row that names an operator."""
    names = [name for name, row in OPERATIONS.items() if row.operator and not row.no_op and name != "Split"]
    image, other = (keras.Input(batch_shape=(1, *SHAPE)) for _ in range(2))
    signal, vector = keras.Input(batch_shape=(1, 6, 3)), keras.Input(batch_shape=(1, 3))
    outputs = []
    for at, name in enumerate(names):
        x = vector if name == "RepeatVector" else signal if name.endswith("1D") else image
        x = x * (1 + at / 64)  # or the converter would compute rows for the same function once
        outputs.append(function_of(name)([x, other] if name in JOINED else x))
    graph = Graph.from_keras(keras.Model([image, other, signal, vector], outputs))
    made = convert(graph, drawn(graph))
    file, producers = made.file, graph.producers()
    for name, output in zip(names, graph.outputs, strict=True):
        written = [o for o in file.operators if made.node_of.get(int(o.outputs[0])) == producers[output].name]
        assert OPERATIONS[name].operator in {file.operator_name(operator) for operator in written}, name
        assert OPERATIONS[name].operator in OPERATORS


def test_functions_are_known_if_they_are_keras_own():
    def relu6(x):
        return x

    assert operation_of(Layer(L.Activation("relu6"))) is OPERATIONS["relu6"]
    assert operation_of(Layer(L.Activation(relu6))) is UNKNOWN
    assert operation_of(Layer(L.Activation(relu6)), by_name=True) is OPERATIONS["relu6"]
    assert operation_of(Layer(L.Activation(L.LeakyReLU()))) is UNKNOWN
    others = {"deserialize", "get", "serialize", "threshold"}  # no Activation can give threshold its arguments
    functions = {
        f.__name__ for n, f in vars(keras.activations).items() if callable(f) and n[0] != "_" and n not in others
    }
    assert functions <= OPERATIONS.keys(), "every function of Keras has a row"


def test_subclasses_count_as_their_keras_class_and_namesakes_do_not():
    class FixedDropout(L.SpatialDropout2D):
        pass

    class Add(L.Layer):
        pass

    assert operation_of(Layer(FixedDropout(0.1))).no_op
    assert operation_of(Layer(Add())) is UNKNOWN
    x = keras.Input(SHAPE)
    averaged = Graph.from_keras(keras.Model(x, ops.average(x, axis=1)))
    assert operation_of(averaged.layer_of(averaged.nodes[-1])) is UNKNOWN, "not the layer that averages tensors"


RECTIFIERS = {
    "relu": (L.ReLU(), Rectifier()),
    "relu by name": (L.Activation("relu"), Rectifier()),
    "relu6": (L.ReLU(6.0), Rectifier(6.0)),
    "relu6 by name": (L.Activation("relu6"), Rectifier(6.0)),
    "sloped": (L.ReLU(negative_slope=0.3), Rectifier(slope=0.3)),
    "threshold": (L.ReLU(threshold=0.5), Rectifier(threshold=0.5)),
    "all": (L.ReLU(2.0, negative_slope=0.25, threshold=0.5), Rectifier(2.0, 0.25, 0.5)),
}


@pytest.mark.parametrize("case", RECTIFIERS)
def test_rectifiers_compute_their_formula(case):
    operation, wanted = RECTIFIERS[case]
    found = rectifier_of(operation)
    assert found == wanted and is_activation_layer(Layer(operation))
    x = np.linspace(-4, 9, 131, dtype=np.float32)
    y = np.where(x > found.threshold, x, found.slope * (x - found.threshold))
    y = y if found.cap is None else np.where(x >= found.cap, found.cap, y)
    np.testing.assert_allclose(np.asarray(operation(x)), y, rtol=1e-6, atol=1e-6)
    assert found.homogeneous == np.allclose(np.asarray(operation(3 * x)), 3 * y, atol=1e-5)
    assert found.is_clip == np.allclose(y, np.clip(x, 0, found.cap))
    capped = np.asarray(operation(np.float32([1e6])))[0] < 1e6
    assert (cap_of(operation) is not None) == (capped and not found.threshold)


def test_what_is_no_rectifier():
    assert rectifier_of(L.LeakyReLU()) is None and rectifier_of(L.Activation("tanh")) is None
    assert cap_of(L.Activation("tanh")) is None and cap_of(L.ReLU(0.0)) is None
