"""How many weights of each layer a network keeps, and which, given what it may keep in all.

Uniform     the same part of every layer
ERK         density of layer l proportional to (sum of its kernel's sizes) / (product of its kernel's sizes), at most 1,
            so that the whole network has the density asked for                         (Evci et al. 2020, section 3)
ERK, LWDF   the *pruned* part proportional to that ratio                                (Horton et al. 2021, eq. 17)
Global      one threshold for the scores of all layers
Balanced    the same, each layer's scores times what a unit of them was measured to cost

Every policy meets its budget exactly: round(sparsity * all weights) of them are dropped. Layers whose sparsity is fixed are
taken out first (`share_rest`), and the others share what is left.
"""

from collections.abc import Callable, Mapping

import numpy as np

# A cost below this is taken for it, so that a layer that costs nothing is emptied first, but by its scores.
_LEAST_COST = 1e-12


def share_rest(sizes: Mapping[str, int], sparsity: float, fixed: Mapping[str, float]) -> tuple[dict[str, int], float]:
    """(weights kept of each layer in `fixed`, sparsity of the other layers together) for `sparsity` of them all.

    Raises:
        ValueError: The others would have to give up more weights than they have, or win some.
    """
    kept = {key: sizes[key] - round(part * sizes[key]) for key, part in fixed.items()}
    others = sum(size for key, size in sizes.items() if key not in fixed)
    total = sum(sizes.values())
    dropped = sum(sizes[key] - count for key, count in kept.items())
    rest = round(sparsity * total) - dropped
    if others and not 0 <= rest < others:
        least, most = dropped / total, (dropped + others) / total
        raise ValueError(
            f"sparsity is {sparsity:g} in all, but rules fix that of {len(fixed)} layers ({total - others:,} of {total:,} "
            f"weights), which leaves from {least:.3f} to below {most:.3f}; change one of them, or give every layer a rule."
        )
    return kept, rest / others if others else 0.0


def uniform(sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """Weights kept per layer: the same part of each."""
    return _whole(dict.fromkeys(sizes, 1 - sparsity), sizes, sparsity)


def erk(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Weights kept per layer by the Erdos-Renyi-Kernel rule.

    Args:
        shapes: Kernel shapes; (in, out) for dense layers, (*spatial, in, out) for convolutions.
    """
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    return _whole(_water_filled(_erk_ratios(shapes), sizes, 1 - sparsity), sizes, sparsity)


def erk_lwdf(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """As `erk`, but the ratio scales what is dropped, as eq. 17 of Horton et al. 2021 is worded: small kernels lose most."""
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    dropped = _water_filled(_erk_ratios(shapes), sizes, sparsity)
    return _whole({key: 1 - part for key, part in dropped.items()}, sizes, sparsity)


def _erk_ratios(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    return {key: sum(shape) / float(np.prod(shape)) for key, shape in shapes.items()}


def _water_filled(ratios: Mapping[str, float], sizes: Mapping[str, int], part: float) -> dict[str, float]:
    """min(1, c * ratio) per layer, with the c for which `part` of all weights is covered."""
    full: set[str] = set()
    wanted = part * sum(sizes.values())
    while True:
        others = [key for key in sizes if key not in full]
        if not others:
            return dict.fromkeys(sizes, 1.0)
        factor = (wanted - sum(sizes[key] for key in full)) / sum(ratios[key] * sizes[key] for key in others)
        over = {key for key in others if factor * ratios[key] > 1}
        if not over:
            return {key: 1.0 if key in full else factor * ratios[key] for key in sizes}
        full |= over


def _whole(density: Mapping[str, float], sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """Whole numbers nearest to density * size whose sum is what `sparsity` leaves; largest remainders go up."""
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
    """Masks (True: kept) of the highest scores of the network; of equal ones the first."""
    keys = list(scores)
    flat = np.concatenate([scores[key].reshape(-1) for key in keys])
    kept = _largest(flat, flat.size - round(sparsity * flat.size))
    ends = np.cumsum([scores[key].size for key in keys])[:-1]
    return {key: part.reshape(scores[key].shape) for key, part in zip(keys, np.split(kept, ends), strict=True)}


def balanced(
    scores: Mapping[str, np.ndarray],
    sparsity: float,
    measure: Callable[[Mapping[str, np.ndarray]], Mapping[str, float]],
    *,
    rounds: int = 3,
) -> dict[str, np.ndarray]:
    """Masks (True: kept) of the highest scores of the network, once the scores of different layers cost alike.

    Scores are thought to be right inside a layer but for a factor f: pruning it costs f times the sum of the scores that are
    dropped. Each round prunes by one threshold on f * scores, measures, and moves f half the way (of logarithms) to what
    was found. At one threshold the next weight costs every layer the same, so that no other split costs less.

    Args:
        measure: Masks -> layer -> cost of pruning this layer alone; costs of several layers should add up.
    """
    factors = dict.fromkeys(scores, 1.0)
    for at in range(rounds):
        masks = largest_of_all({key: factors[key] * values for key, values in scores.items()}, sparsity)
        costs = measure(masks)
        dropped = {key: float(values[~masks[key]].sum()) for key, values in scores.items()}
        found = {key: max(costs[key], _LEAST_COST) / total for key, total in dropped.items() if total > 0}
        if at == 0 and found:
            # A layer of which nothing was dropped yet is taken for an ordinary one.
            factors = dict.fromkeys(scores, float(np.median(list(found.values())))) | found
        else:
            factors |= {key: float(np.sqrt(value * factors[key])) for key, value in found.items()}
    return largest_of_all({key: factors[key] * values for key, values in scores.items()}, sparsity)


def largest_of_each(scores: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Masks (True: kept) of the `counts[key]` highest scores of each layer."""
    return {key: _largest(values.reshape(-1), counts[key]).reshape(values.shape) for key, values in scores.items()}


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask
