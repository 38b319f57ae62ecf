import io
import json
import os
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tfdatafree.errors import LoadError, UnsupportedModelError
from tfdatafree.model.file_kind import is_newer
from tfdatafree.model.keras2_files import OLD_KEY
from tfdatafree.model.load import load, require_tensorflow_backend

L = keras.layers


def randomized(model, seed=0):
    """Gives every float weight random values, so that a lost weight (or a BatchNorm statistic) shows."""
    random = np.random.default_rng(seed)
    values = [
        random.uniform(0.5, 1.5, w.shape) if w.dtype.kind == "f" and w.ndim == 1 else
        random.normal(0, 0.5, w.shape) if w.dtype.kind == "f" else w
        for w in model.get_weights()
    ]  # fmt: skip
    model.set_weights(values)
    return model


def batch(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(3, *shape)).astype("float32")


def small_cnn(layers=L, models=keras, shape=(8, 8, 3)):
    x = inputs = models.Input(shape, name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = y = layers.ReLU(6.0, name="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return randomized(models.Model(inputs, layers.Dense(5, activation="softmax", name="head")(x), name="cnn"))


def assert_same_outputs(model, reference, *inputs, tolerance=1e-5):
    got, expected = (m(inputs[0] if len(inputs) == 1 else list(inputs), training=False) for m in (model, reference))
    got, expected = ([np.asarray(o) for o in (x if isinstance(x, (list, tuple)) else [x])] for x in (got, expected))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert np.ptp(b) > 1e-3, "a constant output would prove nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# Keras 3 models and files


def test_a_ready_model_is_returned_itself():
    model = small_cnn()
    assert load(model) is model


@pytest.mark.parametrize("extension", [".keras", ".h5", ".hdf5"])
def test_a_saved_file_gives_the_same_function(tmp_path, extension):
    model = small_cnn()
    model.save(tmp_path / f"model{extension}")
    loaded = load(tmp_path / f"model{extension}")
    assert_same_outputs(loaded, model, batch(8, 8, 3))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]


def with_config_change(path, change):
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            change(layer)
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.4.0"


def test_neutral_entries_that_keras_3_does_not_know_are_dropped(tmp_path):
    def add_entries(layer):
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"].update(groups=1, long_gone=None, also_gone=False)

    model = small_cnn()
    model.save(path := tmp_path / "old.h5")
    with_config_change(path, add_entries)
    with pytest.raises(Exception, match="groups"):
        keras.models.load_model(path, compile=False)
    before = path.read_bytes()
    assert_same_outputs(load(path), model, batch(8, 8, 3))
    assert path.read_bytes() == before


@pytest.mark.slow
def test_an_unknown_entry_that_changes_the_function_is_not_dropped(tmp_path, monkeypatch):
    small_cnn().save(path := tmp_path / "old.h5")
    with_config_change(
        path, lambda layer: layer["class_name"] == "DepthwiseConv2D" and layer["config"].update(groups=2)
    )
    with pytest.raises(LoadError, match="Neither Keras 3 nor tf_keras"):
        load(path)
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(LoadError, match="Keras 2 file that needs the package tf_keras: pip install tf_keras$"):
        load(path)


def test_hard_sigmoid_of_keras_2_is_refused_because_keras_3_means_another_function(tmp_path):
    small_cnn().save(path := tmp_path / "old.h5")
    with_config_change(
        path, lambda layer: layer["class_name"] == "Dense" and layer["config"].update(activation="hard_sigmoid")
    )
    with pytest.raises(UnsupportedModelError, match=r"'head' \(Dense\) uses hard_sigmoid"):
        load(path)


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_a_lambda_runs_only_when_the_caller_trusts_the_file(tmp_path, extension):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, L.Lambda(lambda x: x * 2.0, output_shape=(4,), name="double")(inputs))
    model.save(path := tmp_path / f"model{extension}")
    with pytest.raises(UnsupportedModelError, match=r"'double' \(Lambda\).*unsafe=True.*--unsafe_load.*trust"):
        load(path)
    assert_same_outputs(load(path, unsafe=True), model, batch(4))


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_an_unregistered_class_is_named(tmp_path, extension):
    class Doubling(L.Layer):
        def call(self, x):
            return x * 2

    keras.Sequential([keras.Input((4,)), Doubling()]).save(path := tmp_path / f"model{extension}")
    with pytest.raises(UnsupportedModelError, match="'Doubling'.*register_keras_serializable"):
        load(path)


