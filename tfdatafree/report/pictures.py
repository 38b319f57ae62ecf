"""Encodes small images as text for a page."""

import base64
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

# Images up to this side are stored as PNG, because JPEG would blur them.
_PNG_SIDE = 48


def data_uris(images: np.ndarray) -> Iterator[str]:
    """A data: address for each of `images`, uint8 (n, height, width, 1 or 3)."""
    for image in images:
        if max(image.shape[:2]) <= _PNG_SIDE:
            kind, content = "png", tf.io.encode_png(image).numpy()
        else:
            kind, content = "jpeg", tf.io.encode_jpeg(image, quality=85).numpy()
        yield f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
