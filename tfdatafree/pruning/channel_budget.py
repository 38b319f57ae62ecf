"""How many channels each space of a network keeps, given the weights that it may keep in all.

    next = argmin over spaces of    loss of its next channels / weights that they take along

until the budget is met; with channels gone on one side of a kernel those on the other take fewer weights along, so weights
are counted anew after each step. Losses of a space are taken to rise: a cheap channel behind dear ones waits for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kernel:
    """Weights of a layer: taps * inputs left * outputs left.

    Attributes:
        taps: Weights per pair of an input and an output.
        inputs, outputs: (fixed, {space: positions per channel of it}): channels that nobody removes, and others.
    """

    taps: int
    inputs: tuple[int, Mapping[int, int]]
    outputs: tuple[int, Mapping[int, int]]

    def size(self, left: Sequence[int]) -> int:
        """Weights with `left[space]` channels in each space."""
        ends = [fixed + sum(times * left[s] for s, times in per.items()) for fixed, per in (self.inputs, self.outputs)]
        return self.taps * ends[0] * ends[1]


def channels_left(
    losses: Sequence[np.ndarray], kernels: Sequence[Kernel], sparsity: float, *, multiple: int = 1
) -> list[int]:
    """Channels that each space keeps, so that about `sparsity` of all weights are gone.

    Args:
        losses: Per space the loss that each channel adds, in the order in which its channels go.
        multiple: Kept channels of a space are a multiple of it, or all of them.
    """
    left = [len(values) for values in losses]
    rising = [np.maximum.accumulate(np.concatenate([[0.0], values])) for values in losses]
    users: list[list[int]] = [[] for _ in left]
    for at, kernel in enumerate(kernels):
        for space in {*kernel.inputs[1], *kernel.outputs[1]}:
            users[space].append(at)
    sizes = [kernel.size(left) for kernel in kernels]
    total = sum(sizes)
    target = round(sparsity * total)
    gone = 0
    savings: dict[int, tuple[int, int]] = {}

    def step_of(space: int) -> tuple[int, int]:
        """(channels that would be left, weights that would go) with the next step; (0, 0) for none."""
        now = left[space]
        after = (now - 1) // multiple * multiple
        if after < 1:
            return 0, 0
        left[space] = after
        saved = sum(sizes[at] - kernels[at].size(left) for at in users[space])
        left[space] = now
        return after, saved

    def price(space: int) -> float:
        after, saved = savings[space]
        whole = len(losses[space])
        return float(rising[space][whole - left[space] + 1 : whole - after + 1].sum()) / saved if saved else np.inf

    savings = {space: step_of(space) for space in range(len(left))}
    while gone < target:
        prices = {space: price(space) for space in savings}
        chosen = min(prices, key=prices.get, default=None)
        if chosen is None or prices[chosen] == np.inf:
            break
        if gone + savings[chosen][1] > target:
            # The last step: the one that comes nearest.
            nearest = {space: abs(gone + saved - target) for space, (_, saved) in savings.items() if saved}
            chosen = min(nearest, key=nearest.get)
            if nearest[chosen] >= target - gone:
                break
        left[chosen] = savings[chosen][0]
        touched = {chosen}
        for at in users[chosen]:
            size = kernels[at].size(left)
            gone += sizes[at] - size
            sizes[at] = size
            touched |= {*kernels[at].inputs[1], *kernels[at].outputs[1]}
        savings |= {space: step_of(space) for space in touched}
    return left
