"""Generated inputs that are matched to the statistics of all BatchNorms, where those that fit the first do not fit the others.

The matching is that of `generate_images`, on few inputs and in few steps.
"""

import dataclasses

import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.inputs.generate import input_specs
from tfdatafree.inputs.make import make_inputs
from tfdatafree.inputs.matching import Matcher, Matching
from tfdatafree.inputs.mismatch import measure_mismatch
from tfdatafree.model.cost import multiplications
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange, Mismatch
from tfdatafree.recipe.recipe import Effort

# Inputs that miss statistics by this many nats on average are unlike real ones. Real inputs miss them by up to 1.
MISSED = 2.0
# Inputs within this many nats fit as well as most real ones do.
_FITS = 0.5
_LEARNING_RATE = 0.03
# Each step passes all inputs forward and back, which takes three times the multiplications of a pass.
_PASSES = 3
# Multiplications of a matching that was not asked for: half a minute on two cores.
_MOST_MULTIPLICATIONS = 2**38


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How inputs are matched.

    Attributes:
        images, steps, whole_set: As in `generate_images`.
        mixed: Put an unmatched input after each matched one. Matched ones are less varied than real ones.
    """

    images: int
    steps: int
    whole_set: bool
    mixed: bool


_PLANS = {
    "auto": _Plan(images=16, steps=30, whole_set=False, mixed=False),
    "best": _Plan(images=64, steps=100, whole_set=True, mixed=True),
}


def needs_matching(mismatch: Mismatch, effort: Effort) -> bool:
    """Whether inputs with this mismatch are to be matched."""
    return mismatch.mean > {"fast": np.inf, "auto": MISSED, "best": _FITS}[effort]


def match_inputs(
    graph: Graph,
    ranges: tuple[InputRange, ...],
    before: Mismatch,
    effort: Effort,
    *,
    seed: int,
) -> tuple[tuple[InputRange, ...], Mismatch]:
    """`ranges` with matched inputs, and their mismatch. Both are as before where matching is too dear or does not help.

    Args:
        graph: The unfolded, separated graph.
        before: The mismatch of the inputs that are generated in `ranges`.
        effort: "auto" or "best".
    """
    plan = _PLANS[effort]
    affordable = _MOST_MULTIPLICATIONS // (_PASSES * plan.images * plan.steps)
    if effort == "auto" and multiplications(graph) > affordable:
        return ranges, before
    try:
        specs = input_specs(graph, None)
    except UnsupportedModelError:
        return ranges, before
    begin = make_inputs(graph, plan.images, ranges, seed=seed)
    matcher = Matcher(
        graph,
        Matching(steps=plan.steps, learning_rate=_LEARNING_RATE, whole_set=plan.whole_set),
        shapes=[spec.example_shape for spec in specs],
        ranges=[range_.ends for range_ in ranges],
        seed=seed,
    )
    state = matcher.start(begin, matcher.batch_size(plan.images))
    for loss, _ in matcher.advance(state):
        report_layer(f"loss {loss:.2f}", state.done / state.loss.size)
    matched = [array.reshape(-1, *array.shape[2:])[: plan.images] for array in state.images]
    rounded = [np.rint(x) if "int" in spec.dtype else x for x, spec in zip(matched, specs, strict=True)]
    if plan.mixed:
        rounded = [np.stack([x, y], axis=1).reshape(-1, *x.shape[1:]) for x, y in zip(rounded, begin, strict=True)]
    after = measure_mismatch(graph, rounded)
    if after is None or after.mean > before.mean:
        return ranges, before
    return tuple(dataclasses.replace(range_, values=x) for range_, x in zip(ranges, rounded, strict=True)), after
