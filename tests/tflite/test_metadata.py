"""What a file says of itself: read as any file's, and by the ecosystem's own library where it is installed."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from tiny_models import QUICK, build, compressed, random_inputs, without_metadata

from tfdatafree import PRESETS, LoadError, Recipe, compress
from tfdatafree.flow.about import normalization
from tfdatafree.recipe.recipe import Recipe as RecipeClass
from tfdatafree.report.contents import inspect_file
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.labels import read_labels, require_labels_fit
from tfdatafree.tflite.metadata import About, InputAbout, find_metadata, serialize
from tfdatafree.tflite.metadata_schema import read_metadata, write_metadata
from tfdatafree.version import __version__

LABELS = ("cat", "dog", "Kübel", "tree", "sun")
INT8 = dataclasses.replace(PRESETS["int8"], generate=QUICK)
FLOAT = dataclasses.replace(PRESETS["float16"], generate=QUICK)


def labelled(recipe: Recipe = INT8, **options) -> bytes:
    return compressed("plain", recipe, labels=LABELS, **options).tflite


def tensors(content: bytes, kind: str) -> list[dict]:
    (graph,) = find_metadata(content).standard["subgraph_metadata"]
    return graph[f"{kind}_tensor_metadata"]


# Schema ---------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read():
    values = {
        "name": "ä network",
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [
                    {"name": "a", "content": {"kind": 2, "properties": {"color_space": 1}}},
                    {"name": "b", "process_units": [{"kind": 1, "options": {"mean": [1.0, 2.5], "std": [0.5]}}]},
                ],
                "output_tensor_metadata": [],
            }
        ],
        "min_parser_version": "1.0.0",
    }
    content = write_metadata(values)
    assert read_metadata(content) == values
    assert write_metadata(values) == content


def test_damaged_metadata_are_an_error_and_no_endless_loop():
    content = write_metadata({"name": "n", "subgraph_metadata": [{"name": "graph"}]})
    random, refused = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[random.integers(8, len(damaged), 3)] = random.integers(0, 256, 3)
        try:
            read_metadata(damaged.tobytes())
        except ValueError:
            refused += 1
    assert refused > 20
    with pytest.raises(ValueError, match="identifier"):
        read_metadata(b"\0" * 20)


# What a file says -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_says_what_it_was_made_of():
    content = labelled()
    own = find_metadata(content).own
    weights = b"".join(values.tobytes() for values in build("plain").get_weights())
    assert own["weights"] == hashlib.sha256(weights).hexdigest()
    assert own["version"] == __version__
    assert RecipeClass.from_dict(own["recipe"]) == INT8
    assert own["call"]["seed"] == 0 and own["call"]["target"] == "generic"


@pytest.mark.parametrize("recipe", [INT8, FLOAT], ids=["int8", "float16"])
@pytest.mark.slow
def test_its_normalization_turns_pixels_into_the_models_inputs(recipe):
    ((source),) = tensors(labelled(recipe), "input")
    (unit,) = source["process_units"]
    mean, std = unit["options"]["mean"][0], unit["options"]["std"][0]
    np.testing.assert_allclose((np.array([0, 255]) - mean) / std, (-1, 1), atol=1e-6)
    assert source["name"] == "image" and source["content"] == {"kind": 2, "properties": {"color_space": 1}}
    assert ("zero_point" in source["description"]) == (recipe is INT8)


@pytest.mark.slow
def test_metadata_change_nothing_else_of_the_file():
    content, x = labelled(), random_inputs(build("plain"), 1)[0]
    file = File.parse(content)
    bare = File.parse(without_metadata(content))
    for ours, others in zip(bare.tensors, file.tensors, strict=True):
        np.testing.assert_array_equal(
            np.asarray(bare.model.buffers[ours.buffer].data), np.asarray(file.model.buffers[others.buffer].data)
        )
    found = []
    for each in (content, without_metadata(content)):
        run = Interpreter(model_content=each).get_signature_runner("serving_default")
        found.append(run(image=np.rint(x * 127).astype(np.int8)))
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])
    assert len(content) - len(without_metadata(content)) < 2048


@pytest.mark.slow
def test_the_same_arguments_make_the_same_bytes():
    again = compress(build("plain"), INT8, input_range=(-1, 1), labels=list(LABELS), verbose=0)
    assert again.tflite == labelled()
    assert again.report.bytes == len(again.tflite)


@pytest.mark.slow
def test_labels_lie_behind_the_file_and_go_with_the_output_that_they_fit(tmp_path):
    content = labelled()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
        assert archive.getinfo("labels.txt").compress_type == zipfile.ZIP_STORED
    (output,) = tensors(content, "output")
    assert [file["name"] for file in output["associated_files"]] == ["labels.txt"]
    path = tmp_path / "labelled.tflite"
    path.write_bytes(content)
    shown = str(inspect_file(path))
    assert "recipe int8" in shown and "labels.txt" in shown and "x = (pixel - 127.5) / 127.5" in shown


# It needs an older protobuf than TensorFlow. So a Python of its own runs it: pip install 'numpy<2' tflite-support (Python 3.11).
LIBRARY = "TFDATAFREE_TFLITE_SUPPORT_PYTHON"
READER = """
import json, sys
from tflite_support import metadata
shown = metadata.MetadataDisplayer.with_model_buffer(sys.stdin.buffer.read())
print(json.dumps([json.loads(shown.get_metadata_json()), shown.get_packed_associated_file_list()]))
"""


@pytest.mark.skipif(LIBRARY not in os.environ, reason=f"{LIBRARY} names no Python with tflite-support")
@pytest.mark.slow
def test_the_library_of_the_ecosystem_reads_it():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    python = os.environ[LIBRARY]
    done = subprocess.run([python, "-c", READER], input=labelled(), capture_output=True, env=environment, check=True)
    values, files = json.loads(done.stdout)
    (graph,) = values["subgraph_metadata"]
    (source,), (output,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    (unit,) = source["process_units"]
    assert unit["options_type"] == "NormalizationOptions" and unit["options"]["mean"] == [127.5]
    assert source["content"]["content_properties"] == {"color_space": "RGB"}
    assert files == ["labels.txt"] == [file["name"] for file in output["associated_files"]]


# Which range says what pixels are -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(0, 255), (0, 1), (-1, 1), (-128, 128)])
def test_pixels_fill_ranges_that_begin_at_zero_or_are_symmetric(ends):
    ((mean,), (std,)) = normalization(*ends, 3)
    np.testing.assert_allclose((np.array([0, 255]) - mean) / std, ends, atol=1e-6)


def test_a_range_of_imagenet_has_its_mean_per_channel():
    mean, std = normalization(-2.118, 2.64, 3)
    lowest, highest = -np.divide(mean, std), (255 - np.array(mean)) / std
    np.testing.assert_allclose((lowest.min(), highest.max()), (-2.118, 2.64), atol=1e-3)


@pytest.mark.parametrize(("ends", "channels"), [((-123.7, 151.1), 3), ((-2.118, 2.64), 1), ((-6.9, 1.1), 1)])
def test_other_ranges_do_not_say_what_pixels_are(ends, channels):
    assert normalization(*ends, channels) == ((), ())


def test_without_labels_and_pictures_there_are_values():
    file = File.parse(compressed("plain", INT8).tflite)
    known = InputAbout(low=-3.0, high=4.0, estimated=True, is_picture=False)
    about = About(model="m", weights="ab" * 32, recipe={"name": "r"}, call={}, inputs=(known,))
    (source,) = tensors(serialize(file, about), "input")
    assert source["content"]["kind"] == 1 and "process_units" not in source
    assert "[-3, 4] (estimated)" in source["description"]
    assert serialize(file, None) == file.serialize()


# Labels ---------------------------------------------------------------------------------------------------------------


def test_labels_are_read_from_a_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    assert read_labels(path) == read_labels(list(LABELS)) == LABELS


@pytest.mark.parametrize("labels", [["a", ""], ["a", 3], ["a\nb"]])
def test_a_label_is_one_line_of_text(labels):
    with pytest.raises(ValueError, match="give one text per class"):
        read_labels(labels)


def test_wrong_label_files_are_errors(tmp_path):
    with pytest.raises(LoadError, match="label file .* cannot be read"):
        read_labels(tmp_path / "missing.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match="is not a text file"):
        read_labels(tmp_path / "bytes.txt")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="are empty"):
        read_labels(tmp_path / "empty.txt")


def test_as_many_labels_as_an_output_has_entries():
    require_labels_fit(LABELS, [(None, 5)])
    require_labels_fit((), [(None, 7)])
    with pytest.raises(ValueError, match="there are 5 labels, but .* has 7, 4"):
        require_labels_fit(LABELS, [(None, 7), (None, 9, 4)])
    with pytest.raises(ValueError, match="there are 2 labels"):
        compress(build("plain"), INT8, input_range=(-1, 1), labels=["a", "b"], verbose=0)
