"""One progress bar for a whole compression."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """A bar that advances by stages and names the one at work; silent when `verbose` is 0."""

    def __init__(self, stages: int, verbose: int = 1, done: int = 0):
        self._bar = tqdm(
            total=stages,
            initial=done,
            file=sys.stderr,
            disable=not verbose,
            leave=False,
            bar_format="{l_bar}{bar}| {n}/{total} {elapsed}",
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows `name` while the block runs, and advances when it ends."""
        self._bar.set_description(name)
        yield
        self._bar.update()

    def step(self, text: str) -> None:
        """Advances by one and shows `text`: for steps that are many and alike."""
        self._bar.set_description(text, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