# Files that are no models


def test_bad_paths_give_one_clear_line(tmp_path):
    def file(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    model = small_cnn()
    model.save(tmp_path / "good.keras")
    model.save(tmp_path / "good.h5")
    model.save_weights(tmp_path / "only.weights.h5")
    zipped, hdf5 = (tmp_path / "good.keras").read_bytes(), (tmp_path / "good.h5").read_bytes()
    flipped = bytearray(zipped)
    flipped[len(zipped) // 2] ^= 255
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme", "hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"")
    cases = {
        tmp_path / "none.keras": "does not exist",
        file("empty.keras", b""): "is empty",
        file("empty.h5", b""): "is empty",
        file("text.keras", b"hello, I am a text file"): "not a Keras file",
        file("lite.h5", b"\x1c\x00\x00\x00TFL3" + bytes(99)): "not a Keras file",
        file("model.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(99)): "converted file.*Keras model that it was made of",
        file("model.bin", b"something else"): r"ends in '\.bin': pass",
        file("model.onnx", b"\x08\x08"): "ONNX file.*build the same network in Keras.*set_weights",
        file("model.pt", zipped): r"PyTorch file.*set_weights.*\(height, width, in, out\)",
        file("model.pth", zipped): "PyTorch file",
        file("model.safetensors", b"\x08\x08"): "weights without their network.*build the same network",
        file("frozen.pb", b"\x08\x08"): "TensorFlow graph.*rebuild the network",
        file("half.keras", zipped[: len(zipped) // 2]): "truncated or damaged",
        file("flipped.keras", bytes(flipped)): "truncated or damaged",
        file("half.h5", hdf5[: len(hdf5) // 2]): "truncated or damaged",
        file("misnamed.keras", hdf5): r"rename it so that it ends in \.h5",
        file("misnamed.h5", zipped): r"rename it so that it ends in \.keras",
        tmp_path / "other.keras": "not a Keras file",
        tmp_path / "only.weights.h5": "only weights",
        tmp_path / "folder": "directory and not a model",
        tmp_path / "saved_model": "SavedModel.*Keras 3 cannot rebuild.*save",
    }
    for path, reason in cases.items():
        with pytest.raises(LoadError, match=reason) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(LoadError, match="Cannot load a int"):
        load(3)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_file_of_a_newer_keras_says_so_where_it_cannot_be_read(ending, tmp_path):
    def of_keras(version, path):
        """Writes a file as if by Keras `version`, with an option that no other one knows."""
        small_cnn().save(path)
        if ending == ".h5":
            with_config_change(path, lambda layer: layer["config"].update(of_the_future=2))
            with h5py.File(path, "r+") as file:
                file.attrs["keras_version"] = version
            return
        parts = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
        config = json.loads(parts["config.json"])
        for layer in config["config"]["layers"]:
            layer["config"]["of_the_future"] = 2
        changed = {"config.json": json.dumps(config), "metadata.json": json.dumps({"keras_version": version})}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**parts, **changed}.items():
                archive.writestr(name, content)

    of_keras("3.999.1", path := tmp_path / f"newer{ending}")
    with pytest.raises(
        LoadError, match=rf"saved by Keras 3\.999\.1; you have {keras.__version__}.*pip install -U keras"
    ):
        load(path)
    of_keras("3.0.0", path := tmp_path / f"older{ending}")
    with pytest.raises(LoadError, match="of_the_future"):
        load(path)


def test_versions_are_compared_as_numbers():
    assert is_newer("3.15.1", "3.9.0") and is_newer("4.0.0", "3.15.1") and is_newer("3.16.0.dev2027", "3.15.1")
    for version in ("3.15.9", "3.9", "2.15.0", "", "unknown", "3.x", "9" * 5000):
        assert not is_newer(version, "3.15.1"), version


# Models that cannot be compressed


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "layer, name",
    [
        (lambda: L.LSTM(2, name="lstm"), r"'lstm' \(LSTM\) is recurrent and cannot be quantized layer by layer"),
        (lambda: L.GRU(2, name="gru"), r"'gru' \(GRU\) is recurrent"),
        (lambda: L.SimpleRNN(2, name="rnn"), r"'rnn' \(SimpleRNN\) is recurrent"),
        (lambda: L.RNN(L.LSTMCell(2), name="cells"), r"'cells' \(RNN\) is recurrent"),
        (lambda: L.Bidirectional(L.LSTM(2), name="both"), r"'both' \(Bidirectional\) is recurrent"),
        (lambda: L.TimeDistributed(L.Dense(2), name="each"), r"'each' \(TimeDistributed\).*fold time into the batch"),
        (lambda: Subclassed(name="own"), r"'own' \(Subclassed\) is a subclassed model.*functional API"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_layers_that_cannot_be_compressed_are_named(layer, name, nested):
    model = keras.Sequential([keras.Input((6, 3)), layer()])
    if nested:
        model = keras.Sequential([keras.Input((6, 3)), L.ReLU(), model])
    with pytest.raises(UnsupportedModelError, match=name):
        load(model)


def test_conv_lstm_and_subclassed_models_at_the_top_are_named():
    with pytest.raises(UnsupportedModelError, match=r"'film' \(ConvLSTM2D\) is recurrent"):
        load(keras.Sequential([keras.Input((2, 6, 6, 3)), L.ConvLSTM2D(2, 3, name="film")]))
    with pytest.raises(UnsupportedModelError, match=r"\(Subclassed\) is a subclassed model"):
        load(Subclassed())

    class OwnCall(keras.Model):
        def __init__(self):
            inputs = keras.Input((4,))
            super().__init__(inputs, L.ReLU()(inputs))

        def call(self, x):
            return super().call(x) * 2

    with pytest.raises(UnsupportedModelError, match=r"\(OwnCall\) is a subclassed model"):
        load(OwnCall())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value):
    model = keras.Sequential([keras.Input((4,)), keras.Sequential([keras.Input((4,)), L.Dense(2, name="sick")])])
    kernel = model.layers[0].layers[0].kernel
    kernel.assign(kernel.numpy() + value)
    with pytest.raises(UnsupportedModelError, match=r"'sick' \(Dense\).*NaN or infinite.*'kernel'"):
        load(model)


def test_another_backend_is_refused(monkeypatch):
    require_tensorflow_backend()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UnsupportedModelError, match="KERAS_BACKEND is 'jax'.*KERAS_BACKEND=tensorflow"):
        load("anything.keras")


# Input shapes


def dynamic_model():
    """Nested, shared, with keras.ops, a Normalization with state and a Lambda: all that a copy can lose."""
    inner_input = keras.Input((None, None, 4), name="inner_input")
    inner = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, padding="same", name="conv")(inner_input))
    inner = keras.Model(inner_input, inner, name="block")
    x = inputs = keras.Input((None, None, 3), name="image")
    x = L.Normalization(mean=None, name="normalize")(x)
    x = L.Conv2D(4, 1, name="stem")(x)
    x = inner(inner(x)) + x
    x = L.Lambda(lambda t: t * 0.1, name="tenth")(keras.ops.relu(x))
    x = L.Dense(2, name="head")(L.GlobalAveragePooling2D(name="pool")(x))
    model = randomized(keras.Model(inputs, x, name="dynamic"))
    model.get_layer("normalize").finalize_state()
    return model


@pytest.mark.parametrize("shape", [(8, 6, 3), (None, 8, 6, 3), (1, 8, 6, 3), {"image": (8, 6, 3)}])
def test_input_shape_makes_a_static_copy_with_the_same_function(shape):
    model = dynamic_model()
    before = model.get_weights()
    static = load(model, input_shape=shape)
    assert static.input_shape == (None, 8, 6, 3)
    assert model.input_shape == (None, None, None, 3)
    assert_same_outputs(static, model, batch(8, 6, 3))
    assert static.name == model.name
    assert [layer.name for layer in static.layers] == [layer.name for layer in model.layers]
    assert [tensor.name for tensor in static.inputs] == ["image"]
    static.set_weights([w * 0 for w in before])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_sequential_with_a_dynamic_nested_model_becomes_static():
    nested = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(2, 3)])
    model = randomized(keras.Sequential([nested, L.GlobalMaxPooling2D(), L.Dense(2)]))
    static = load(model, input_shape=(8, 8, 3))
    assert static.input_shape == (None, 8, 8, 3)
    assert_same_outputs(static, model, batch(8, 8, 3))


def test_each_of_several_inputs_gets_its_own_shape():
    a, b = keras.Input((None, 3), name="a"), keras.Input((4,), name="b")
    model = randomized(keras.Model([a, b], L.Dense(2)(L.Concatenate()([L.GlobalMaxPooling1D()(a), b]))))
    with pytest.raises(ValueError, match="dict.*'a', 'b'"):
        load(model, input_shape=(5, 3))
    with pytest.raises(ValueError, match=r"\['c'\].*\['a', 'b'\]"):
        load(model, input_shape={"c": (5, 3)})
    static = load(model, input_shape={"a": (5, 3)})
    assert [tuple(t.shape) for t in static.inputs] == [(None, 5, 3), (None, 4)]
    assert_same_outputs(static, model, batch(5, 3), batch(4))


@pytest.mark.slow
def test_input_shapes_that_do_not_fit_are_refused():
    with pytest.raises(
        UnsupportedModelError,
        match=r"'image'.*\(None, None, None, 3\).*input_shape=\(224, 224, 3\).*--input_shape=224,224,3",
    ):
        load(dynamic_model())
    for shape in [(8, 8, 1), (8, 8), (0, 8, 3), (None, None, 3), (8.0, 8, 3)]:
        with pytest.raises(ValueError, match=r"input_shape is .* but input 'image' takes \(None, None, 3\)"):
            load(dynamic_model(), input_shape=shape)
    model = small_cnn()
    assert load(model, input_shape=(8, 8, 3)) is model
    with pytest.raises(ValueError, match="input_shape"):
        load(model, input_shape=(9, 9, 3))


def test_an_unbuilt_sequential_needs_a_shape_and_is_not_built_itself():
    trained = randomized(keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(2, 3)], name="trained"))
    model = keras.Sequential([L.ReLU(), trained, L.GlobalMaxPooling2D(), L.Rescaling(2.0), L.Dense(1)])
    with pytest.raises(UnsupportedModelError, match="not built.*input_shape="):
        load(model)
    with pytest.raises(ValueError, match="does not accept"):
        load(model, input_shape=(8, 8, 4))
    for shape in [(8, 8, 3), (None, 8, 8, 3)]:
        built = load(model, input_shape=shape)
        assert built.input_shape == (None, 8, 8, 3)
        assert not model.built
        assert not model.layers[-1].built
        x = batch(8, 8, 3)
        got, expected = built.layers[-2].output, np.max(trained(np.maximum(x, 0)), (1, 2)) * 2
        np.testing.assert_allclose(keras.Model(built.inputs, got)(x), expected, atol=1e-6)


