"""Passes on which layer is being processed: stages report it, without knowing the listener."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float | None], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("tfdatafree_at_work", default=None)


def report_layer(name: str, part: float | None = None) -> None:
    """Reports that layer `name` is being processed and, if known, which part of the stage is finished, 0 to 1."""
    if (listener := _LISTENER.get()) is not None:
        listener(name, part)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Passes the reports made inside the `with` block to `listener` only."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
