"""One progress bar for a whole piece of work: what is being done, to which layer, and how much time is left.

Time left is the time so far over the part done, less the time so far. Each stage counts for as much of the whole as it usually
does. Inside a stage that cannot tell its part, the bar moves on at the speed of those before, ever slower towards its end:
part = 0.95 (1 - exp(-t / T)) after t of the T seconds that it should take.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from absl import logging
from tqdm import tqdm

from tfdatafree.activity import listening, report_layer

# Characters for what is being done, so that the bar beside it stands still.
_WIDTH = 44
# Seconds between two looks at the bar: layers pass faster than anybody reads.
_SHOWN_EVERY = 0.1
# Part of a stage that the bar reaches by itself.
_MOST_GUESSED = 0.95


class Progress:
    """A bar that names what is at work; silent when `verbose` is 0.

    Args:
        work: Stage -> how long it usually takes, in any unit; or the number of steps that are alike.
        done: Of these steps.
    """

    def __init__(self, work: Mapping[str, float] | int, verbose: int = 1, done: int = 0):
        self._weights = {} if isinstance(work, int) else dict(work)
        self._stage = ""
        # Of the bar's total: where the stage at work begins, and how much it counts for.
        self._start, self._share = 0.0, 0.0
        self._created = self._entered = time.monotonic()
        self._shown = 0.0
        self._bar = tqdm(
            desc=_fitted(""),
            total=work if isinstance(work, int) else sum(work.values()),
            initial=done,
            file=sys.stderr,
            disable=not verbose,
            leave=False,
            smoothing=0,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f} % {elapsed} passed, {remaining} left",
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows `name` while the block runs, with the layers that it reports, and advances when it ends."""
        self._stage, self._start, self._share = name, float(self._bar.n), self._weights.get(name, 1.0)
        self._entered = time.monotonic()
        self._show(name, self._start)
        with listening(self.layer):
            yield
        logging.info("%s: %.2f s", name, time.monotonic() - self._entered)
        self._show(name, self._start + self._share)

    def step(self, text: str) -> None:
        """Advances by one and shows `text`: for steps that are many and alike.

        A silent bar tells it to the stage around it, if there is one.
        """
        if self._bar.disable:
            self._bar.n += 1
            report_layer(text, self._bar.n / self._bar.total)
            return
        self._bar.set_description_str(_fitted(text), refresh=False)
        self._bar.update()

    def layer(self, name: str, part: float | None) -> None:
        """Shows the layer that the stage is at; `part` of the stage is done, if that is known."""
        if self._bar.disable or time.monotonic() - self._shown < _SHOWN_EVERY:
            return
        at = self._start + self._share * (self._guessed_part() if part is None else part)
        self._show(f"{self._stage}: {name}", max(at, float(self._bar.n)))

    def _guessed_part(self) -> float:
        if not self._start or not self._share:
            return 0.0
        expected = self._share * (self._entered - self._created) / self._start
        return _MOST_GUESSED * (1 - math.exp(-(time.monotonic() - self._entered) / max(expected, 1e-3)))

    def close(self) -> None:
        self._bar.close()

    def _show(self, text: str, at: float) -> None:
        if self._bar.disable:
            self._bar.n = at
            return
        self._bar.set_description_str(_fitted(text), refresh=False)
        self._bar.n = at
        self._bar.refresh()
        self._shown = time.monotonic()


def _fitted(text: str) -> str:
    return f"{text if len(text) <= _WIDTH else text[: _WIDTH - 1] + '…':<{_WIDTH}}"
