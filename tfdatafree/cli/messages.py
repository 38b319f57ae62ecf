"""Messages of TensorFlow and of this package while a command runs: all of them, or those of this package."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from absl import logging as absl_logging


@contextlib.contextmanager
def talkative() -> Iterator[None]:
    """Shows what this package logs: stages and their durations."""
    before, root = absl_logging.get_verbosity(), logging.getLogger()
    handlers = list(root.handlers)
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)
        root.handlers[:] = handlers


@contextlib.contextmanager
def quiet(level: int) -> Iterator[None]:
    """Hides messages of TensorFlow and LiteRT; those of this package, from `level` on, still reach stderr.

    Native code writes to file descriptor 2. So that descriptor leads nowhere meanwhile, and sys.stderr writes to a copy of it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    own = sys.stderr
    try:
        shown = os.dup(2)
    except OSError:  # standard error is closed: nothing is shown anyway
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, shown)
        stack.callback(os.dup2, shown, 2)
        nowhere = stack.enter_context(open(os.devnull, "wb"))
        own.flush()
        os.dup2(nowhere.fileno(), 2)
        if _descriptor(own) == 2:
            sys.stderr = stack.enter_context(
                open(shown, "w", closefd=False, buffering=1, encoding=own.encoding, errors="backslashreplace")
            )
            stack.callback(setattr, sys, "stderr", own)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_own_messages_only(level))
        yield


def _descriptor(stream) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None


@contextlib.contextmanager
def _own_messages_only(level: int) -> Iterator[None]:
    """Shows log messages of this package from `level` on, as one line each, and no others."""
    package = str(Path(__file__).absolute().parents[1])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    handler.setLevel(level)
    handler.addFilter(lambda record: record.pathname.startswith(package))
    logger, tensorflow = absl_logging.get_absl_logger(), logging.getLogger("tensorflow")
    before = logger.propagate, tensorflow.level
    logger.addHandler(handler)
    logger.propagate = False
    tensorflow.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before[0]
        tensorflow.setLevel(before[1])
