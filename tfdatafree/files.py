"""Writes a file completely or not at all; and folders for temporary files, which no run leaves behind for good."""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tfdatafree.limits import short

_FOLDER = "tfdatafree-"
# Seconds. The process of a younger one may run in another container that shares the folder of temporary files.
_ABANDONED_AFTER = 3600
# Letters of the file's name that its temporary name begins with. Names have at most 255 bytes, and a letter at most 4.
_MOST_LETTERS = 40


def require_writable_name(path: Path) -> None:
    """Raises before the work what `write_atomically` would raise after it: ValueError for a NUL, OSError for a long name."""
    if "\0" in str(path):
        raise ValueError(f"{short(str(path))} holds the character NUL; give another name.")
    path.exists()  # raises OSError for a name that is too long
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "The folder does not exist; create it first", str(path.parent))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary file in the same folder, which then gets the name `path`.

    Raises:
        OSError: It cannot be written, for want of space or of permission; names `path`.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_MOST_LETTERS]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder that is removed at the end. A later call removes what a killed process has left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        process = folder.name.split("-")[1]
        if process.isdecimal() and not _is_running(int(process)) and _age(folder) > _ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-") as name:
        yield name


def _age(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime
    return 0.0  # it is gone already


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
