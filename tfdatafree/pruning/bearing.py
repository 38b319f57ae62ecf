"""Finds the largest sparsity that a network bears: that keeps its results on inputs that no pruning was made with.

    sparsities are k / 50; bisection between one that is known to be kept and one that is not; then a check of the result

On the way, supports are chosen again for each sparsity, but what a weight costs in which layer is not measured again. The
network of the result is made from scratch, so that pruning to this sparsity by itself gives the same network. Where that
network is not kept, the next smaller sparsity is tried.
"""

import dataclasses
import math
from typing import Protocol

from tfdatafree.model.network import Network, Pruning
from tfdatafree.numerics.fidelity import KEPT_AGREEMENT, KEPT_SQNR_DB
from tfdatafree.pruning.judge import Judge

_STEPS = 50
_STEP_TEXT = f"{100 / _STEPS:.0f} %"


class Attempts(Protocol):
    """Prunes one network to any sparsity within limits."""

    @property
    def limits(self) -> tuple[float, float]:
        """The least possible sparsity, and one that is not possible any more."""

    def __call__(self, sparsity: float | None, *, roughly: bool = False) -> Network:
        """The pruned network; None: to the sparsity that other options decide."""


def prune_as_asked(attempts: Attempts, asked: float | None, judge: Judge, on: str, *, search: bool) -> Network:
    """The network pruned to the sparsity that was asked for. Its record says how well the results stay.

    If they do not, and `search` is True, the record also says what the network would bear.

    Args:
        on: The inputs of the judge, for the record.
    """
    network = _judged(attempts(asked), judge, on)
    pruning = network.pruning
    if pruning is None or pruning.fidelity is None or not pruning.fidelity.fails or not search or asked is None:
        return network
    borne = find_bearable(attempts, judge, on, below=asked).pruning
    bears = None if borne is None else borne.bears
    return dataclasses.replace(network, pruning=dataclasses.replace(pruning, bears=bears))


def find_bearable(attempts: Attempts, judge: Judge, on: str, *, below: float = 1.0) -> Network:
    """The network pruned to the largest sparsity below `below` that keeps its results.

    `Pruning.bears` is None if not even the least possible sparsity does.
    """
    least, most = attempts.limits
    low = math.ceil(least * _STEPS - 1e-9)
    high = max(math.ceil(min(below, most) * _STEPS - 1e-9), low + 1)
    first = low
    while high - low > 1:
        middle = (low + high) // 2
        # The first of them measures what the others use.
        if _keeps(attempts(middle / _STEPS, roughly=True), judge):
            low = middle
        else:
            high = middle
    network = _judged(attempts(low / _STEPS), judge, on)
    while low > first and not _kept(network.pruning):
        low -= 1
        network = _judged(attempts(low / _STEPS), judge, on)
    if network.pruning is None or not _kept(network.pruning):
        return network
    return dataclasses.replace(network, pruning=dataclasses.replace(network.pruning, bears=network.pruning.sparsity))


def verdict(name: str, pruning: Pruning) -> str:
    """What the user must know of the network `name` after pruning: that it does not bear it; empty: it does."""
    kept, none = f"keeps {_kept_text(pruning)}", f"not even {_STEP_TEXT}"
    if pruning.bears == 0 and pruning.sparsity == 0:
        return f"'{name}' bears no pruning: {none} {kept} on {pruning.compared_on}; nothing was pruned"
    if pruning.fidelity is None or not pruning.fidelity.fails:
        return ""
    text = f"pruned by {_percent(pruning.sparsity)}, '{name}' {stays(pruning)}; it does not bear this"
    if pruning.bears is None:
        return f"{text}: prune less, or recover"
    found = f"about {_percent(pruning.bears)}" if pruning.bears else none
    return f"{text}, and would bear {found} ({kept}): prune less, or recover"


def stays(pruning: Pruning) -> str:
    """How well the results of the pruned network stay, in words; empty if they were not compared."""
    fidelity = pruning.fidelity
    if fidelity is None:
        return ""
    if fidelity.agreement is None:
        return f"gives results of {fidelity.sqnr_db:.1f} dB SQNR, without their mean, on {pruning.compared_on}"
    common = ", without what these have in common" if fidelity.centred else ""
    return f"decides as before on {math.floor(100 * fidelity.agreement)} % of {pruning.compared_on}{common}"


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def _kept_text(pruning: Pruning) -> str:
    if pruning.fidelity is not None and pruning.fidelity.agreement is None:
        return f"{KEPT_SQNR_DB:.0f} dB"
    return f"{100 * KEPT_AGREEMENT:.0f} % of its decisions"


def _judged(network: Network, judge: Judge, on: str) -> Network:
    if network.pruning is None:
        return network
    pruning = dataclasses.replace(network.pruning, fidelity=judge.fidelity(network.current), compared_on=on)
    return dataclasses.replace(network, pruning=pruning)


def _keeps(network: Network, judge: Judge) -> bool:
    return judge.fidelity(network.current).keeps


def _kept(pruning: Pruning | None) -> bool:
    return pruning is not None and pruning.fidelity is not None and pruning.fidelity.keeps
