"""Zeros in the kernels of a folded graph, without data: candidates are built, corrected, and judged without labels.

    what is known (problem.py) -> masks and weights (methods.py) -> variances and biases (repair.py)

Every method is a way to choose masks and a way to choose weights on them:

    method           which weights stay                                              their values
    obs              counts by measured harm, supports by ADMM per layer, with each  least squares
                     output weighted by what it matters for the model's results
    energy           one threshold on w^2 var(x) / output variance of the layer      their own
    global           one threshold on |w|, folded                                    their own
    global_unfolded  one threshold on |w|, before folding                            their own
    uniform, erk     the largest |w| of each layer                                   their own
    str              counts by measured harm (or as strength decides), trained       least squares (or
                     thresholds                                                      trained)
    budget           as many as "str" per layer, the largest |w|                     their own
    auto             of "obs" and the methods that train nothing (but "erk_lwdf") the one whose outputs differ least from the
                     float network's on images that it was not made with (Sobolev et al., FRanDI, eq. 3)

"auto" is there for networks on which what "obs" measures misleads it: magnitudes know nothing of inputs, and cost little to
try. "str" is not among its candidates: it solves the layers that "obs" solves, for the same loss, by steps instead of by
factorization, so that where one is misled the other is, too; and it takes longer than all others together. "budget" takes as
long and keeps the untrained weights. Under a pattern only "obs" and "energy" are tried: the policies per layer have no use there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.numerics.metrics import output_discrepancy
from tfdatafree.pruning.methods import METHODS
from tfdatafree.pruning.problem import pose
from tfdatafree.pruning.repair import refitted, restored, student
from tfdatafree.recipe.prune import Prune

# Images that candidates are judged on; none of them is among those that covariances come from.
_JUDGING_IMAGES, _JUDGING_SEED = 32, 500_000
_CANDIDATES = ("obs", "energy", "global", "global_unfolded", "uniform", "erk")
_CANDIDATES_IN_PATTERNS = ("obs", "energy")


@dataclass(frozen=True)
class Pruned:
    """A pruned graph.

    Attributes:
        graph: The student; equal to the teacher but for kernels and biases.
        masks: Layer key -> which weights stay, bool (rows, outputs) in the order of `linear.output_last`.
        method: The method taken, "obs" for example where "auto" was asked for.
        kept: Layer key -> why its kernel or its bias was left alone.
        discrepancies: Candidate -> Output Discrepancy on generated images; empty where there was only one.
    """

    graph: Graph
    masks: dict[str, np.ndarray]
    method: str
    kept: dict[str, str]
    discrepancies: dict[str, float]

    @property
    def sparsity(self) -> float:
        """Part of the weights of all pruned kernels that is zero."""
        total = sum(mask.size for mask in self.masks.values())
        return 1 - sum(int(np.count_nonzero(mask)) for mask in self.masks.values()) / total if total else 0.0

    @property
    def by_layer(self) -> dict[str, float]:
        return {key: 1 - int(np.count_nonzero(mask)) / mask.size for key, mask in self.masks.items()}


def prune(
    teacher: Graph,
    unfolded: Graph,
    options: Prune,
    *,
    input_range: tuple[float, float],
    means: Mapping[str, np.ndarray],
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
) -> Pruned:
    """Prunes the convolution and dense kernels of `teacher`.

    Args:
        teacher: The folded graph.
        unfolded: The separated graph with its BatchNorms; tensors of equal name hold equal values.
        input_range: (low, high) of the model's inputs.
        means: Tensor -> mean per channel on real inputs, for the bias correction.
        fixed: Layer key -> sparsity of its kernel, whatever the method would choose; depthwise ones included.

    Raises:
        ValueError: With the `fixed` ones the other layers cannot meet the sparsity of them all.
    """
    problem, kept = pose(teacher, unfolded, options, input_range, means, seed, fixed)
    if not problem.matrices:
        return Pruned(teacher, {}, options.method, kept, {})
    several = _CANDIDATES if options.pattern is None else _CANDIDATES_IN_PATTERNS
    names = several if options.method == "auto" else (options.method,)
    judge = None
    if len(names) > 1:
        judge = _Judge(teacher, make_inputs(teacher, _JUDGING_IMAGES, input_range, seed=seed + _JUDGING_SEED))
    discrepancies: dict[str, float] = {}
    best: tuple[str, Graph, dict[str, str]] | None = None
    for at, name in enumerate(names):
        report_layer(f"by {name}", at / len(names))
        weights = METHODS[name](problem)
        if _repairs(options, name):
            weights = refitted(problem, {key: values != 0 for key, values in weights.items()})
        graph, reasons = student(problem, restored(problem, weights) if options.restore else weights)
        if judge is not None:
            discrepancies[name] = judge(graph)
        if best is None or discrepancies[name] < discrepancies[best[0]]:
            best = name, graph, reasons
    taken, graph, uncorrected = best
    masks = {key: output_last(kernel_of(graph.layers[key]), layout_of(graph.layers[key])) != 0 for key in problem.sizes}
    kept |= {key: f"bias not corrected after pruning: {reason}" for key, reason in uncorrected.items() if key in masks}
    return Pruned(graph, masks, taken, kept, discrepancies)


def _repairs(options: Prune, method: str) -> bool:
    """Whether least squares find the values of the weights that `method` keeps; a strength stands for the paper's own rule."""
    if options.refit is not None:
        return options.refit
    return method == "obs" or (method == "str" and options.strength is None)


class _Judge:
    """Output Discrepancy of a student's results, before softmax and the like, on given images; of several results the sum."""

    def __init__(self, teacher: Graph, images: Sequence[np.ndarray]):
        self.images = images
        self.reference = self.results(teacher)

    def __call__(self, graph: Graph) -> float:
        pairs = zip(self.results(graph), self.reference, strict=True)
        return sum(output_discrepancy(np.nan_to_num(found), wanted) for found, wanted in pairs)

    def results(self, graph: Graph) -> list[np.ndarray]:
        results = graph.up_to(decision_tensors(graph) or graph.outputs)
        return results.run_in_batches(self.images, graph.batch_size())
