"""Whether a changed network's results still serve as those of its reference, on inputs without labels.

    classes: the largest entry chooses one         share of decisions (argmax over the last axis) that stay
    other results                                  10 log10(sum (a - mean a)^2 / sum (a - b)^2), dB

The second one leaves out what all inputs have in common: a network that always gives the mean has 0 dB.

A network that always chooses the reference's most frequent class keeps that class's share of the decisions. Where this share
alone would pass, the decisions must also stay without the common part: argmax(a - mean a) against argmax(b - mean b), with the
mean of each class over all inputs. The lower share counts. A classifier has about equal means for all classes on balanced data.
Generated inputs that look like one class differ from such data by an offset per class, which the means take out.

Where a result a of normal distribution is held against its mean, and b - a is independent noise, the decisions that stay are
    share = 1 - arctan(10^(-SQNR / 20)) / pi          so that 95 % of them are 16.0 dB         (Sheppard 1899, orthants)
"""

import math
from dataclasses import dataclass

import numpy as np

from tfdatafree.numerics.metrics import agreement, sqnr_db

# Results below are unlike the reference's.
LEAST_AGREEMENT, LEAST_SQNR_DB = 0.8, 6.0
# Results from here on are kept: the share of decisions, and the SQNR with that share.
KEPT_AGREEMENT = 0.95
KEPT_SQNR_DB = -20 * math.log10(math.tan(math.pi * (1 - KEPT_AGREEMENT)))
# Responses below this part of the results are rounding errors of float32: the inputs are all the same to the network.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well one result of a changed network serves as the reference's.

    Attributes:
        agreement: Share of decisions that stay, 0 to 1; None for a result without classes.
        centred: Whether this is the share without what all inputs have in common.
        sqnr_db: Energy of the reference without its mean over that of the difference, in dB.
    """

    agreement: float | None
    centred: bool
    sqnr_db: float

    @property
    def share(self) -> float:
        """The share of decisions that stay; without classes that at a threshold, by the SQNR."""
        if self.agreement is not None:
            return self.agreement
        return 1 - math.atan(10 ** (-self.sqnr_db / 20)) / math.pi if self.sqnr_db > -math.inf else 0.5

    @property
    def fails(self) -> bool:
        """Whether the result is unlike the reference's."""
        return self.sqnr_db < LEAST_SQNR_DB if self.agreement is None else self.agreement < LEAST_AGREEMENT

    @property
    def keeps(self) -> bool:
        """Whether the result is as good as the reference's."""
        return self.sqnr_db >= KEPT_SQNR_DB if self.agreement is None else self.agreement >= KEPT_AGREEMENT


def compare(reference: np.ndarray, result: np.ndarray, *, classes: bool) -> Fidelity:
    """The fidelity of `result`. Both are arrays (n, ...) of equal shape; NaN counts as 0.

    Args:
        classes: Whether the largest entry along the last axis chooses a class.
    """
    a, b = np.asarray(reference, np.float64), np.nan_to_num(np.asarray(result, np.float64))
    others = tuple(range(a.ndim - 1)) if classes else None
    mean = a.mean(axis=others, keepdims=True)
    several = len(a) > 1
    sqnr = sqnr_db(a - mean, b - mean) if several else sqnr_db(a, b)
    if not classes:
        return Fidelity(agreement=None, centred=False, sqnr_db=sqnr)
    plain = agreement(a, b)
    most = np.bincount(a.argmax(-1).reshape(-1)).max() / a[..., 0].size
    if several and most >= LEAST_AGREEMENT and np.abs(a - mean).max() > _ROUNDING * np.abs(a).max():
        centred = agreement(a - mean, b - b.mean(axis=others, keepdims=True))
        if centred < plain:
            return Fidelity(agreement=centred, centred=True, sqnr_db=sqnr)
    return Fidelity(agreement=plain, centred=False, sqnr_db=sqnr)
