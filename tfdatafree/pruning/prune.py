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
from collections.abc import Mapping

import numpy as np

from tfdatafree.activity import report_layer
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.model.network import Network, Pruning
from tfdatafree.pruning.judge import Judge
from tfdatafree.pruning.methods import METHODS, measure_prices
from tfdatafree.pruning.problem import Problem, pose
from tfdatafree.pruning.repair import build_pruned, refit_weights, restore_variances
from tfdatafree.pruning.sparsity import sparsity_limits
from tfdatafree.recipe.prune import Prune

# Images that candidates are judged on. Covariances come from other images.
_JUDGING_IMAGES, _JUDGING_SEED = 32, 500_000
_CANDIDATES = ("obs", "energy", "global", "global_unfolded", "uniform", "erk")
_CANDIDATES_IN_PATTERNS = ("obs", "energy")


class Pruner:
    """Prunes a network, to one or to several sparsities. What does not depend on the sparsity is measured once.

    Args:
        means: Tensor -> mean per channel on real inputs, for the bias correction.
    """

    def __init__(self, network: Network, options: Prune, *, means: Mapping[str, np.ndarray], seed: int = 0):
        self._network, self._options = network, options
        self._problem = pose(network, options, means=means, seed=seed)
        candidates = _CANDIDATES if options.pattern is None else _CANDIDATES_IN_PATTERNS
        self._names = candidates if options.method == "auto" else (options.method,)
        self._prices: dict[str, dict[str, float] | None] = {}
        self._taken = ""
        self._judge: Judge | None = None
        if len(self._names) > 1 and self._problem.matrices:
            images = make_inputs(network.reference, _JUDGING_IMAGES, network.input_ranges, seed=seed + _JUDGING_SEED)
            self._judge = Judge(network.reference, images)

    @property
    def limits(self) -> tuple[float, float]:
        """The least sparsity that rules for single layers allow, and one that they do not allow any more."""
        return sparsity_limits(self._problem.sizes, self._problem.fixed)

    def __call__(self, sparsity: float | None, *, roughly: bool = False) -> Network:
        """The network with zeros in the kernels of `current`, and with its masks and the record of pruning.

        Args:
            sparsity: None where the options have a strength.
            roughly: Only by the method that the last call took, with the prices of weights that this call measured; by "obs" in
                place of "str", which takes longer for the same loss.

        Raises:
            ValueError: Rules fix the sparsity of single layers so that the others cannot meet that of the network.
        """
        if not self._problem.matrices:
            return self._network.logged(reasons=self._problem.reasons)
        options = dataclasses.replace(self._options, sparsity=sparsity)
        problem = dataclasses.replace(self._problem, options=options)
        names: tuple[str, ...] = (self._taken,) if roughly and self._taken else self._names
        if roughly:
            names = tuple("obs" if name == "str" else name for name in names)
        discrepancies: dict[str, float] = {}
        best: tuple[str, Graph, dict[str, str]] | None = None
        for name in names:
            report_layer(f"by {name}")  # no part: the first two methods take most of the time
            graph, reasons = self._pruned(problem, name, known=roughly)
            if self._judge is not None and len(names) > 1:
                discrepancies[name] = self._judge.discrepancy(graph)
            if best is None or discrepancies[name] < discrepancies[best[0]]:
                best = name, graph, reasons
        assert best is not None, "there is at least one method"
        self._taken, graph, uncorrected = best
        masks = {
            key: output_last(kernel_of(graph.layers[key]), layout_of(graph.layers[key])) != 0 for key in problem.sizes
        }
        reasons = {key: f"bias not corrected after pruning: {why}" for key, why in uncorrected.items() if key in masks}
        record = dataclasses.replace(_record(self._taken, masks, discrepancies), asked=sparsity)
        pruned = dataclasses.replace(self._network, current=graph, masks=masks, pruning=record)
        return pruned.logged(reasons=problem.reasons | reasons)

    def _pruned(self, problem: Problem, name: str, *, known: bool) -> tuple[Graph, dict[str, str]]:
        """(the graph pruned by one method, layer -> why its bias was not corrected)."""
        if not (known and name in self._prices):
            self._prices[name] = measure_prices(problem, name)
        weights = METHODS[name](dataclasses.replace(problem, prices=self._prices[name]))
        if _refits(problem.options, name):
            weights = refit_weights(problem, {key: values != 0 for key, values in weights.items()})
        return build_pruned(problem, restore_variances(problem, weights) if problem.options.restore else weights)


def prune(network: Network, options: Prune, *, means: Mapping[str, np.ndarray], seed: int = 0) -> Network:
    """`network` pruned as `options` say, with a known sparsity or a strength; see `Pruner`."""
    sparsity = options.zeros if options.strength is None else None
    return Pruner(network, options, means=means, seed=seed)(sparsity)


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
