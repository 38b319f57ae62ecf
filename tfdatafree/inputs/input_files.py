"""Real inputs that lie in files: arrays as NumPy writes them, or a folder of images.

An image becomes an input like this, and in no other way: it is turned as its EXIF orientation says, converted to RGB (for 3
channels) or to grey (for 1), scaled by bilinear interpolation with antialiasing such that it just covers the model's input,
cut at the edges that stand over, the same on both sides, and each pixel p = 0 ... 255 becomes low + (high - low) * p / 255.
"""

import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np

from tfdatafree.errors import LoadError, MissingPackageError

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
ARRAY_ENDINGS = (".npy", ".npz")
_MODES = {1: "L", 3: "RGB"}


def require_readable(path: str | os.PathLike) -> None:
    """Says at once what `read_images` or `read_arrays` would find out after the model is loaded.

    Raises:
        LoadError: There is no such file or folder, or it is of another kind.
        ValueError: The folder has no images.
        MissingPackageError: There are images, and Pillow, which reads them, is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise LoadError(f"'{path}' does not exist.")
    if path.is_dir():
        image_paths(path)
        if importlib.util.find_spec("PIL") is None:
            raise MissingPackageError(
                "Pillow, which reads images, is not installed; run: pip install 'tfdatafree[images]' (or: pip install pillow)."
            )
    elif path.suffix.lower() not in ARRAY_ENDINGS:
        raise LoadError(f"'{path}' is neither a folder of images nor a file that ends in .npz or .npy.")


def image_paths(folder: Path) -> list[Path]:
    """The images in `folder` and the folders in it, in order of their paths; hidden ones left out.

    Raises:
        ValueError: There are none.
    """
    found = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in IMAGE_ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise ValueError(f"there are no images in '{folder}': no file there ends in {', '.join(IMAGE_ENDINGS)}.")
    return found


def read_images(folder: Path, shape: tuple[int, ...], low: float, high: float, most: int) -> np.ndarray:
    """Up to `most` images of a folder, float32 (n, *shape): of more, so many evenly spread over the order of paths.

    Args:
        shape: (height, width, channels) of the model's input.
        low, high: What black and white are to the model.

    Raises:
        ValueError: There are none, one cannot be read, or the model takes no images.
    """
    from PIL import Image, ImageOps

    if len(shape) != 3 or shape[-1] not in _MODES:
        raise ValueError(
            f"the model's input has shape ({', '.join(map(str, shape))}), which is no grey or RGB image; give its inputs as "
            "an array in an .npz file in place of a folder."
        )
    height, width, channels = shape
    paths = image_paths(folder)
    chosen = [paths[at * len(paths) // most] for at in range(most)] if len(paths) > most else paths
    images = np.empty((len(chosen), *shape), np.float32)
    for image, path in zip(images, chosen, strict=True):
        try:
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened).convert(_MODES[channels])
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"'{path}' is no image that can be read; mend it, or take it out of the folder."
            ) from error
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
        image[:] = np.asarray(fitted, np.float32).reshape(shape)
    return np.float32(low) + images * np.float32((high - low) / 255)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; that of an .npy is called x.

    Raises:
        LoadError: It is missing or of another kind.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise LoadError(f"'{path}' does not exist.") from None
    except (AttributeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise LoadError(f"'{path}' is no .npz file of arrays: write it with numpy.savez(path, x=inputs).") from error


def arrays_by_input(path: str | os.PathLike, names: list[str]) -> dict[str, np.ndarray]:
    """{input: its array}, from a file with an array of each input's name; for one input, with one array or one called x.

    Raises:
        LoadError: As `read_arrays`.
        ValueError: An array is missing.
    """
    arrays = read_arrays(path)
    wanted = names
    if len(names) == 1 and names[0] not in arrays:
        wanted = list(arrays) if len(arrays) == 1 else ["x"]
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(f"'{path}' holds {', '.join(arrays) or 'nothing'}; it lacks {', '.join(missing)}.")
    return {name: arrays[given] for name, given in zip(names, wanted, strict=True)}
