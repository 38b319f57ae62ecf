"""Which layer is at work, told to whoever looks: stages report it, and do not know who that is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float | None], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("tfdatafree_at_work", default=None)


def report_layer(name: str, part: float | None = None) -> None:
    """Says that layer `name` is at work and, if it is known, what part of the stage is done, 0 to 1."""
    if (listener := _LISTENER.get()) is not None:
        listener(name, part)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Passes what the block reports to `listener`, and to nobody else."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
