"""What TensorFlow and this package say while a command runs."""

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
    """Shows what this package logs: stages and how long they took."""
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
    """Hides what TensorFlow and LiteRT say about themselves; what this package says, from `level`, still reaches stderr.

    Native code writes to file descriptor 2, so that one is turned away, and sys.stderr gets a copy of the old one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    own, shown = sys.stderr, os.dup(2)
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
    """Of what is logged, lets through what this package says from `level`, as one line each."""
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
