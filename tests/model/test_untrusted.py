"""Model files that are broken, or meant to harm: refused by one typed error, before anything is built, unpacked or read."""

import io
import json
import os
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import tfdatafree
from tfdatafree.errors import LoadError, UnsupportedModelError
from tfdatafree.inputs.input_files import read_arrays
from tfdatafree.model.load import load


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The paths of one small model as .keras and as .h5."""
    folder = tmp_path_factory.mktemp("sound")
    steps = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((4, 4, 3)), *steps])
    for ending in ("keras", "h5"):
        model.save(folder / f"model.{ending}")
    return folder


def layer_of(config, class_name):
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == class_name)


def edited(sound, target, change=lambda config: None, **parts):
    """A copy of the sound .keras with a changed config, or with other parts ("model_weights_h5" for model.weights.h5)."""
    with zipfile.ZipFile(sound / "model.keras") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    change(config)
    content["config.json"] = json.dumps(config)
    content |= {name.replace("__", "."): value for name, value in parts.items()}
    path = target / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return path


def edited_h5(sound, target, change):
    path = target / "model.h5"
    path.write_bytes((sound / "model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


BROKEN = {
    "module": (lambda c: layer_of(c, "ReLU").update(module=3), "module is 3 and not a text"),
    "class": (lambda c: layer_of(c, "ReLU").update(class_name=["a"]), r"class_name is \['a'\]"),
    "registered": (lambda c: layer_of(c, "ReLU").update(module="x", registered_name=["a"]), "registered_name is"),
    "name": (lambda c: layer_of(c, "ReLU")["config"].update(name=3), "name of a ReLU is 3"),
    "escape": (
        lambda c: layer_of(c, "ReLU")["config"].update(name="a\x1b[2J\n"),
        r"control characters.*'a\\x1b\[2J\\n'",
    ),
    "dense": (lambda c: layer_of(c, "Dense")["config"].update(units=10**10), "ask for weights of at least"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_configs_are_refused_in_one_line(case, sound, tmp_path):
    change, said = BROKEN[case]
    with pytest.raises(LoadError, match=said) as caught:
        load(edited(sound, tmp_path, change))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_configs_that_fill_the_memory_are_refused_by_their_size(sound, tmp_path):
    with pytest.raises(LoadError, match="more than 16 MB"):
        load(edited(sound, tmp_path, config__json="[" + "{}," * 2**23 + "{}]"))
    with pytest.raises(LoadError, match="nests deeper"):
        load(edited(sound, tmp_path, config__json="[" * 900 + "]" * 900))
    deep = '{"class_name":"Functional","config":' + "[" * 900 + "]" * 900 + "}"
    with pytest.raises(LoadError, match="nests deeper"):
        load(edited_h5(sound, tmp_path, lambda file: file.attrs.__setitem__("model_config", deep)))


def test_weights_that_only_claim_to_be_large_are_refused_by_their_header(sound, tmp_path):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("a", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000), compression="gzip")
    with pytest.raises(LoadError, match=r"4e\+03 GB .* limit is 8 GB.*TFDATAFREE_MEMORY_GB"):
        load(edited(sound, tmp_path, **{"model__weights__h5": buffer.getvalue()}))
    with pytest.raises(LoadError, match="does not hold HDF5"):
        load(edited(sound, tmp_path, **{"model__weights__h5": bytes(100)}))


def test_texts_that_hdf5_would_read_without_end_are_refused(sound, tmp_path):
    content = bytearray((sound / "model.h5").read_bytes())
    heap = content.find(b"GCOL")
    assert heap > 0 and content[heap + 16] == 1, "the first object of the heap"
    for index, length in ((0, 0), (1, 2**64 - 16)):
        content[heap + 16 : heap + 32] = struct.pack("<H6xQ", index, length)
        (tmp_path / "endless.h5").write_bytes(content)
        with pytest.raises(LoadError, match="an object in its HDF5 heap takes no bytes"):
            load(tmp_path / "endless.h5")


def test_the_limit_is_what_the_environment_says(sound, monkeypatch):
    monkeypatch.setenv("TFDATAFREE_MEMORY_GB", "1e-6")
    with pytest.raises(LoadError, match="limit is 1e-06 GB"):
        load(sound / "model.keras")
    monkeypatch.setenv("TFDATAFREE_MEMORY_GB", "much")
    with pytest.raises(ValueError, match="TFDATAFREE_MEMORY_GB is 'much'"):
        load(sound / "model.keras")


def test_no_file_leads_to_another_file(sound, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(3, dtype="f4").tobytes())

    def link(file):
        group = file["model_weights"]
        group["elsewhere"] = h5py.ExternalLink(str(secret), "/")

    def external(file):
        file["model_weights"].create_dataset("elsewhere", (3,), "f4", external=[(str(secret), 0, 12)])

    for change, said in ((link, "leads elsewhere"), (external, "stand in another file")):
        with pytest.raises(LoadError, match=f"'elsewhere'.*{said}"):
            load(edited_h5(sound, tmp_path, change))


@pytest.mark.parametrize("class_name", ["StringLookup", "IntegerLookup", "TextVectorization"])
def test_a_vocabulary_is_not_read_from_a_path_in_the_file(class_name, sound, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("token\n")

    def change(file):
        config = json.loads(file.attrs["model_config"])
        entries = {"name": "words", "vocabulary": str(secret)}
        layer_of(config, "ReLU").update(class_name=class_name, config=entries)
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.13.1"

    with pytest.raises(UnsupportedModelError, match=r"'words' .* would read a file that it names.*unsafe_load"):
        load(edited_h5(sound, tmp_path, change))


@pytest.mark.parametrize("unsafe", ["no", 0, 1, None, "False"])
def test_only_true_and_false_say_whether_a_file_is_trusted(unsafe, sound):
    with pytest.raises(ValueError, match="unsafe_load is .*; give True or False"):
        load(sound / "model.keras", unsafe=unsafe)


def test_pipes_and_devices_are_not_read(tmp_path):
    for ending in ("keras", "h5", "npy", "tflite"):
        os.mkfifo(tmp_path / f"pipe.{ending}")
    for path in sorted(tmp_path.iterdir()):
        read = (
            read_arrays
            if path.suffix == ".npy"
            else tfdatafree.report.contents.inspect_file
            if path.suffix == ".tflite"
            else load
        )
        with pytest.raises(LoadError, match="a pipe, a socket or a device"):
            read(path)


def test_arrays_are_held_against_their_headers(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3), "f4"))
    content = (tmp_path / "x.npy").read_bytes()
    for shape, said in (((10**9, 1000), "claims to hold would take 4e"), ((10**6, 100), "is cut off")):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        claimed = content[:8] + struct.pack("<H", len(header)) + header.encode() + bytes(24)
        (tmp_path / "claims.npy").write_bytes(claimed)
        with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
            archive.writestr("x.npy", claimed)
        for ending in ("npy", "npz"):
            with pytest.raises(LoadError, match=said):
                read_arrays(tmp_path / f"claims.{ending}")


def test_names_and_variances_that_nothing_can_be_done_with_are_named():
    odd = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(2, 3, name="first\x1b[31m")])
    with pytest.raises(UnsupportedModelError, match=r"'first\\x1b\[31m' \(Conv2D\) has control characters.*rename"):
        load(odd)
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(2, 3), layers.BatchNormalization(name="norm")])
    model.layers[1].moving_variance.assign([1.0, -2.0])
    with pytest.raises(
        UnsupportedModelError, match=r"'norm' .* square root of -1.999: its smallest moving variance is -2"
    ):
        load(model)