# Keras 2


@pytest.fixture(scope="module")
def k2():
    return pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def tfmot(k2):
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    module = pytest.importorskip("tensorflow_model_optimization")
    if legacy is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    return module


def keras_2_zoo(k2):
    """Nested, shared, many inputs and outputs, TensorFlow operators, a Sequential, stateful preprocessing."""
    layers = k2.layers
    nested = k2.Sequential(
        [layers.Conv2D(4, 3, padding="same", input_shape=(8, 8, 4)), layers.LeakyReLU(alpha=0.2)], name="n"
    )
    a, b = layers.Input((8, 8, 3), name="a"), layers.Input((8, 8, 3), name="b")
    shared = layers.SeparableConv2D(4, 3, padding="same", activation="swish", name="shared")
    normalize = layers.Normalization(name="normalize")
    x, y = shared(normalize(a)), shared(b)
    x = layers.Concatenate(name="join")([nested(x), nested(y), x * 2.0 - y])
    x = layers.BatchNormalization(name="conv/bn")(x)[:, ::2, 1:]
    y = layers.Conv2D(3, 1, activation=layers.ReLU(6.0), name="own")(x)
    one = layers.Dense(2, activation="sigmoid", name="one")(layers.Flatten()(y))
    two = layers.Activation("softmax", name="two")(layers.GlobalAveragePooling2D()(x))
    two = layers.Multiply(name="multiply")([two, two * 3.0])  # Keras 3 names the operator "multiply" too
    return randomized(k2.Model([a, b], [one, two], name="zoo"))


