"""Real inputs from files: what an image becomes, which images are taken, what is said of those that cannot be."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from tiny_models import build, separated

import tfdatafree
from tfdatafree.cli import main
from tfdatafree.errors import LoadError, MissingPackageError
from tfdatafree.inputs import input_files
from tfdatafree.inputs.examples import Reading, open_examples
from tfdatafree.inputs.given import given_inputs
from tfdatafree.inputs.input_files import arrays_by_input, image_paths, require_readable
from tfdatafree.model.graph import Graph
from tfdatafree.model.node import TensorSpec

SHAPE = (8, 8, 3)


def save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)


def read_images(folder: Path, shape: tuple[int, ...], low: float, high: float, most: int) -> np.ndarray:
    forms = {"image": TensorSpec((None, *shape), "float32")}
    return open_examples(folder, forms, Reading(scale=(low, high), most=most)).arrays()[0]


def flat(level: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), level)


# What an image becomes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", [(0, 255), (-1, 1), (-2.12, 2.64)])
def test_black_and_white_are_the_ends_of_the_range(low, high, tmp_path):
    levels = np.broadcast_to(np.arange(0, 256, 36).reshape(8, 1, 1), SHAPE)
    save(tmp_path / "a.png", levels)
    (found,) = read_images(tmp_path, SHAPE, low, high, 9)
    assert found.dtype == np.float32 and found.min() == np.float32(low)
    np.testing.assert_allclose(found, low + (high - low) * levels / 255, rtol=1e-5, atol=1e-5)


def test_an_image_just_covers_the_input_and_is_cut_on_both_sides_alike(tmp_path):
    wide = flat(200, 16, 64)
    wide[:, :24], wide[:, 40:] = 0, 0  # what remains of 64 columns, when 16 rows become 8, are the middle 16
    save(tmp_path / "wide.png", wide)
    save(tmp_path / "high.png", wide.swapaxes(0, 1))
    high, broad = read_images(tmp_path, SHAPE, 0, 255, 9)
    np.testing.assert_array_equal(broad[:, 1:-1], 200)  # the outermost ones are blended with what was cut
    np.testing.assert_array_equal(broad, broad[:, ::-1])
    np.testing.assert_array_equal(broad, high.swapaxes(0, 1))
    (small,) = [flat(70, 3, 5)]
    save(tmp_path / "only" / "small.png", small)
    np.testing.assert_array_equal(read_images(tmp_path / "only", SHAPE, 0, 255, 9), np.full((1, *SHAPE), 70.0))


def test_an_image_is_turned_upright_and_loses_its_alpha(tmp_path):
    top = flat(0)
    top[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(tmp_path / "turned.png", top, exif=exif)
    save(tmp_path / "upright.png", np.dstack([top[::-1], np.full((8, 8, 1), 9)]))
    turned, upright = read_images(tmp_path, SHAPE, 0, 255, 9)
    np.testing.assert_array_equal(turned, upright)
    assert turned[0].max() == 0 and turned[-1].min() == 255


def test_one_channel_is_grey(tmp_path):
    colour = flat(0)
    colour[..., 1] = 255
    save(tmp_path / "green.png", colour)
    (grey,) = read_images(tmp_path, (8, 8, 1), 0, 255, 9)
    np.testing.assert_allclose(grey, 255 * 0.587, atol=1)


# Which images ---------------------------------------------------------------------------------------------------------


def test_images_of_all_folders_are_taken_in_order_and_nothing_else(tmp_path):
    names = ["b/2.JPG", "a/1.png", "c.webp", "a/z/0.bmp"]
    for name in names:
        save(tmp_path / name, flat(9))
    (tmp_path / "labels.csv").write_text("no image")
    save(tmp_path / ".hidden" / "x.png", flat(9))
    save(tmp_path / ".x.png", flat(9))
    assert [path.relative_to(tmp_path).as_posix() for path in image_paths(tmp_path)] == sorted(names)


def test_of_many_some_of_each_part_are_taken(tmp_path):
    for at in range(20):
        save(tmp_path / f"{at:02}.png", flat(10 * at))
    taken = read_images(tmp_path, SHAPE, 0, 255, 5)[:, 0, 0, 0]
    np.testing.assert_array_equal(taken, [0, 40, 80, 120, 160])


@pytest.mark.slow
def test_a_folder_is_as_good_as_an_array(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, *SHAPE))
    for at, one in enumerate(pixels):
        save(tmp_path / "images" / f"{at}.png", one)
    x = (-1 + pixels.astype(np.float32) * np.float32(2 / 255)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", image=x, labels=np.arange(6))
    options = {"input_range": (-1, 1), "verbose": 0}
    results = [
        tfdatafree.compress(build("plain"), representative_data=data, **options)
        for data in (x, tmp_path / "images", str(tmp_path / "x.npy"), tmp_path / "x.npz")
    ]
    assert all(result.tflite == results[0].tflite for result in results)
    generated = tfdatafree.compress(build("plain"), **options)
    assert generated.tflite != results[0].tflite, "real inputs make a difference"
    assert [result.report.generated for result in results] == [
        f"6 representative {what}, and BatchNorm statistics"
        for what in ("inputs given by the user", f"images from '{tmp_path / 'images'}', scaled to [-1, 1]",
                     f"inputs from '{tmp_path / 'x.npy'}'", f"inputs from '{tmp_path / 'x.npz'}'")
    ]  # fmt: skip


@pytest.mark.slow
def test_images_span_the_range_that_was_found_and_arrays_their_own(tmp_path):
    for at in range(2):
        save(tmp_path / "images" / f"{at}.png", flat(100 + at))
    model = build("rescaling")  # takes 8-bit values, and says so
    images = tfdatafree.compress(model, representative_data=tmp_path / "images", verbose=0)
    (row, *_) = images.report.layers
    assert row.low == 0 and row.high == pytest.approx(255, abs=1)


# What cannot be used --------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text" / "x").mkdir(parents=True)
    (tmp_path / "text" / "x" / "notes.txt").write_text("no image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    save(tmp_path / "good" / "a.png", flat(1))
    np.savez(tmp_path / "two.npz", a=np.ones((1, *SHAPE)), b=np.ones((1, *SHAPE)))
    np.save(tmp_path / "small.npy", np.ones((3, 4, 4, 3)))
    (tmp_path / "text.npz").write_text("no arrays")
    row = keras.Input((5,))
    vector = Graph.from_keras(keras.Model(row, keras.layers.Dense(2)(row)))
    plain, two = separated("plain"), separated("two_inputs")
    for name, graph, error, message in (
        ("missing", plain, LoadError, "missing' does not exist"),
        ("empty", plain, ValueError, r"there are no images in '.*empty': no file there ends in .bmp, .gif"),
        ("text", plain, ValueError, "there are no images in '.*text'"),
        ("text/x/notes.txt", plain, LoadError, "neither a folder of images nor a file that ends in .npz or .npy"),
        ("broken", plain, ValueError, r"broken.a.png' cannot be read as an image; repair it, or take it out"),
        ("good", two, ValueError, "is a folder of images, but the model has the inputs left, right; give an .npz"),
        (
            "good",
            vector,
            ValueError,
            r"input has shape \(\d+\), which is not a grey or RGB image; give its inputs as an array",
        ),
        ("two.npz", plain, ValueError, "holds a, b; it lacks x"),
        ("small.npy", plain, ValueError, r"small.npy' for 'image' has shape \(3, 4, 4, 3\); give \(n, 8, 8, 3\)"),
        ("text.npz", plain, LoadError, "text.npz' is not an .npz or .npy file of arrays"),
    ):
        with pytest.raises(error, match=message):
            given_inputs(tmp_path / name, graph, (0, 1))


def test_without_pillow_a_folder_is_refused_at_once(tmp_path, monkeypatch):
    save(tmp_path / "a.png", flat(1))
    np.save(tmp_path / "x.npy", np.ones(3))
    monkeypatch.setattr(input_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="Pillow.*pip install"):
        require_readable(tmp_path)
    require_readable(tmp_path / "x.npy")


def test_arrays_are_found_by_the_inputs_names(tmp_path):
    left, right = np.ones((2, 3)), np.zeros((2, 4))
    np.savez(tmp_path / "both.npz", right=right, left=left)
    found = arrays_by_input(tmp_path / "both.npz", ["left", "right"])
    assert list(found) == ["left", "right"] and found["left"].shape == (2, 3)
    np.savez(tmp_path / "x.npz", x=left, y=right)
    assert arrays_by_input(tmp_path / "x.npz", ["image"])["image"].shape == (2, 3)
    assert arrays_by_input(tmp_path / "x.npz", ["y"])["y"].shape == (2, 4)


@pytest.mark.slow
def test_the_command_line_takes_a_folder_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    build("plain").save("plain.keras")
    for at in range(3):
        save(tmp_path / "images" / f"{at}.png", flat(90 * at))
    arguments = ["compress", "plain.keras", "-o", "a.tflite", "--input_range=-1,1", "--representative_data=images"]
    assert main([*arguments, "--report=a.json"]) == 0
    assert "made from   3 representative images from 'images', scaled to [-1, 1]" in capsys.readouterr().out
    assert json.loads(Path("a.json").read_text())["report"]["call"]["representative_data"] == "images"
    expected = tfdatafree.compress(build("plain"), input_range=(-1, 1), representative_data="images", verbose=0)
    assert Path("a.tflite").read_bytes() == expected.tflite
    assert main([*arguments[:-1], "--representative_data=none", "--overwrite"]) == 1
    assert capsys.readouterr().err == "error: 'none' does not exist.\n"
