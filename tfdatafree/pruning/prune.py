"""Puts zeros into the kernels of a folded graph, without data: builds candidates, corrects them, and judges them without labels.

    the problem (problem.py) -> masks and weights (methods.py) -> variances and biases (repair.py)

Every method chooses masks, and weights on these masks:

    method           which weights stay                                              their values
    obs              counts by measured damage, supports by ADMM per layer, with     least squares
                     each output weighted by how much the model's results need it
    energy           one threshold on w^2 var(x) / output variance of the layer      their own
    global           one threshold on |w|, folded                                    their own
    global_unfolded  one threshold on |w|, before folding                            their own
    uniform, erk     the largest |w| of each layer                                   their own
    str              counts by measured damage (or as strength decides), trained     least squares (or
                     thresholds                                                      trained)
    budget           as many as "str" per layer, the largest |w|                     their own
    auto             of "obs" and the methods without training (except "erk_lwdf"), the one whose outputs differ least from
                     the float network's, on images that no candidate was made with (Sobolev et al., FRanDI, eq. 3)

"auto" is for networks where the measurements mislead "obs". Magnitudes do not depend on inputs, and are cheap to try. "str" is
not a candidate: it solves the same layers as "obs" for the same loss, by steps instead of a factorization. Where one is misled,
the other is, too, and "str" takes longer than all candidates together. "budget" takes as long and keeps the untrained weights.
With a pattern, only "obs" and "energy" are candidates: the policies per layer are of no use there.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.model.network import Network, Pruning
from tfdatafree.numerics.metrics import output_discrepancy
from tfdatafree.pruning.methods import METHODS
from tfdatafree.pruning.problem import pose
from tfdatafree.pruning.repair import build_pruned, refit_weights, restore_variances
from tfdatafree.recipe.prune import Prune

# Images that candidates are judged on. Covariances come from other images.
_JUDGING_IMAGES, _JUDGING_SEED = 32, 500_000
_CANDIDATES = ("obs", "energy", "global", "global_unfolded", "uniform", "erk")
_CANDIDATES_IN_PATTERNS = ("obs", "energy")


def prune(network: Network, options: Prune, *, means: Mapping[str, np.ndarray], seed: int = 0) -> Network:
    """`network` with zeros in the convolution and dense kernels of `current`, and with its masks and the record of pruning.

    Args:
        means: Tensor -> mean per channel on real inputs, for the bias correction.

    Raises:
        ValueError: Rules fix the sparsity of single layers so that the others cannot meet the sparsity of the network.
    """
    problem = pose(network, options, means=means, seed=seed)
    if not problem.matrices:
        return network.logged(reasons=problem.reasons)
    candidates = _CANDIDATES if options.pattern is None else _CANDIDATES_IN_PATTERNS
    names = candidates if options.method == "auto" else (options.method,)
    judge = None
    if len(names) > 1:
        reference, ranges = network.reference, network.input_ranges
        judge = _Judge(reference, make_inputs(reference, _JUDGING_IMAGES, ranges, seed=seed + _JUDGING_SEED))
    discrepancies: dict[str, float] = {}
    best: tuple[str, Graph, dict[str, str]] | None = None
    for at, name in enumerate(names):
        report_layer(f"by {name}", at / len(names))
        weights = METHODS[name](problem)
        if _refits(options, name):
            weights = refit_weights(problem, {key: values != 0 for key, values in weights.items()})
        graph, reasons = build_pruned(problem, restore_variances(problem, weights) if options.restore else weights)
        if judge is not None:
            discrepancies[name] = judge(graph)
        if best is None or discrepancies[name] < discrepancies[best[0]]:
            best = name, graph, reasons
    assert best is not None, "there is at least one method"
    method, graph, uncorrected = best
    masks = {key: output_last(kernel_of(graph.layers[key]), layout_of(graph.layers[key])) != 0 for key in problem.sizes}
    reasons = {key: f"bias not corrected after pruning: {why}" for key, why in uncorrected.items() if key in masks}
    pruned = dataclasses.replace(network, current=graph, masks=masks, pruning=_record(method, masks, discrepancies))
    return pruned.logged(reasons=problem.reasons | reasons)


def _record(method: str, masks: Mapping[str, np.ndarray], discrepancies: Mapping[str, float]) -> Pruning:
    counts = {key: int(np.count_nonzero(mask)) for key, mask in masks.items()}
    total = sum(mask.size for mask in masks.values())
    return Pruning(
        method=method,
        sparsity=1 - sum(counts.values()) / total if total else 0.0,
        layers={key: 1 - counts[key] / mask.size for key, mask in masks.items()},
        discrepancies=discrepancies,
    )


def _refits(options: Prune, method: str) -> bool:
    """Whether the weights that `method` keeps get new values by least squares. With a strength, the paper's own rule holds."""
    if options.refit is not None:
        return options.refit
    return method == "obs" or (method == "str" and options.strength is None)


class _Judge:
    """Output Discrepancy of a pruned graph's decision tensors on the same images; the sum over several of them."""

    def __init__(self, reference: Graph, images: Sequence[np.ndarray]):
        self.images = images
        self.reference = self.results(reference)

    def __call__(self, graph: Graph) -> float:
        pairs = zip(self.results(graph), self.reference, strict=True)
        return sum(output_discrepancy(np.nan_to_num(pruned), reference) for pruned, reference in pairs)

    def results(self, graph: Graph) -> list[np.ndarray]:
        shortened = graph.up_to(decision_tensors(graph) or graph.outputs)
        return shortened.run_in_batches(self.images, graph.batch_size())
