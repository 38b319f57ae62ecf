"""Chooses how many channels each space of a network keeps, for a given number of weights in all.

    next = argmin over spaces of    loss of its next channels / weights that go with them

until the budget is met. Fewer channels on one side of a kernel mean fewer weights per channel on its other side, so weights are
counted again after each step. The losses of a space are made to rise: a cheap channel that comes after expensive ones waits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kernel:
    """The weights of a layer: taps * remaining inputs * remaining outputs.

    Attributes:
        taps: Weights per pair of an input and an output.
        inputs, outputs: (fixed, {space: positions per channel of it}): channels that nobody removes, and all others.
    """

    taps: int
    inputs: tuple[int, Mapping[int, int]]
    outputs: tuple[int, Mapping[int, int]]

    def size(self, counts: Sequence[int]) -> int:
        """Number of weights with `counts[space]` channels in each space."""
        inputs, outputs = (
            fixed + sum(positions * counts[space] for space, positions in by_space.items())
            for fixed, by_space in (self.inputs, self.outputs)
        )
        return self.taps * inputs * outputs


def choose_channel_counts(
    losses: Sequence[np.ndarray], kernels: Sequence[Kernel], sparsity: float, *, multiple: int = 1
) -> list[int]:
    """Number of channels that each space keeps, so that about `sparsity` of all weights are removed.

    Args:
        losses: Per space the loss that each channel adds, in the order in which its channels are removed.
        multiple: Each space keeps a multiple of so many channels, or all of them.
    """
    counts = [len(values) for values in losses]
    rising = [np.maximum.accumulate(np.concatenate([[0.0], values])) for values in losses]
    kernels_of: list[list[int]] = [[] for _ in counts]
    for at, kernel in enumerate(kernels):
        for space in {*kernel.inputs[1], *kernel.outputs[1]}:
            kernels_of[space].append(at)
    sizes = [kernel.size(counts) for kernel in kernels]
    total = sum(sizes)
    target = round(sparsity * total)
    removed = 0
    steps: dict[int, tuple[int, int]] = {}

    def next_step(space: int) -> tuple[int, int]:
        """(channels after the next step, weights that it removes); (0, 0) where there is no next step."""
        before = counts[space]
        after = (before - 1) // multiple * multiple
        if after < 1:
            return 0, 0
        counts[space] = after
        weights = sum(sizes[at] - kernels[at].size(counts) for at in kernels_of[space])
        counts[space] = before
        return after, weights

    def price(space: int) -> float:
        """Loss per weight of the next step."""
        after, weights = steps[space]
        width = len(losses[space])
        return (
            float(rising[space][width - counts[space] + 1 : width - after + 1].sum()) / weights if weights else np.inf
        )

    steps = {space: next_step(space) for space in range(len(counts))}
    while removed < target:
        prices = {space: price(space) for space in steps}
        chosen = min(prices, key=prices.__getitem__, default=None)
        if chosen is None or prices[chosen] == np.inf:
            break
        if removed + steps[chosen][1] > target:
            # The last step is the one that comes nearest to the target.
            distances = {space: abs(removed + weights - target) for space, (_, weights) in steps.items() if weights}
            chosen = min(distances, key=distances.__getitem__)
            if distances[chosen] >= target - removed:
                break
        counts[chosen] = steps[chosen][0]
        touched = {chosen}
        for at in kernels_of[chosen]:
            size = kernels[at].size(counts)
            removed += sizes[at] - size
            sizes[at] = size
            touched |= {*kernels[at].inputs[1], *kernels[at].outputs[1]}
        steps |= {space: next_step(space) for space in touched}
    return counts
