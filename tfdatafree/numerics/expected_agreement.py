"""How many decisions of a classifier stay on real inputs, estimated from its scores on generated ones.

A decision stays while the noise on its margin is smaller than the margin. Let a be the scores of the float network on n inputs,
b those of the compressed one. For input i, with the first class of a_i as its decision,

    m_i  = first - second of a_i                          its margin
    m'_i = b_i of the same class - largest other of b_i   what compression leaves of it
    g    = sum m m' / sum m^2,    e_j = m'_j - g m_j      gain, and noise
    s    = share of all pairs (i, j) with 2 g m_i + e_j > 0

so that s is the share that stays if margins are twice as large, with the noise of any input. Trained networks are surer of real
inputs than of generated ones; over the networks below, margins are larger by about this factor. Then

    probit(share) = c0 + c1 probit(s) + c2 c,             c = -1/2 log(1 - r^2)

where r is the correlation of the responses of both networks: scores without their mean over classes, and then over inputs. The
three coefficients, and the half width of the interval in probits, are fitted on the networks that `docs/trust.md` lists, by
`tools/calibrate_agreement.py`. With each network held out in turn, the interval has the real share of 90 % of the files.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri

# Number of generated inputs that the coefficients were fitted with.
ESTIMATE_INPUTS = 128
# c0, c1, c2, and the half width of the 90 % interval in probits.
COEFFICIENTS, HALF_WIDTH = (0.233, 0.750, 0.264), 0.66
_MARGINS = 2.0
# Shares nearer to 0 and 1 than this are not told apart, nor are correlations nearer to 1 than the second.
_LEAST_SHARE, _LEAST_NOISE = 0.004, 1e-3


@dataclass(frozen=True, kw_only=True)
class ExpectedAgreement:
    """The share of decisions that stay on real inputs.

    Attributes:
        share: The share, 0 to 1.
        low, high: Ends of its 90 % interval.
        inputs: Number of inputs that it rests on.
        measured: Whether these are real inputs, on which it was counted. Otherwise it is estimated from generated ones.
    """

    share: float
    low: float
    high: float
    inputs: int
    measured: bool = False

    def __str__(self) -> str:
        # Away from the middle, so that the interval does not lose what rounding would take.
        low, high = math.floor(100 * self.low), math.ceil(100 * self.high)
        if self.measured:
            return f"{100 * self.share:.1f} % on {self.inputs} given inputs (90 % interval {low} to {high} %)"
        return f"about {100 * self.share:.0f} % on real inputs (estimate, 90 % interval {low} to {high} %)"


def features(reference: np.ndarray, result: np.ndarray) -> tuple[float, float]:
    """probit(s) and c, as defined above.

    Args:
        reference, result: Scores before any softmax, (n, classes), of at least two inputs and two classes. NaN counts as 0.
    """
    a, b = (np.nan_to_num(np.asarray(scores, np.float64)) for scores in (reference, result))
    rows, first = np.arange(len(a)), a.argmax(axis=1)
    margins, left = (_lead(scores, rows, first) for scores in (a, b))
    gain = float(np.clip(margins @ left / max(margins @ margins, np.finfo(np.float64).tiny), 0, 1.2))
    noise = left - gain * margins
    stays = float(np.mean(_MARGINS * gain * margins[:, None] + noise[None, :] > 0))
    x, y = (_responses(scores) for scores in (a, b))
    energy = math.sqrt(float((x * x).sum() * (y * y).sum()))
    correlation = max(float((x * y).sum()) / energy, 0.0) if energy > 0 else 0.0
    probit = float(ndtri(np.clip(stays, _LEAST_SHARE, 1 - _LEAST_SHARE)))
    return probit, -0.5 * math.log(max(1 - correlation**2, _LEAST_NOISE))


def expected_agreement(reference: np.ndarray, result: np.ndarray) -> ExpectedAgreement:
    """The estimate from the scores of both networks on generated inputs; arguments as for `features`.

    Equal scores keep every decision, and so the estimate is 1 without an interval.
    """
    if np.array_equal(reference, result):
        return ExpectedAgreement(share=1.0, low=1.0, high=1.0, inputs=len(reference))
    probit = float(np.dot(COEFFICIENTS, (1.0, *features(reference, result))))
    share, low, high = (float(ndtr(probit + shift)) for shift in (0.0, -HALF_WIDTH, HALF_WIDTH))
    return ExpectedAgreement(share=share, low=low, high=high, inputs=len(reference))


def counted_agreement(reference: np.ndarray, result: np.ndarray) -> ExpectedAgreement:
    """The share of equal decisions on real inputs, outputs (n, classes), with its interval (Wilson 1927)."""
    n, same = len(reference), int(np.sum(reference.argmax(axis=1) == result.argmax(axis=1)))
    ends = stats.binomtest(same, n).proportion_ci(0.9, "wilson")
    return ExpectedAgreement(share=same / n, low=float(ends.low), high=float(ends.high), inputs=n, measured=True)


def _lead(scores: np.ndarray, rows: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(n,): how far the score of class `first` is above the largest other one."""
    others = scores.copy()
    others[rows, first] = -np.inf
    return scores[rows, first] - others.max(axis=1)


def _responses(scores: np.ndarray) -> np.ndarray:
    centred = scores - scores.mean(axis=1, keepdims=True)
    return centred - centred.mean(axis=0)
