"""A small trained network and images to try tfdatafree on, without a download.

The images are scikit-learn's handwritten digits, read from its installation; only the network's weights lie here.
`tools/train_demo.py` made them.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfdatafree.errors import MissingPackageError

if TYPE_CHECKING:  # without a model, this needs no Keras
    import keras

MODEL_PATH = Path(__file__).with_name("digits.keras")

_HELD_OUT = 360  # of 1797 images
_SPLIT_SEED = 20210


def load_demo() -> "tuple[keras.Model, np.ndarray, np.ndarray]":
    """Returns the demo network with images and labels that it was not trained on.

    Returns:
        model: Functional CNN, 10 classes, softmax output; a fresh copy on every call.
        images: (360, 8, 8, 1) float32 in [0, 1].
        labels: (360,) int64.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    import keras

    _, (images, labels) = split_digits()
    return keras.models.load_model(MODEL_PATH, compile=False), images, labels


def split_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns ((training images, labels), (held-out images, labels)), always the same split; see `load_demo`."""
    require_sklearn()
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype(np.float32)  # 16 is the brightest pixel of the set
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    held_out, training = order[:_HELD_OUT], order[_HELD_OUT:]
    return (images[training], labels[training]), (images[held_out], labels[held_out])


def require_sklearn() -> None:
    """Raises MissingPackageError if scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise MissingPackageError(
            "the demo reads its images from scikit-learn, which is not installed: pip install scikit-learn"
        )
