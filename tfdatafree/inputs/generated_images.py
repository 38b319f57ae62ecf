"""The result of `generate_images`: the images, and how they were made."""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfdatafree.files import write_atomically
from tfdatafree.model.network import GivenRange

# Width of the gaps between the pictures of a sheet in pixels, and their grey level.
_GAP, _GAP_VALUE = 2, 255


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """What `generate_images` returns. It can be given wherever this package takes arrays of inputs.

    For a model with one input `numpy.asarray(images)` is the array, so other code that takes arrays accepts it, too.

    Attributes:
        inputs: Input name -> array (n, *shape), float32, or of the input's integer type.
        input_range: (low, high), the limits of all values; a dict of these by input name where inputs differ.
        loss: (steps, batches): the sum that is minimised, priors included, before each step.
        divergence: BatchNorm -> KL divergence between the statistics of its input and the stored ones, in nats. It is the
            mean over channels, for all n images together.
    """

    inputs: Mapping[str, np.ndarray]
    input_range: GivenRange
    loss: np.ndarray
    divergence: Mapping[str, float]

    @property
    def images(self) -> np.ndarray:
        """The inputs of a model with one input: (n, height, width, channels) for images."""
        if len(self.inputs) != 1:
            raise ValueError(
                f"the images are for the {len(self.inputs)} inputs {', '.join(self.inputs)}, and one array was wanted; "
                "use .inputs[name]."
            )
        return next(iter(self.inputs.values()))

    @property
    def mean_divergence(self) -> float:
        """Mean over the BatchNorms."""
        return float(np.mean(list(self.divergence.values())))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """`images`, as NumPy asks for it. Raises ValueError for several inputs."""
        return np.array(self.images, dtype=dtype, copy=copy)

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Writes `.npz` (an array `x`, or one per input name; loss, divergence) or `.png` (a sheet of all pictures).

        Raises:
            FileExistsError: `path` exists and `overwrite` is False.
            ValueError: The name ends in something else, or the inputs are not pictures.
        """
        path = Path(path)
        if path.suffix not in (".npz", ".png"):
            raise ValueError(f"{path} ends in {path.suffix!r}; choose .npz or .png.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass overwrite=True to replace it.")
        content = npz_bytes(arrays_of(self)) if path.suffix == ".npz" else tf.io.encode_png(self.sheet()).numpy()
        write_atomically(path, content)
        return path

    def sheet(self) -> np.ndarray:
        """All pictures side by side, (height, width, 1 or 3) uint8. Of 3 or more channels the first three are shown, else one."""
        images = self.images
        if images.ndim != 4:
            raise ValueError(f"the inputs have shape {images.shape[1:]}; only (height, width, channels) can be shown.")
        ends = self.input_range
        low, high = next(iter(ends.values())) if isinstance(ends, Mapping) else ends
        shown = images[..., : 3 if images.shape[-1] >= 3 else 1].astype(np.float64)
        pictures = np.rint((shown - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
        n, height, width, channels = pictures.shape
        columns = int(np.ceil(np.sqrt(n)))
        rows = -(-n // columns)
        size = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels)
        sheet = np.full(size, _GAP_VALUE, np.uint8)
        for at, picture in enumerate(pictures):
            top, left = (
                _GAP + place * (side + _GAP) for place, side in zip(divmod(at, columns), (height, width), strict=True)
            )
            sheet[top : top + height, left : left + width] = picture
        return sheet


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of an .npz file of these arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def arrays_of(result: GeneratedImages) -> dict[str, np.ndarray]:
    """The images and their figures as `save` writes them."""
    alone = len(result.inputs) == 1
    ends = list(result.input_range.values()) if isinstance(result.input_range, Mapping) else result.input_range
    images = {"x" if alone else name: array for name, array in result.inputs.items()}
    return images | {
        "loss": result.loss,
        "divergence": np.array(json.dumps(dict(result.divergence))),
        "input_range": np.array(ends),
    }
