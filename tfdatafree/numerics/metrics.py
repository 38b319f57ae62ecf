"""Measures of how far an approximation is from its reference, in float64. All raise ValueError on unequal shapes."""

import numpy as np

# A difference below this fraction of an output is a rounding error of float64.
_ROUNDING = 1e-12


def sqnr_db(reference: np.ndarray, approximation: np.ndarray) -> float:
    """Signal-to-noise ratio in dB: 10 log10(sum reference^2 / sum (reference - approximation)^2), inf when both are equal."""
    reference, approximation = _pair(reference, approximation)
    noise, signal = np.sum((reference - approximation) ** 2), np.sum(reference**2)
    if noise == 0:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal != 0 else -np.inf


def relative_error(a: np.ndarray, reference: np.ndarray) -> float:
    """||a - reference||_2 / ||reference||_2 over all elements; for a zero reference 0 if a is zero too, else inf."""
    a, reference = _pair(a, reference)
    error, norm = np.linalg.norm(a - reference), np.linalg.norm(reference)
    if norm == 0:
        return 0.0 if error == 0 else np.inf
    return float(error / norm)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Fraction, 0 to 1, of positions where `a` and `b` have the same argmax over the last axis (first index on ties)."""
    a, b = _pair(a, b)
    return float(np.mean(a.argmax(-1) == b.argmax(-1)))


def has_classes(output: np.ndarray) -> bool:
    """Whether the last axis of an array (n, ...) has at least two entries, so that an argmax chooses one."""
    return output.ndim > 1 and output.shape[-1] > 1


def output_discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over samples of || a/||a||_2 - b/||b||_2 ||_2, between 0 and 2; lower is better.

    A positive factor per sample does not change it. A sample of norm 0 has no direction and stays 0. So it is at distance
    1 from any other sample, and at distance 0 from another zero.
    Args:
        a, b: Arrays (samples, ...); a sample's norm runs over all other axes.
    Source: Sobolev et al., FRanDI, eq. 3.
    """
    return float(np.mean(direction_distances(a, b)))


def direction_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|| a/||a||_2 - b/||b||_2 ||_2 of each sample, (samples,); their mean is the Output Discrepancy."""
    a, b = _pair(a, b)
    return np.linalg.norm(_directions(a) - _directions(b), axis=1)


def response_discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    """Output Discrepancy of the responses, which are the samples' deviations from the mean output; 0 to 2, lower is better.

    c_i = a_i - (mean of a_i over its last axis)        where that has several entries: a softmax ignores it
    r_i = c_i - mean_j c_j                              the response of sample i; r'_i is that of b
    D   = mean of D_i = || r_i/||r_i|| - r'_i/||r'_i|| ||

    so that decisions change only where margins are small. Let b'_i = mean_j c_j + t_i r'_i with the best t_i >= 0: b with
    its mean corrected and its samples scaled. Let m_i = first - second of a_i be the margin of a. Over all samples with
    another argmax in b' than in a:
        sum of m_i / ||r_i|| <= sqrt(2) n D.
    Proof: theta_i is the angle between r_i and r'_i. Below 90 degrees, b'_i - c_i has norm ||r_i|| sin(theta_i), which is
    at most ||r_i|| D_i. Else its norm is ||r_i|| <= ||r_i|| D_i / sqrt(2). Changing a decision takes a norm of m_i / sqrt(2).

    Generated inputs have more in common than real ones, and a compressed model shifts all their outputs by the same offset.
    `output_discrepancy` counts this offset in every sample. Here neither an offset of all samples, nor a constant or a
    positive factor per sample changes the result. A response of 0 stays 0: at distance 1 from others, 0 from another zero.
    Args:
        a, b: Arrays (samples, ..., classes), at least two samples; a sample's norm runs over all other axes.
    """
    return float(np.mean(response_distances(a, b)))


def response_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """D_i of each sample, (samples,); their mean is the response discrepancy."""
    a, b = _pair(a, b)
    if a.ndim < 1 or len(a) < 2:
        raise ValueError(f"the arrays have shape {a.shape}; responses are differences between at least 2 samples.")
    return direction_distances(_responses(a), _responses(b))


def normal_divergence(
    mean: np.ndarray, variance: np.ndarray, stored_mean: np.ndarray, stored_variance: np.ndarray
) -> np.ndarray:
    """KL(N(mean, variance) || N(stored_mean, stored_variance)) in nats, element by element; variances are above 0."""
    ratio = variance / stored_variance
    return (ratio - 1 - np.log(ratio) + np.square(mean - stored_mean) / stored_variance) / 2


def _responses(a: np.ndarray) -> np.ndarray:
    centred = a - a.mean(axis=-1, keepdims=True) if has_classes(a) else a
    responses = (centred - centred.mean(axis=0)).reshape(len(a), -1)
    norms, output_norms = (np.linalg.norm(rows, axis=1, keepdims=True) for rows in (responses, a.reshape(len(a), -1)))
    return np.where(norms <= _ROUNDING * output_norms, 0.0, responses)


def _directions(a: np.ndarray) -> np.ndarray:
    rows = a.reshape(len(a), -1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"the arrays have shapes {a.shape} and {b.shape}; they must be the same.")
    return a, b


def in_top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether each label is among the k largest scores, bool (n,). Among equal scores the first counts as larger, as for argmax.

    Integer files give many equal scores, so that "equal to the k-th" would count most of the classes.

    Args:
        scores: (n, classes).
        labels: Integers (n,).
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1) < k