@pytest.mark.slow
def test_a_keras_2_model_keeps_its_function_names_and_weights(k2):
    old = keras_2_zoo(k2)
    before = old.get_weights()
    keras.utils.clear_session()
    new = load(old)
    assert isinstance(new, keras.Model)
    assert new.name == "zoo"
    assert_same_outputs(new, old, batch(8, 8, 3), batch(8, 8, 3, seed=2))
    assert {"a", "b", "shared", "normalize", "n", "join", "conv_bn", "own", "one", "two"} <= {
        x.name for x in new.layers
    }
    assert sum(w.size for w in new.get_weights()) == sum(w.size for w in before)
    new.set_weights([w * 0 for w in new.get_weights()])
    for a, b in zip(before, old.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_keras_2_sequential_and_its_file(k2, tmp_path):
    layers = k2.layers
    old = k2.Sequential([layers.Conv2D(4, 3, input_shape=(8, 8, 3)), layers.PReLU(), layers.Flatten(), layers.Dense(2)])
    randomized(old).save(tmp_path / "old.h5")
    assert_same_outputs(load(old), old, batch(8, 8, 3))
    assert_same_outputs(load(tmp_path / "old.h5"), old, batch(8, 8, 3))


@pytest.mark.slow
def test_a_keras_2_file_that_only_tf_keras_reads(k2, tmp_path):
    keras_2_zoo(k2).save(path := tmp_path / "zoo.h5")
    with pytest.raises(Exception, match="OpLambda|deserializ|Unknown layer|not found|Could not locate"):
        keras.models.load_model(path, compile=False)
    assert_same_outputs(load(path), k2.models.load_model(path, compile=False), batch(8, 8, 3), batch(8, 8, 3, seed=2))


def test_keras_2_layers_that_act_in_training_only_are_no_obstacle(k2):
    x = inputs = k2.layers.Input((8, 8, 3))
    for layer in (k2.layers.RandomFlip(), k2.layers.RandomHeight(0.2), k2.layers.RandomCrop(6, 4)):
        x = layer(x)
    old = k2.Model(inputs, k2.layers.Conv2D(2, 3)(k2.layers.GaussianNoise(1.0)(x)))
    assert_same_outputs(load(old), old, batch(8, 8, 3))


def test_a_keras_2_sequential_that_starts_with_dense_keeps_the_shape_in_its_file(k2, tmp_path):
    old = k2.Sequential([k2.layers.Dense(12, input_shape=(5,)), k2.layers.Reshape((2, 2, 3))])
    old.save(path := tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"] = config["config"]["layers"][1:]  # Keras 2.3 wrote no InputLayer
        file.attrs.update(model_config=json.dumps(config), keras_version="2.3.0-tf")
    assert keras.models.load_model(path, compile=False).input_shape == (None, None, 5), "Keras 3 misreads it"
    assert load(path).input_shape == (None, 5)
    assert_same_outputs(load(path), old, batch(5))


@pytest.mark.parametrize("key, module", [("layers", "tf_keras"), ("layers", "keras"), (OLD_KEY, "keras")])
def test_archives_of_keras_2_are_read_by_path(k2, tmp_path, key, module):
    inputs = k2.layers.Input((8, 8, 3))
    inner = k2.Sequential([k2.layers.Conv2D(2, 3, input_shape=(8, 8, 3)), k2.layers.ReLU()])
    old = k2.Model(inputs, k2.layers.Dense(2)(k2.layers.Flatten()(inner(inputs))))
    old.save(written := tmp_path / "new.keras")
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path := tmp_path / "old.keras", "w") as target:
        weights = io.BytesIO(source.read("model.weights.h5"))
        with h5py.File(weights, "r+") as file:
            if key != "layers":
                file.move("layers/sequential/layers", f"layers/sequential/{key}")
                file.move("layers", key)
        target.writestr("config.json", source.read("config.json").replace(b'"tf_keras.', f'"{module}.'.encode()))
        target.writestr("metadata.json", json.dumps({"keras_version": "2.13.1"}))
        target.writestr("model.weights.h5", weights.getvalue())
    assert_same_outputs(load(path), old, batch(8, 8, 3))


def test_a_file_of_keras_1_is_refused_with_what_to_do(tmp_path):
    small_cnn().save(path := tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "1.2.1"
    with pytest.raises(LoadError, match=r"written by Keras 1\.2\.1.*load it with Keras 2\.2\.4"):
        load(path)


def test_a_file_with_another_ending_is_told_its_own(tmp_path):
    small_cnn().save(path := tmp_path / "old.h5")
    with pytest.raises(LoadError, match=r"ends in '\.model': rename it to \.h5"):
        load(path.rename(tmp_path / "old.model"))


def test_no_message_is_longer_than_600_characters():
    message = str(LoadError("first " + "x" * 10_000 + " last"))
    assert len(message) <= 600
    assert message.startswith("first") and message.endswith("last")


@pytest.mark.parametrize(
    "change_layer, named",
    [
        (lambda layer: None, r"'double' \(Lambda\)"),
        (lambda layer: layer["config"].update(function="io.write_file"), r"'tf.math.multiply.*' \(TFOpLambda\)"),
        (lambda layer: layer["config"].update(x={"class_name": "get_file", "module": "keras.utils"}), "A get_file"),
    ],
)
def test_tf_keras_never_opens_an_untrusted_file_that_could_run_code(k2, tmp_path, monkeypatch, change_layer, named):
    inputs = k2.layers.Input((4,))
    old = k2.Model(inputs, k2.layers.Lambda(lambda x: x + 1.0, name="double")(inputs * 2.0))
    old.save(path := tmp_path / "old.h5")
    assert_same_outputs(load(path, unsafe=True), old, batch(4))
    with_config_change(path, lambda layer: layer["class_name"] == "TFOpLambda" and change_layer(layer))
    monkeypatch.setattr(k2.models, "load_model", lambda *args, **kwargs: pytest.fail("tf_keras opened the file"))
    with pytest.raises(UnsupportedModelError, match=named + ".*code.*unsafe=True.*trust"):
        load(path)


@pytest.mark.slow
def test_keras_2_refusals_name_the_layer(k2):
    layers = k2.layers
    inputs = layers.Input((6, 3))
    with pytest.raises(UnsupportedModelError, match=r"'old_lstm' \(LSTM\) is recurrent"):
        load(k2.Model(inputs, layers.LSTM(2, name="old_lstm")(inputs)))
    with pytest.raises(UnsupportedModelError, match=r"'act' \(Activation\) uses hard_sigmoid"):
        load(k2.Model(inputs, layers.Activation("hard_sigmoid", name="act")(inputs)))
    with pytest.raises(UnsupportedModelError, match="not built"):
        load(k2.Sequential([layers.Dense(2)]))

    class Old(layers.Layer):
        def call(self, x):
            return x

    with pytest.raises(UnsupportedModelError, match=r"'mine' \(Old\) has no equal in Keras 3"):
        load(k2.Model(inputs, Old(name="mine")(inputs)))

    class Whole(k2.Model):
        def call(self, x):
            return x

    with pytest.raises(UnsupportedModelError, match=r"\(Whole\) is a subclassed model"):
        load(Whole())


@pytest.mark.slow
def test_pruning_wrappers_are_stripped_and_their_masks_applied(k2, tfmot, tmp_path):
    old = small_cnn(k2.layers, k2)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(old)
    expected = small_cnn(k2.layers, k2)
    random = np.random.default_rng(3)
    for wrapper in pruned.layers:
        for weight, mask, _ in getattr(wrapper, "pruning_vars", []):
            mask.assign(random.integers(0, 2, mask.shape))
            name = weight.name.split("/")[-1].split(":")[0]
            getattr(expected.get_layer(wrapper.layer.name), name).assign(weight * mask)
    new = load(pruned)
    assert [layer.name for layer in new.layers] == [layer.name for layer in old.layers]
    assert_same_outputs(new, expected, batch(8, 8, 3))
    assert np.mean(new.get_layer("head").kernel.numpy() == 0) > 0.2
    pruned.save(path := tmp_path / "pruned.h5")
    assert_same_outputs(load(path), expected, batch(8, 8, 3))


@pytest.mark.slow
def test_opening_a_tfmot_file_does_not_change_the_environment(k2, tfmot, tmp_path, monkeypatch):
    original = tfmot.sparsity.keras.prune_scope

    def setting_it_as_the_first_import_of_tfmot_does():
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        return original()

    monkeypatch.setattr(tfmot.sparsity.keras, "prune_scope", setting_it_as_the_first_import_of_tfmot_does)
    tfmot.sparsity.keras.prune_low_magnitude(small_cnn(k2.layers, k2)).save(path := tmp_path / "pruned.h5")
    for before in (None, "0"):
        if before is None:
            monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
        else:
            monkeypatch.setenv("TF_USE_LEGACY_KERAS", before)
        load(path)
        assert os.environ.get("TF_USE_LEGACY_KERAS") == before
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    with pytest.raises(LoadError, match="needs the package tensorflow-model-optimization: pip install tensorflow-"):
        load(path)


@pytest.mark.slow
def test_quantization_wrappers_are_stripped_and_the_float_weights_stay(k2, tfmot, tmp_path):
    old = small_cnn(k2.layers, k2)
    quantized = tfmot.quantization.keras.quantize_model(old)
    for wrapper in quantized.layers:  # as training would: away from the float model that was wrapped
        for weight in wrapper.weights:
            if weight.name.split("/")[-1] in ("kernel:0", "depthwise_kernel:0", "bias:0", "gamma:0", "moving_mean:0"):
                weight.assign(weight * 1.25 + 0.125)
    expected = small_cnn(k2.layers, k2)
    for layer in expected.layers:
        for weight in layer.weights:
            if weight.name.split("/")[-1] in ("kernel:0", "depthwise_kernel:0", "bias:0", "gamma:0", "moving_mean:0"):
                weight.assign(weight * 1.25 + 0.125)
    new = load(quantized)
    assert [layer.name for layer in new.layers] == [layer.name for layer in old.layers]
    assert_same_outputs(new, expected, batch(8, 8, 3))
    quantized.save(path := tmp_path / "quantized.h5")
    assert_same_outputs(load(path), expected, batch(8, 8, 3))


@pytest.mark.zoo
@pytest.mark.slow
def test_the_keras_2_file_of_the_zoo_agrees_with_tf_keras(k2, zoo):
    path = os.path.join(zoo, "vww_96_keras2.h5")
    with pytest.raises(Exception, match="groups"):
        keras.models.load_model(path, compile=False)
    x = np.random.default_rng(0).uniform(0, 1, (8, 96, 96, 3)).astype("float32")
    assert_same_outputs(load(path), k2.models.load_model(path, compile=False), x)
