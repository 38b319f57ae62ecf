"""The user's inputs in files: arrays as NumPy writes them, or a folder of images.

An image becomes an input in these steps:

1. It is rotated as its EXIF orientation says.
2. It is converted to RGB for 3 channels, to grey for 1.
3. It is scaled, by bilinear interpolation with antialiasing, to the smallest size that covers the model's input.
4. The longer side is cropped to the input's size, the same amount at both ends.
5. Each pixel p = 0 ... 255 becomes low + (high - low) * p / 255.
"""

import importlib.util
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfdatafree.errors import LoadError, MissingPackageError
from tfdatafree.inputs.prepared_dataset import is_prepared
from tfdatafree.limits import require_memory, require_regular, require_sound_sizes, short

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
ARRAY_ENDINGS = (".npy", ".npz")
_FEWER = "store fewer inputs"
_DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error)
_MODES = {1: "L", 3: "RGB"}
_INPUT_NAMES = ("x", "x_test", "images", "inputs")
_LABEL_NAMES = ("y", "y_test", "labels", "label")


def require_readable(path: str | os.PathLike) -> None:
    """Raises the errors of `read_image` and `read_arrays` that need no model, so that they come before it is loaded.

    Raises:
        LoadError: There is no such file or folder, or it is of another kind.
        ValueError: The folder has no images.
        MissingPackageError: There are images, and Pillow, which reads them, is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise LoadError(f"'{path}' does not exist.")
    if not path.is_dir():
        require_regular(path)
    if path.is_dir():
        if not is_prepared(path):
            image_paths(path)
        if importlib.util.find_spec("PIL") is None:
            raise MissingPackageError("Pillow, which reads images, is not installed; run: pip install pillow.")
    elif path.suffix.lower() not in ARRAY_ENDINGS:
        raise LoadError(f"'{path}' is neither a folder of images nor a file that ends in .npz or .npy.")


def image_paths(folder: Path) -> list[Path]:
    """The images in `folder` and its subfolders in the order of their paths, without hidden files and folders.

    Raises:
        ValueError: There are none.
    """
    paths = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in IMAGE_ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise ValueError(f"there are no images in '{folder}': no file there ends in {', '.join(IMAGE_ENDINGS)}.")
    return paths


def spread(count: int, most: int | None) -> np.ndarray:
    """The positions of `most` of `count` examples at equal distances, from the first; of all where there are no more."""
    taken = count if most is None else min(most, count)
    return np.arange(taken) * count // max(taken, 1)


def require_image_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless inputs of `shape` are grey or RGB images."""
    if len(shape) != 3 or shape[-1] not in _MODES:
        raise ValueError(
            f"the model's input has shape ({', '.join(map(str, shape))}), which is not a grey or RGB image; give its inputs "
            "as an array in an .npz file instead of a folder."
        )


def read_image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels 0 to 255 of an image, rotated, converted, scaled and cropped to `shape` (height, width, channels).

    Raises:
        ValueError: It cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            return _fitted(ImageOps.exif_transpose(opened), shape)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"'{path}' cannot be read as an image; repair it, or take it out of the folder.") from error


def fit_image(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same for an image that is an array (height, width, channels) uint8."""
    from PIL import Image

    return _fitted(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), shape)


def _fitted(image: Any, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width, channels = shape
    fitted = ImageOps.fit(image.convert(_MODES[channels]), (width, height), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(shape)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; the array of an .npy is called x.

    Raises:
        LoadError: The file is missing, or it is of another kind.
    """
    try:
        _require_sound_arrays(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise LoadError(f"'{path}' does not exist.") from None
    except (AttributeError, EOFError, OSError, RuntimeError, SyntaxError, ValueError, *_DAMAGES) as error:
        raise LoadError(
            f"'{path}' is not an .npz or .npy file of arrays; write it with numpy.savez(path, x=inputs)."
        ) from error


def _require_sound_arrays(path: str | os.PathLike) -> None:
    """Raises LoadError if a header claims more than memory or the file can hold, other errors if there is no header."""
    size = require_regular(path)
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            _require_sound_array(file, size, f"'{path}'")
        return
    with zipfile.ZipFile(path) as archive:
        parts = [part for part in archive.infolist() if part.filename.endswith(".npy")]
        require_sound_sizes(archive, _FEWER)
        for part in parts:
            with archive.open(part) as file:
                _require_sound_array(file, part.file_size, f"{short(part.filename)} in '{path}'")


def _require_sound_array(file: IO[bytes], size: int, what: str) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    claimed = math.prod(shape) * dtype.itemsize
    require_memory(f"the array that {what} claims to hold", claimed, _FEWER, LoadError)
    if claimed > size:
        raise LoadError(f"{what} is cut off: its header says {claimed} bytes, and there are {size}; write it again.")


def arrays_by_input(path: str | os.PathLike, names: list[str]) -> dict[str, np.ndarray]:
    """{input: its array}, from a file with one array per input name.

    For a model with one input the file may also hold a single array of any name, or one called x, x_test, images or inputs
    beside others.

    Raises:
        LoadError: As for `read_arrays`.
        ValueError: An array is missing.
    """
    return inputs_and_labels(path, names)[0]


def inputs_and_labels(path: str | os.PathLike, names: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """What `arrays_by_input` gives, and the array called y, y_test, labels or label; None if there is none.

    Raises:
        LoadError, ValueError: As for `arrays_by_input`.
    """
    arrays = read_arrays(path)
    wanted = names
    if len(names) == 1 and names[0] not in arrays:
        usual = [name for name in _INPUT_NAMES if name in arrays] or ["x"]
        wanted = list(arrays) if len(arrays) == 1 else usual[:1]
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(f"'{path}' holds {', '.join(arrays) or 'nothing'}; it lacks {', '.join(missing)}.")
    labels = next((arrays[name] for name in _LABEL_NAMES if name in arrays and name not in wanted), None)
    return {name: arrays[key] for name, key in zip(names, wanted, strict=True)}, labels
