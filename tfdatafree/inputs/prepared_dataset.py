"""A folder that TensorFlow Datasets has prepared: `~/tensorflow_datasets/mnist/3.0.1`, with dataset_info.json and records."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfdatafree.errors import MissingPackageError

_INFO = "dataset_info.json"
# Splits that are taken where none is named, the first that there is.
_USUAL = ("test", "validation")


def is_prepared(folder: Path) -> bool:
    return (folder / _INFO).is_file()


def read_prepared(folder: Path, split: str | None) -> tuple[Iterator[tuple[np.ndarray, int]], str]:
    """(pairs of an image (height, width, channels) uint8 and its label, name of the split).

    Args:
        split: Name of the split; None: the only one, else "test" or "validation".

    Raises:
        MissingPackageError: TensorFlow Datasets is not installed.
        ValueError: There is no such split, or the dataset has no images with labels.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise MissingPackageError(
            f"'{folder}' was prepared by TensorFlow Datasets, which is not installed; run: pip install tensorflow-datasets."
        ) from error
    builder = tfds.builder_from_directory(folder)
    splits = list(builder.info.splits)
    usual = [name for name in _USUAL if name in splits] or splits
    if split is None and len(usual) != 1 and usual == splits:
        raise ValueError(f"'{folder}' has the splits {', '.join(splits)}; give split, the name of one.")
    chosen = usual[0] if split is None else split
    if chosen not in splits:
        raise ValueError(f"'{folder}' has no split '{chosen}'; choose one of {', '.join(splits)}.")
    if not builder.info.supervised_keys:
        raise ValueError(f"'{folder}' has no pairs of image and label; store its inputs and labels in an .npz file.")
    return iter(tfds.as_numpy(builder.as_dataset(split=chosen, as_supervised=True, shuffle_files=False))), chosen
