"""What `generate_images` returns."""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfdatafree.files import write_atomically

# Pixels between the pictures of a sheet, and how bright they are.
_GAP, _GAP_VALUE = 2, 255


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """What `generate_images` returns.

    Attributes:
        inputs: Input name -> array (n, *shape), float32, or of the input's integer type.
        input_range: (low, high) that all values keep.
        loss: (steps, batches): the optimised sum, priors included, before each step.
        divergence: BatchNorm -> KL divergence of its input's statistics from the stored ones, in nats, mean over
            channels, all n images together.
    """

    inputs: Mapping[str, np.ndarray]
    input_range: tuple[float, float]
    loss: np.ndarray
    divergence: Mapping[str, float]

    @property
    def images(self) -> np.ndarray:
        """The inputs of a model with one: (n, height, width, channels) for images."""
        if len(self.inputs) != 1:
            raise ValueError(f"the model has {len(self.inputs)} inputs ({', '.join(self.inputs)}); use .inputs[name].")
        return next(iter(self.inputs.values()))

    @property
    def mean_divergence(self) -> float:
        """Mean over the BatchNorms."""
        return float(np.mean(list(self.divergence.values())))

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Writes `.npz` (`x`, or one array per input name; loss, divergence) or `.png` (a sheet of all pictures).

        Raises:
            FileExistsError: `path` exists and `overwrite` is False.
            ValueError: The ending is none of these, or the inputs are no pictures.
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
        """All pictures side by side, (height, width, 1 or 3) uint8; of other channels the first or the first three."""
        images = self.images
        if images.ndim != 4:
            raise ValueError(f"the inputs have shape {images.shape[1:]}; only (height, width, channels) can be shown.")
        low, high = self.input_range
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
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def arrays_of(result: GeneratedImages) -> dict[str, np.ndarray]:
    alone = len(result.inputs) == 1
    images = {"x" if alone else name: array for name, array in result.inputs.items()}
    return images | {
        "loss": result.loss,
        "divergence": np.array(json.dumps(dict(result.divergence))),
        "input_range": np.array(result.input_range),
    }
