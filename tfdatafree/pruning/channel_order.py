"""In which order a layer's readers miss its channels least, and what they do without them.

A reader has inputs x with H = cov(x) and weights W (inputs, outputs). Without the inputs R, the others refitted,

    V = W_K + H_KK^-1 H_KR W_R      changes its output by      e(R) = tr W_R^T ((H^-1)_RR)^-1 W_R

the least that is possible; divided by tr(W^T H W) it is the part of the reader's output energy that is lost. Channels go in
rounds, each time those of least loss, summed over their readers; H^-1 and W are brought up to date after each round
(the Optimal Brain Surgeon of Hassibi and Stork 1993 with whole channels).

H = cov(x) with correlations halved: generated inputs tell variances better than correlations. Computed with inputs scaled to
unit variance, so that single precision does; a channel that never moves costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Part of each correlation that is believed.
TRUST = 0.5
# Part of the mean variance below which an input counts as still: what rounding leaves of a constant's variance.
_STILL = 1e-5
# Rounds in which all channels of a space go.
_ROUNDS = 32


@dataclass(frozen=True)
class Reader:
    """A layer seen from the channels that it reads.

    Attributes:
        covariance: Of its inputs, (inputs, inputs).
        weights: (inputs, outputs), scaled such that losses of different readers may be added.
        rows: For each channel its inputs, (channels, inputs per channel).
    """

    covariance: np.ndarray
    weights: np.ndarray
    rows: np.ndarray


def shrunk(covariance: np.ndarray, trust: float = TRUST) -> tuple[np.ndarray, np.ndarray]:
    """H as correlations (inputs, inputs) and standard deviations (inputs,), float32; 0 for inputs that never move."""
    variance = np.diag(covariance).astype(np.float64)
    deviation = np.sqrt(np.where(variance > _STILL * variance.mean(), variance, 0))
    inverse = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    correlation = (trust * covariance * inverse[:, None] * inverse).astype(np.float32)
    np.fill_diagonal(correlation, 1)
    return correlation, deviation.astype(np.float32)


def energy(weights: np.ndarray, covariance: np.ndarray) -> float:
    """tr(W^T H W)."""
    correlation, deviation = shrunk(covariance)
    scaled = weights * deviation[:, None]
    return float(np.einsum("io,io->", correlation @ scaled, scaled, dtype=np.float64))


def elimination(readers: Sequence[Reader]) -> tuple[np.ndarray, np.ndarray]:
    """Order (channels,) in which channels go, and the loss (channels,) that each adds, summed over the readers."""
    count = len(readers[0].rows)
    states = []
    for reader in readers:
        correlation, deviation = shrunk(reader.covariance)
        states.append(
            (np.linalg.inv(correlation), (reader.weights * deviation[:, None]).astype(np.float32), reader.rows)
        )
    left = np.arange(count)
    order, losses = [], []
    while len(left):
        scores = np.zeros(len(left))
        for inverse, weights, rows in states:
            scores += _scores(inverse, weights, rows[left])
        going = np.argsort(scores, kind="stable")[: max(1, min(count // _ROUNDS, len(left)))]
        together = 0.0
        if len(going) < len(left):
            for at, (inverse, weights, rows) in enumerate(states):
                loss, states[at] = _without(inverse, weights, rows, left[going])
                together += loss
        own = np.maximum(scores[going], 0)
        order.append(left[going])
        losses.append(own * max(together / max(own.sum(), 1e-30), 1.0))
        left = np.delete(left, going)
    return np.concatenate(order), np.concatenate(losses)


def _scores(inverse: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """e of each channel by itself."""
    blocks = inverse[rows[:, :, None], rows[:, None, :]]
    w = weights[rows]
    return np.einsum("cio,cio->c", np.linalg.solve(blocks, w), w, dtype=np.float64)


def _without(inverse, weights, rows, going):
    """e of the channels together, and the state without them."""
    gone = rows[going].reshape(-1)
    w = weights[gone]
    solved = np.linalg.solve(inverse[np.ix_(gone, gone)], np.concatenate([w, inverse[gone]], axis=1))
    loss = float(np.einsum("io,io->", solved[:, : w.shape[1]], w, dtype=np.float64))
    weights = weights - inverse[:, gone] @ solved[:, : w.shape[1]]
    inverse = inverse - inverse[:, gone] @ solved[:, w.shape[1] :]
    # Far from every other input, so that rows of what is gone play no part any more.
    inverse[gone] = inverse[:, gone] = 0
    inverse[gone, gone] = 1
    weights[gone] = 0
    return loss, (inverse, weights, rows)


def refit_without(weights: np.ndarray, covariance: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The weights (inputs, outputs) with zeros at the inputs `gone` (bool) and the others refitted."""
    correlation, deviation = shrunk(covariance)
    result = np.where(gone[:, None], 0, weights).astype(np.float64)
    stay = ~gone
    if gone.any() and stay.any():
        missing = correlation[np.ix_(stay, gone)] @ (weights[gone] * deviation[gone, None])
        inverse = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0)[stay, None]
        result[stay] += inverse * np.linalg.solve(correlation[np.ix_(stay, stay)], missing)
    return result
