"""Names of classes, which a file can carry: a list, or a text file with one name in each line."""

import os
from collections.abc import Sequence
from pathlib import Path

from tfdatafree.errors import LoadError
from tfdatafree.limits import MOST_TEXT, require_regular, short


def read_labels(labels: Sequence[str] | str | os.PathLike | None) -> tuple[str, ...]:
    """The labels, in the order of the output's entries; () for None.

    Raises:
        LoadError: The file is missing, too large or no text.
        ValueError: They are no texts of one line each, or there is none.
    """
    if labels is None:
        return ()
    where = "labels"
    if isinstance(labels, (str, os.PathLike)):
        where = f"the labels in '{os.fspath(labels)}'"
        labels = _lines(labels)
    labels = list(labels)
    for label in labels:
        if not isinstance(label, str) or not label.strip() or len(label.splitlines()) != 1:
            raise ValueError(f"{where} have {short(label)}; give one text per class, each of one line.")
    if not labels:
        raise ValueError(f"{where} are empty; give one text per class.")
    return tuple(labels)


def require_labels_fit(labels: Sequence[str], shapes: Sequence[tuple[int | None, ...]]) -> None:
    """Raises ValueError unless an output, whose shapes are given, has as many entries as there are labels."""
    if labels and len(labels) not in [shape[-1] for shape in shapes if len(shape) > 1]:
        sizes = ", ".join(str(shape[-1]) for shape in shapes)
        raise ValueError(f"there are {len(labels)} labels, but the last axis of the model's outputs has {sizes}.")


def _lines(path: str | os.PathLike) -> list[str]:
    if require_regular(path, "label file ") > MOST_TEXT:
        raise LoadError(f"label file '{path}' is larger than {MOST_TEXT // 2**20} MB.")
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LoadError(f"label file '{path}' is not a text file; write one label per line, in UTF-8.") from error
    except OSError as error:
        raise LoadError(f"label file '{path}' cannot be read: {error.strerror}.") from error
