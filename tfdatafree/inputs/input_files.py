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
from typing import IO

import numpy as np

from tfdatafree.errors import LoadError, MissingPackageError
from tfdatafree.limits import require_inputs_fit, require_memory, require_regular, require_sound_sizes, short

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
ARRAY_ENDINGS = (".npy", ".npz")
_FEWER = "store fewer inputs"
_DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error)
_MODES = {1: "L", 3: "RGB"}


def require_readable(path: str | os.PathLike) -> None:
    """Raises the errors of `read_images` and `read_arrays` that need no model, so that they come before it is loaded.

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


def read_images(folder: Path, shape: tuple[int, ...], low: float, high: float, most: int) -> np.ndarray:
    """Up to `most` images of a folder, float32 (n, *shape). Of more images some are taken, evenly spread over the paths.

    Args:
        shape: (height, width, channels) of the model's input.
        low, high: The values that black and white become.

    Raises:
        ValueError: There are no images, one cannot be read, or the model's input is not an image.
    """
    from PIL import Image, ImageOps

    if len(shape) != 3 or shape[-1] not in _MODES:
        raise ValueError(
            f"the model's input has shape ({', '.join(map(str, shape))}), which is not a grey or RGB image; give its inputs "
            "as an array in an .npz file instead of a folder."
        )
    height, width, channels = shape
    paths = image_paths(folder)
    chosen = [paths[at * len(paths) // most] for at in range(most)] if len(paths) > most else paths
    require_inputs_fit(len(chosen), shape)
    images = np.empty((len(chosen), *shape), np.float32)
    for image, path in zip(images, chosen, strict=True):
        try:
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened).convert(_MODES[channels])
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"'{path}' cannot be read as an image; repair it, or take it out of the folder."
            ) from error
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
        image[:] = np.asarray(fitted, np.float32).reshape(shape)
    return np.float32(low) + images * np.float32((high - low) / 255)


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

    For a model with one input the file may also hold a single array of any name, or one called x beside others.

    Raises:
        LoadError: As for `read_arrays`.
        ValueError: An array is missing.
    """
    arrays = read_arrays(path)
    wanted = names
    if len(names) == 1 and names[0] not in arrays:
        wanted = list(arrays) if len(arrays) == 1 else ["x"]
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(f"'{path}' holds {', '.join(arrays) or 'nothing'}; it lacks {', '.join(missing)}.")
    return {name: arrays[key] for name, key in zip(names, wanted, strict=True)}
