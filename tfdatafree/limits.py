"""Limits for what comes from outside: files and sizes are checked before anything is read, unpacked or allocated.

The memory of a single step is limited to `MEMORY_GB`. The environment variable of that name raises the limit.
"""

import math
import os
import reprlib
import stat
import zipfile
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from tfdatafree.errors import LoadError, printable

MEMORY_GB = "TFDATAFREE_MEMORY_GB"
_DEFAULT_GB = 8.0
# Bytes of a text that describes something, such as a recipe or a model's config. Large networks have configs of 2 MB.
MOST_TEXT = 16 * 2**20
# Parsed texts are walked by recursive functions, here and in Keras.
_MOST_DEPTH = 100
_MOST_VALUES = 2_000_000
_FLOAT_BYTES = 4
# Numbers compress little. A part of an archive that is larger than this, and compressed more than that, is a trap.
_LARGE_PART, _MOST_COMPRESSED = 2**29, 100
_MOST_SEED = 2**63 - 1


def memory_limit() -> float:
    """Most bytes that the arrays of one step may take. Raises ValueError unless the variable is a positive number."""
    text = os.environ.get(MEMORY_GB, "")
    try:
        limit = float(text) if text else _DEFAULT_GB
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ValueError(f"{MEMORY_GB} is {text!r}; set it to a number of gigabytes above 0, or unset it.")
    return limit * 1e9


def require_memory(what: str, n_bytes: float, advice: str, error: type[Exception] = ValueError) -> None:
    """Raises `error` if `what`, which takes `n_bytes`, is beyond the limit.

    Args:
        advice: What to do about it, such as "ask for fewer".
    """
    if n_bytes > (limit := memory_limit()):
        raise error(
            f"{what} would take {n_bytes / 1e9:.3g} GB of memory, and the limit is {limit / 1e9:g} GB; {advice}, or raise "
            f"the limit with the environment variable {MEMORY_GB}."
        )


def require_inputs_fit(n: int, shape: tuple[int, ...]) -> None:
    """Raises ValueError if `n` float32 arrays of `shape` are beyond the memory limit."""
    sizes = " x ".join(map(str, shape))
    require_memory(f"{n} inputs of {sizes}", n * math.prod(shape) * _FLOAT_BYTES, "ask for fewer or smaller ones")


def require_regular(path: str | os.PathLike, what: str = "") -> int:
    """The size in bytes of the file `path`. Raises LoadError unless it is a regular file: reading devices may never end."""
    name = f"{what}'{path}'"
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LoadError(f"{name} cannot be read: {reason}.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
        raise LoadError(f"{name} is {kind}; give a regular file.")
    return found.st_size


def require_sound_sizes(archive: zipfile.ZipFile, advice: str) -> None:
    """Raises LoadError if a part of the archive, by the sizes in its headers, is there to fill the memory."""
    path, parts = archive.filename, archive.infolist()
    require_memory(f"'{path}', unpacked,", sum(part.file_size for part in parts), advice, LoadError)
    for part in parts:
        if part.file_size > _LARGE_PART and part.file_size > _MOST_COMPRESSED * part.compress_size:
            raise LoadError(
                f"'{path}' is refused: {short(part.filename)} in it unpacks from {part.compress_size / 1e6:.3g} MB to "
                f"{part.file_size / 1e9:.3g} GB, which is nearly nothing but repetition; {advice}."
            )


def require_plain(values: Any, what: str) -> None:
    """Raises LoadError if parsed `values` nest too deep, or are too many, for recursive code."""
    level, count = [values], 0
    for _ in range(_MOST_DEPTH):
        parts = []
        for value in level:
            parts += value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
            if count + len(parts) > _MOST_VALUES:
                raise LoadError(f"{what} holds more than {_MOST_VALUES} values, more than any real one needs.")
        if not parts:
            return
        level, count = parts, count + len(parts)
    raise LoadError(f"{what} nests deeper than {_MOST_DEPTH} levels, deeper than any real one.")


def require_seed(seed: object) -> int:
    """`seed` as an int. Raises ValueError unless it is a whole number from 0 to 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) <= _MOST_SEED:
        raise ValueError(f"seed is {short(seed)}; give a whole number from 0 to 2**63 - 1.")
    return int(seed)


def require_bool(name: str, value: object) -> bool:
    """`value` as it is. Raises ValueError unless it is True or False: the text "no" would count as True."""
    if value is not True and value is not False:
        raise ValueError(f"{name} is {short(value)}; give True or False.")
    return value


def short(value: object) -> str:
    """`repr(value)` in one line, cut to a readable length, also for values that nest or repeat without end."""
    try:
        return printable(reprlib.repr(value))
    except ValueError:  # Python writes no integers of more than 4300 digits
        return f"a {type(value).__name__} too long to show"
