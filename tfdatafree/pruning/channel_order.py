"""Orders the channels of a layer by how little its readers lose without them, and refits these.

A reader has inputs x with H = cov(x) and weights W (inputs, outputs). Without the inputs R, the others refitted,

    V = W_K + H_KK^-1 H_KR W_R      changes its output by      e(R) = tr W_R^T ((H^-1)_RR)^-1 W_R

the least that is possible. Divided by tr(W^T H W), it is the part of the reader's output energy that is lost. Channels are
removed in rounds, each time those of least loss, summed over their readers. H^-1 and W are updated after each round (the
Optimal Brain Surgeon of Hassibi and Stork 1993 with whole channels).

H is cov(x) with correlations halved: generated inputs tell variances better than correlations. It is computed with inputs
scaled to unit variance, so that single precision is enough. A channel with constant values costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Part of each correlation that is trusted.
TRUST = 0.5
# An input counts as constant if its variance is below this part of the mean variance, as rounding errors are.
_CONSTANT = 1e-5
# Number of rounds in which all channels of a space are removed.
_ROUNDS = 32


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels of a space.

    Attributes:
        covariance: Covariance of its inputs, (inputs, inputs).
        weights: (inputs, outputs), scaled so that losses of different readers may be added.
        rows: The inputs that belong to each channel, (channels, inputs per channel).
    """

    covariance: np.ndarray
    weights: np.ndarray
    rows: np.ndarray


def shrink_correlations(covariance: np.ndarray, trust: float = TRUST) -> tuple[np.ndarray, np.ndarray]:
    """H as correlations (inputs, inputs) and standard deviations (inputs,), float32; 0 for constant inputs."""
    variance = np.diag(covariance).astype(np.float64)
    deviation = np.sqrt(np.where(variance > _CONSTANT * variance.mean(), variance, 0))
    inverse = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    correlation = (trust * covariance * inverse[:, None] * inverse).astype(np.float32)
    np.fill_diagonal(correlation, 1)
    return correlation, deviation.astype(np.float32)


def output_energy(weights: np.ndarray, covariance: np.ndarray) -> float:
    """tr(W^T H W)."""
    correlation, deviation = shrink_correlations(covariance)
    scaled = weights * deviation[:, None]
    return float(np.einsum("io,io->", correlation @ scaled, scaled, dtype=np.float64))


def order_channels(readers: Sequence[Reader]) -> tuple[np.ndarray, np.ndarray]:
    """Order (channels,) in which channels are removed, and the loss (channels,) that each adds, summed over the readers."""
    count = len(readers[0].rows)
    states = []
    for reader in readers:
        correlation, deviation = shrink_correlations(reader.covariance)
        states.append(
            (np.linalg.inv(correlation), (reader.weights * deviation[:, None]).astype(np.float32), reader.rows)
        )
    remaining = np.arange(count)
    order, losses = [], []
    while len(remaining):
        scores = np.zeros(len(remaining))
        for inverse, weights, rows in states:
            scores += _scores(inverse, weights, rows[remaining])
        chosen = np.argsort(scores, kind="stable")[: max(1, min(count // _ROUNDS, len(remaining)))]
        joint_loss = 0.0
        if len(chosen) < len(remaining):
            for at, (inverse, weights, rows) in enumerate(states):
                loss, states[at] = _without(inverse, weights, rows, remaining[chosen])
                joint_loss += loss
        single_losses = np.maximum(scores[chosen], 0)
        order.append(remaining[chosen])
        losses.append(single_losses * max(joint_loss / max(single_losses.sum(), 1e-30), 1.0))
        remaining = np.delete(remaining, chosen)
    return np.concatenate(order), np.concatenate(losses)


def _scores(inverse: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """e of each channel alone."""
    blocks = inverse[rows[:, :, None], rows[:, None, :]]
    w = weights[rows]
    return np.einsum("cio,cio->c", np.linalg.solve(blocks, w), w, dtype=np.float64)


def _without(inverse, weights, rows, removed):
    """e of the channels `removed` together, and the state without them."""
    gone = rows[removed].reshape(-1)
    w = weights[gone]
    solved = np.linalg.solve(inverse[np.ix_(gone, gone)], np.concatenate([w, inverse[gone]], axis=1))
    loss = float(np.einsum("io,io->", solved[:, : w.shape[1]], w, dtype=np.float64))
    weights = weights - inverse[:, gone] @ solved[:, : w.shape[1]]
    inverse = inverse - inverse[:, gone] @ solved[:, w.shape[1] :]
    # The removed inputs become uncorrelated with all others, so that they have no effect any more.
    inverse[gone] = inverse[:, gone] = 0
    inverse[gone, gone] = 1
    weights[gone] = 0
    return loss, (inverse, weights, rows)


def refit_without(weights: np.ndarray, covariance: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The weights (inputs, outputs) with zeros at the inputs `gone` (bool) and the others refitted."""
    correlation, deviation = shrink_correlations(covariance)
    result = np.where(gone[:, None], 0, weights).astype(np.float64)
    remaining = ~gone
    if gone.any() and remaining.any():
        missing = correlation[np.ix_(remaining, gone)] @ (weights[gone] * deviation[gone, None])
        inverse = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)[remaining, None]
        result[remaining] += inverse * np.linalg.solve(correlation[np.ix_(remaining, remaining)], missing)
    return result
