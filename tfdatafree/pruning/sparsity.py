"""Chooses how many weights each layer keeps, and which, for a given sparsity of the network.

Uniform     the same part of every layer
ERK         density of layer l proportional to (sum of its kernel's sizes) / (product of its kernel's sizes), at most 1,
            so that the whole network has the given density                             (Evci et al. 2020, section 3)
ERK, LWDF   the *pruned* part proportional to that ratio                                (Horton et al. 2021, eq. 17)
Global      one threshold for the scores of all layers
Balanced    the same, each layer's scores times what a unit of them was measured to cost

Every policy meets its budget exactly: it drops round(sparsity * all weights). Layers with a fixed sparsity are taken out first
(`share_rest`); the others share the remaining weights.
"""

from collections.abc import Callable, Mapping

import numpy as np

# Smallest cost of a layer. Thus a layer that costs nothing is emptied first, but still in the order of its scores.
_LEAST_COST = 1e-12


def share_rest(sizes: Mapping[str, int], sparsity: float, fixed: Mapping[str, float]) -> tuple[dict[str, int], float]:
    """(weights that stay in each layer of `fixed`, sparsity of all other layers) for `sparsity` of the network.

    Raises:
        ValueError: The other layers would have to drop more weights than they have, or fewer than none.
    """
    counts = {key: sizes[key] - round(part * sizes[key]) for key, part in fixed.items()}
    others = sum(size for key, size in sizes.items() if key not in fixed)
    total = sum(sizes.values())
    dropped = sum(sizes[key] - count for key, count in counts.items())
    rest = round(sparsity * total) - dropped
    if others and not 0 <= rest < others:
        least, most = sparsity_limits(sizes, fixed)
        raise ValueError(
            f"sparsity is {sparsity:g} in all, but rules fix that of {len(fixed)} layers ({total - others:,} of {total:,} "
            f"weights), which leaves from {least:.3f} to below {most:.3f}; change one of them, or give every layer a rule."
        )
    return counts, rest / others if others else 0.0


def sparsity_limits(sizes: Mapping[str, int], fixed: Mapping[str, float]) -> tuple[float, float]:
    """(least sparsity of the network with the layers of `fixed`, the sparsity that it cannot reach); see `share_rest`."""
    total = max(sum(sizes.values()), 1)
    dropped = sum(round(part * sizes[key]) for key, part in fixed.items())
    others = sum(size for key, size in sizes.items() if key not in fixed)
    return dropped / total, (dropped + others) / total


def uniform(sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """Weights that stay per layer: the same part of each."""
    return _round_counts(dict.fromkeys(sizes, 1 - sparsity), sizes, sparsity)


def erk(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Weights that stay per layer by the Erdos-Renyi-Kernel rule.

    Args:
        shapes: Kernel shapes; (in, out) for dense layers, (*spatial, in, out) for convolutions.
    """
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    return _round_counts(_fill_densities(_erk_ratios(shapes), sizes, 1 - sparsity), sizes, sparsity)


def erk_lwdf(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """As `erk`, but the ratio scales the dropped part, as eq. 17 of Horton et al. 2021 is worded: small kernels lose most."""
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    dropped = _fill_densities(_erk_ratios(shapes), sizes, sparsity)
    return _round_counts({key: 1 - part for key, part in dropped.items()}, sizes, sparsity)


def _erk_ratios(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    return {key: sum(shape) / float(np.prod(shape)) for key, shape in shapes.items()}


def _fill_densities(ratios: Mapping[str, float], sizes: Mapping[str, int], part: float) -> dict[str, float]:
    """min(1, c * ratio) per layer, with c such that `part` of all weights is covered (water filling)."""
    full: set[str] = set()
    target = part * sum(sizes.values())
    while True:
        others = [key for key in sizes if key not in full]
        if not others:
            return dict.fromkeys(sizes, 1.0)
        factor = (target - sum(sizes[key] for key in full)) / sum(ratios[key] * sizes[key] for key in others)
        over = {key for key in others if factor * ratios[key] > 1}
        if not over:
            return {key: 1.0 if key in full else factor * ratios[key] for key in sizes}
        full |= over


def _round_counts(density: Mapping[str, float], sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """Whole numbers nearest to density * size with the sum that `sparsity` leaves; the largest remainders are rounded up."""
    total = sum(sizes.values())
    target = total - round(sparsity * total)
    exact = {key: float(np.clip(density[key], 0, 1)) * size for key, size in sizes.items()}
    counts = {key: int(value) for key, value in exact.items()}
    order = sorted(sizes, key=lambda key: counts[key] - exact[key])
    missing = target - sum(counts.values())
    while missing:
        step = 1 if missing > 0 else -1
        for key in order:
            if missing and 0 <= counts[key] + step <= sizes[key]:
                counts[key] += step
                missing -= step
    return counts


def largest_of_all(scores: Mapping[str, np.ndarray], sparsity: float) -> dict[str, np.ndarray]:
    """Masks of the highest scores of the network; of equal scores the first."""
    keys = list(scores)
    flat = np.concatenate([scores[key].reshape(-1) for key in keys])
    mask = _largest(flat, flat.size - round(sparsity * flat.size))
    boundaries = np.cumsum([scores[key].size for key in keys])[:-1]
    return {key: part.reshape(scores[key].shape) for key, part in zip(keys, np.split(mask, boundaries), strict=True)}


def balance(
    scores: Mapping[str, np.ndarray],
    sparsity: float,
    measure: Callable[[Mapping[str, np.ndarray]], Mapping[str, float]],
    *,
    rounds: int = 3,
) -> dict[str, float]:
    """Factors by which the scores of each layer are multiplied, so that scores of different layers cost the same.

    Inside a layer, scores are assumed to be right up to a factor f: pruning it costs f times the sum of the dropped scores.
    Each round prunes by one threshold on f * scores, measures, and moves f half the way (of logarithms) to the measured factor.
    At one threshold the next weight costs the same in every layer, so that no other split costs less.

    Args:
        measure: Masks -> layer -> cost of pruning this layer alone; costs of several layers should add up.
    """
    factors = dict.fromkeys(scores, 1.0)
    for at in range(rounds):
        masks = largest_of_all(scaled(scores, factors), sparsity)
        costs = measure(masks)
        dropped = {key: float(values[~masks[key]].sum()) for key, values in scores.items()}
        measured = {key: max(costs[key], _LEAST_COST) / total for key, total in dropped.items() if total > 0}
        if at == 0 and measured:
            # A layer that has not lost any weight yet gets the median factor.
            factors = dict.fromkeys(scores, float(np.median(list(measured.values())))) | measured
        else:
            factors |= {key: float(np.sqrt(value * factors[key])) for key, value in measured.items()}
    return factors


def scaled(scores: Mapping[str, np.ndarray], factors: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The scores of each layer times its factor."""
    return {key: factors[key] * values for key, values in scores.items()}


def largest_of_each(scores: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Masks of the `counts[key]` highest scores of each layer."""
    return {key: _largest(values.reshape(-1), counts[key]).reshape(values.shape) for key, values in scores.items()}


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask
