"""One progress bar for a whole compression: the stage, the layer and the time left; or the same as lines.

time left = time so far / part done - time so far

Each stage counts for as much of the bar as it usually takes of the time. A stage may not know how far it is. Then the bar
estimates it from the speed of the stages before, and slows down towards the end of the stage:
part = 0.95 (1 - exp(-t / T)) after t of the T expected seconds.

Lines are for files and pipes: one per stage when it begins. In a long stage more lines tell the time left of it, as soon as its
pace shows, or only the layer, if the stage cannot tell its part.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from absl import logging
from tqdm import tqdm

from tfdatafree.activity import listening, report_layer

# Characters of the text before the bar. The width is fixed, so that the bar does not move.
_WIDTH = 44
# Seconds between two updates: layers change faster than anybody reads.
_SHOWN_EVERY = 0.1
# Seconds of a stage after which a line tells more of it. The next line comes after twice as long, and so on.
_FIRST_ESTIMATE = 5.0
# The largest part of a stage that the bar shows by estimate.
_MOST_ESTIMATED = 0.95


class Progress:
    """A bar that names the current stage and layer.

    Args:
        verbose: 0 shows nothing, 2 shows lines in place of the bar.
        work: Stage -> how long it usually takes, in any unit; or the number of equal steps.
        steps_done: Number of these steps that are finished already.
    """

    def __init__(self, work: Mapping[str, float] | int, verbose: int = 1, steps_done: int = 0):
        self._weights = {} if isinstance(work, int) else dict(work)
        self._stage = ""
        # Where the current stage begins, and how much it counts for, in units of the bar's total.
        self._start, self._share = 0.0, 0.0
        self._created = self._entered = time.monotonic()
        self._shown = 0.0
        self._lines, self._next_estimate = verbose == 2, _FIRST_ESTIMATE
        self._bar = tqdm(
            desc=_fit_width(""),
            total=work if isinstance(work, int) else sum(work.values()),
            initial=steps_done,
            file=sys.stderr,
            disable=not verbose or self._lines,
            leave=False,
            smoothing=0,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f} % {elapsed} passed, {remaining} left",
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows `name` and the layers that the block reports while it runs, and advances the bar when it ends."""
        self._stage, self._start, self._share = name, float(self._bar.n), self._weights.get(name, 1.0)
        self._entered = time.monotonic()
        self._next_estimate = _FIRST_ESTIMATE
        self._line(name)
        self._show(name, self._start)
        with listening(self.layer):
            yield
        logging.info("%s: %.2f s", name, time.monotonic() - self._entered)
        self._show(name, self._start + self._share)

    def step(self, text: str) -> None:
        """Advances by one of many equal steps and shows `text`.

        A silent bar reports it to the enclosing stage, if there is one.
        """
        if self._bar.disable:
            self._bar.n += 1
            report = self.layer if self._lines else report_layer
            report(text, self._bar.n / self._bar.total)
            return
        self._bar.set_description_str(_fit_width(text), refresh=False)
        self._bar.update()

    def layer(self, name: str, part: float | None) -> None:
        """Shows the current layer of the stage. `part` of the stage is done; None if that is not known."""
        passed = time.monotonic() - self._entered
        if self._lines and passed >= self._next_estimate:
            left = f"{100 * part:.0f} % done, about {_duration(passed / part - passed)} left of it" if part else name
            self._line(f"{self._stage or name}: {left}")
            self._next_estimate = 2 * passed
        if self._bar.disable or time.monotonic() - self._shown < _SHOWN_EVERY:
            return
        at = self._start + self._share * (self._estimated_part() if part is None else part)
        self._show(f"{self._stage}: {name}", max(at, float(self._bar.n)))

    def _estimated_part(self) -> float:
        if not self._start or not self._share:
            return 0.0
        expected = self._share * (self._entered - self._created) / self._start
        return _MOST_ESTIMATED * (1 - math.exp(-(time.monotonic() - self._entered) / max(expected, 1e-3)))

    def _line(self, text: str) -> None:
        if self._lines and sys.stderr is not None:
            sys.stderr.write(f"{time.monotonic() - self._created:7.1f} s  {text}\n")
            sys.stderr.flush()

    def close(self) -> None:
        self._bar.close()

    def _show(self, text: str, at: float) -> None:
        if self._bar.disable:
            self._bar.n = at
            return
        self._bar.set_description_str(_fit_width(text), refresh=False)
        self._bar.n = at
        self._bar.refresh()
        self._shown = time.monotonic()


def _fit_width(text: str) -> str:
    return f"{text if len(text) <= _WIDTH else text[: _WIDTH - 1] + '…':<{_WIDTH}}"


def _duration(seconds: float) -> str:
    """50 s, or 3 min."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
