"""Zeros in the kernels of a folded graph, without data: candidates are built, corrected, and judged without labels.

    scores -> masks (policies/sparsity.py) -> weights (optimizers/second_order.py, soft_threshold.py) -> biases

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
    auto             of the candidates the one whose outputs differ least from the float network's on images that it was
                     not made with (Sobolev et al., FRanDI, eq. 3)

Measured harm: energies of different layers do not compare, because layers differ in what the results make of their errors. So
each layer is pruned alone, as one threshold on the energies has it, and the results are looked at on generated images; where a
unit of energy cost more than elsewhere, the layer's energies count for more; and again (`policies/sparsity.py`, `balanced`).
A classifier is measured by the covariance of its inputs, which knows of the classes that generated images do not show. (Layers
that are thought to see independent samples are not measured: what the paper's inputs and its ablations are worth stays clear.)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.at_work import report_layer
from tfdatafree.generators.images import batch_size, make_inputs
from tfdatafree.generators.layer_damages import single_layer_damages
from tfdatafree.generators.moments import input_covariances
from tfdatafree.generators.sensitivity import channel_sensitivities
from tfdatafree.graph import Graph, Layer
from tfdatafree.linear import from_output_last, kernel_of, layout_of, output_last, with_kernel
from tfdatafree.numerics.metrics import output_discrepancy
from tfdatafree.optimizers.headroom import decision_tensors
from tfdatafree.optimizers.patterns import Pattern, mask_of, parse_pattern, refuse
from tfdatafree.optimizers.rounding import correct_biases
from tfdatafree.optimizers.second_order import (
    DAMPING,
    choose_support,
    damped,
    energy_scores,
    output_change,
    output_variance,
    refit,
    with_class_means,
)
from tfdatafree.optimizers.soft_threshold import train_to_count, train_with_strength
from tfdatafree.policies.sparsity import balanced, erk, erk_lwdf, largest_of_all, largest_of_each, share_rest, uniform
from tfdatafree.recipe import Prune

# Images that candidates are judged on; none of them is among those that covariances come from.
_JUDGING_IMAGES, _JUDGING_SEED = 32, 500_000
# Images that single layers are measured on, others again; fewer where there are many layers, because each image passes once
# for each of them: time stays linear in the number of layers.
_MEASURING_IMAGES, _FEWEST_IMAGES, _MEASURING_PASSES, _MEASURING_SEED = 16, 2, 640, 600_000
# The most that restoring its variance scales a channel by.
_MOST_RESTORED = 2.0
_CANDIDATES = ("obs", "energy", "global_unfolded", "erk")
_CANDIDATES_IN_PATTERNS = ("obs", "energy")
# How far the sensitivity of outputs is trusted (1: it is what an error costs; 0: all outputs are alike), and the least that
# an output counts, in parts of the mean of its layer.
_SENSITIVITY, _LEAST_SENSITIVITY = 0.5, 1e-3


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


@dataclass(frozen=True)
class _Problem:
    """What the methods work on, by layer key."""

    teacher: Graph
    options: Prune
    matrices: dict[str, np.ndarray]
    unfolded: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    covariances: dict[str, np.ndarray]
    sensitivities: dict[str, np.ndarray]
    means: Mapping[str, np.ndarray]
    fixed: dict[str, float]
    classifiers: frozenset[str]
    images: list[np.ndarray]

    @property
    def pattern(self) -> Pattern | None:
        return None if self.options.pattern is None else parse_pattern(self.options.pattern)

    @property
    def sizes(self) -> dict[str, int]:
        return {key: matrix.size for key, matrix in self.matrices.items()}


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
    problem, kept = _problem(teacher, unfolded, options, input_range, means, seed, fixed)
    if not problem.matrices:
        return Pruned(teacher, {}, options.method, kept, {})
    several = _CANDIDATES if options.pattern is None else _CANDIDATES_IN_PATTERNS
    names = several if options.method == "auto" else (options.method,)
    candidates = {}
    for at, name in enumerate(names):
        report_layer(f"by {name}", at / len(names))
        weights = _METHODS[name](problem)
        masks = {key: values != 0 for key, values in weights.items()}
        if _repairs(options, name):
            weights = _refitted(problem, masks)
        candidates[name] = _student(problem, _restored(problem, weights) if options.restore else weights)
    discrepancies = {}
    if len(candidates) > 1:
        images = make_inputs(teacher, _JUDGING_IMAGES, input_range, seed=seed + _JUDGING_SEED)
        reference = _decisions(teacher, images)
        discrepancies = {
            name: sum(
                output_discrepancy(np.nan_to_num(found), wanted)
                for found, wanted in zip(_decisions(graph, images), reference, strict=True)
            )
            for name, (graph, _) in candidates.items()
        }
        taken = min(discrepancies, key=discrepancies.get)
    else:
        taken = next(iter(candidates))
    graph, uncorrected = candidates[taken]
    masks = {key: output_last(kernel_of(graph.layers[key]), layout_of(graph.layers[key])) != 0 for key in problem.sizes}
    kept |= {key: f"bias not corrected after pruning: {reason}" for key, reason in uncorrected.items() if key in masks}
    return Pruned(graph, masks, taken, kept, discrepancies)


def _problem(
    teacher: Graph,
    unfolded: Graph,
    options: Prune,
    input_range: tuple[float, float],
    means: Mapping,
    seed: int,
    fixed: Mapping[str, float] | None = None,
) -> tuple[_Problem, dict[str, str]]:
    keys = {node.layer: None for node in teacher.nodes if layout_of(teacher.layer_of(node))}
    fixed = fixed or {}
    kept, matrices, shapes, before = {}, {}, {}, {}
    for key in keys:
        layer = teacher.layers[key]
        layout = layout_of(layer)
        if fixed.get(key) == 0 and options.pattern is not None:
            kept[key] = "not pruned: a rule keeps it dense"
            continue
        if layout.kind == "depthwise" and not options.depthwise and key not in fixed:
            kept[key] = "not pruned: depthwise kernels stay dense"
            continue
        kernel = kernel_of(layer)
        refused = _refuse(layer, options)
        if refused is not None:
            kept[key] = f"not pruned: {refused}"
            continue
        matrices[key], shapes[key] = output_last(kernel, layout), kernel.shape
        former = unfolded.layers.get(key)
        same = former is not None and layout_of(former) == layout and kernel_of(former).shape == kernel.shape
        before[key] = output_last(kernel_of(former), layout) if same else matrices[key]
    needs_inputs = options.method in ("auto", "obs", "str", "budget", "energy") or options.refit or options.restore
    covariances: dict[str, np.ndarray] = {}
    if needs_inputs and matrices:
        covariances = input_covariances(
            unfolded,
            teacher,
            input_range,
            inputs=options.inputs,
            activations=options.activations,
            images=options.images,
            seed=seed,
        )
    results, classifiers = decision_tensors(teacher), set()
    if options.inputs == "normalized":
        for key in _classifiers(teacher, results) & covariances.keys() & matrices.keys():
            if covariances[key].shape[:2] == (1, len(matrices[key])):
                covariances[key] = with_class_means(covariances[key], matrices[key])
                classifiers.add(key)
    for key in matrices:
        if needs_inputs and key not in covariances:
            kept[key] = "pruned by magnitude: the covariance of its input is too large or not known"
    found = {key: values for key, values in covariances.items() if key in matrices}
    sensitivities: dict[str, np.ndarray] = {}
    if options.method in ("auto", "obs") and options.inputs == "normalized" and matrices:
        results = results or list(teacher.outputs)
        if set(results) <= unfolded.specs.keys():
            sensitivities = channel_sensitivities(
                unfolded, teacher, results, input_range, seed=seed + _JUDGING_SEED // 2
            )
    kept |= {key: "not pruned: a rule keeps it dense" for key in matrices if fixed.get(key) == 0}
    fixed = {key: part for key, part in fixed.items() if key in matrices}
    count = int(np.clip(_MEASURING_PASSES // max(len(matrices), 1), _FEWEST_IMAGES, _MEASURING_IMAGES))
    images = make_inputs(teacher, count, input_range, seed=seed + _MEASURING_SEED)
    problem = _Problem(
        teacher, options, matrices, before, shapes, found, sensitivities, means, fixed, frozenset(classifiers), images
    )
    return problem, kept


def _repairs(options: Prune, method: str) -> bool:
    """Whether least squares find the values of the weights that `method` keeps; a strength stands for the paper's own rule."""
    if options.refit is not None:
        return options.refit
    return method == "obs" or (method == "str" and options.strength is None)


def _refuse(layer: Layer, options: Prune) -> str | None:
    """Why the pattern asked for does not fit the layer's kernel; None if it does, or if none was asked for."""
    if options.pattern is None:
        return None
    shape, kind = kernel_of(layer).shape, layout_of(layer).kind
    inputs, outputs = (shape[-1], shape[-2]) if kind == "transpose" else shape[-2:]
    if kind == "depthwise":
        inputs, outputs = 1, inputs * outputs
    return refuse(parse_pattern(options.pattern), inputs, outputs // getattr(layer.operation, "groups", 1))


def _classifiers(graph: Graph, results: Sequence[str]) -> set[str]:
    """Layers with a kernel that write one of `results`, before softmax, in more than two channels."""
    producers = graph.producers()
    found = {producers[tensor].layer for tensor in results if tensor in producers and graph.specs[tensor].shape[-1] > 2}
    return {key for key in found if layout_of(graph.layers[key])}


# Methods: a problem -> the weights of each layer, zeros where they were dropped -----------------------------------------


def _energy(problem: _Problem) -> dict[str, np.ndarray]:
    return _masked(problem, _highest(problem, _energy_scores(problem)))


def _global(problem: _Problem) -> dict[str, np.ndarray]:
    return _masked(problem, _highest(problem, _magnitudes(problem.matrices)))


def _global_unfolded(problem: _Problem) -> dict[str, np.ndarray]:
    return _masked(problem, _highest(problem, _magnitudes(problem.unfolded)))


def _uniform(problem: _Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _shared_out(problem, problem.sizes, uniform))


def _erk(problem: _Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _shared_out(problem, problem.shapes, erk))


def _erk_lwdf(problem: _Problem) -> dict[str, np.ndarray]:
    return _largest(problem, _shared_out(problem, problem.shapes, erk_lwdf))


def _obs(problem: _Problem) -> dict[str, np.ndarray]:
    weighted = dataclasses.replace(problem, matrices={key: _weighted(problem, key) for key in problem.matrices})
    counts = _balanced_counts(problem, _energy_scores(weighted, DAMPING))
    by_magnitude = _largest_masks(problem, _magnitudes(weighted.matrices), counts)
    masks = {
        key: choose_support(matrix, problem.covariances[key], counts[key], pattern=problem.pattern)
        if key in problem.covariances
        else by_magnitude[key]
        for key, matrix in weighted.matrices.items()
    }
    return _masked(problem, masks)


def _weighted(problem: _Problem, key: str) -> np.ndarray:
    """The layer's weights with each output scaled by its sensitivity to the power _SENSITIVITY / 2: errors count by it."""
    sensitivity = problem.sensitivities.get(key)
    if sensitivity is None or not sensitivity.any():
        return problem.matrices[key]
    sensitivity = sensitivity / sensitivity.mean()
    return problem.matrices[key] * ((sensitivity + _LEAST_SENSITIVITY) ** (_SENSITIVITY / 2)).astype(np.float32)


def _str(problem: _Problem) -> dict[str, np.ndarray]:
    options, found = problem.options, {}
    counts = {key: problem.sizes[key] - round(part * problem.sizes[key]) for key, part in problem.fixed.items()}
    if options.strength is None:
        counts = _balanced_counts(problem, _energy_scores(problem, DAMPING))
    for key, matrix in problem.matrices.items():
        covariance = problem.covariances.get(key)
        if covariance is None:
            found[key] = matrix
        elif key not in counts:
            found[key] = train_with_strength(matrix, covariance, options.strength)
        else:
            found[key] = train_to_count(matrix, covariance, counts[key])
    return found


def _budget(problem: _Problem) -> dict[str, np.ndarray]:
    return _largest(problem, {key: int(np.count_nonzero(values)) for key, values in _str(problem).items()})


_METHODS = {
    "obs": _obs,
    "str": _str,
    "energy": _energy,
    "global": _global,
    "global_unfolded": _global_unfolded,
    "uniform": _uniform,
    "erk": _erk,
    "erk_lwdf": _erk_lwdf,
    "budget": _budget,
}


def _energy_scores(problem: _Problem, damping: float = 0.0) -> dict[str, np.ndarray]:
    """`second_order.energy_scores`; inputs of equal variance where nothing is known of them."""
    scores = {}
    for key, matrix in problem.matrices.items():
        if key in problem.covariances:
            scores[key] = energy_scores(matrix, damped(problem.covariances[key], damping))
        else:
            squares = np.square(matrix.astype(np.float64))
            scores[key] = squares / max(squares.sum(), 1e-30)
    return scores


def _highest(problem: _Problem, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks of the highest scores of the network, those of each layer as the pattern lets them lie."""
    masks = _highest_of_all(problem, scores)
    return masks if problem.pattern is None else _largest_masks(problem, scores, _counts(masks))


def _balanced_counts(problem: _Problem, scores: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Weights kept per layer such that the next weight costs the results about alike in every layer, as measured alone."""
    counts, sparsity = share_rest(problem.sizes, problem.options.sparsity, problem.fixed)
    free = {key: values for key, values in scores.items() if key not in counts}
    decided = problem.pattern is not None and problem.pattern.sparsity is not None
    if len(free) < 2 or decided or problem.options.inputs != "normalized":
        return _counts(_highest_of_all(problem, scores))
    some = dataclasses.replace(problem, matrices={key: problem.matrices[key] for key in free})
    return counts | _counts(balanced(free, sparsity, functools.partial(_harm, some)))


def _harm(problem: _Problem, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Layer key -> relative squared change of the model's results when this layer alone is pruned and repaired."""
    weights = _restored(problem, _refitted(problem, masks))
    student, _ = _student(problem, weights)
    others = [key for key in weights if key not in problem.classifiers]
    found = single_layer_damages(problem.teacher, student, others, problem.images)
    for key in problem.classifiers & weights.keys():
        found[key] = output_change(problem.matrices[key], weights[key], problem.covariances[key])
    return found


def _highest_of_all(problem: _Problem, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks by one threshold for the scores of all layers whose sparsity is not fixed, and of each other layer's highest."""
    counts, sparsity = share_rest(problem.sizes, problem.options.sparsity, problem.fixed)
    free = {key: values for key, values in scores.items() if key not in counts}
    masks = largest_of_all(free, sparsity) if free else {}
    masks |= largest_of_each({key: scores[key] for key in counts}, counts)
    return {key: masks[key] for key in scores}


def _shared_out(
    problem: _Problem, known: Mapping, policy: Callable[[Mapping, float], dict[str, int]]
) -> dict[str, int]:
    """Weights kept per layer: what is fixed, and the policy's among the others, of which it gets what is `known`."""
    counts, sparsity = share_rest(problem.sizes, problem.options.sparsity, problem.fixed)
    free = {key: value for key, value in known.items() if key not in counts}
    return counts | (policy(free, sparsity) if free else {})


def _largest_masks(
    problem: _Problem, scores: Mapping[str, np.ndarray], counts: Mapping[str, int]
) -> dict[str, np.ndarray]:
    pattern = problem.pattern
    if pattern is None:
        return largest_of_each(scores, counts)
    return {key: mask_of(values, pattern, counts[key]) for key, values in scores.items()}


def _magnitudes(matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.abs(matrix) for key, matrix in matrices.items()}


def _counts(masks: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {key: int(np.count_nonzero(mask)) for key, mask in masks.items()}


def _masked(problem: _Problem, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: matrix * masks[key] for key, matrix in problem.matrices.items()}


def _largest(problem: _Problem, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    return _masked(problem, largest_of_each(_magnitudes(problem.matrices), counts))


# After pruning ----------------------------------------------------------------------------------------------------------


def _refitted(problem: _Problem, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        key: refit(matrix, masks[key], problem.covariances[key])
        if key in problem.covariances and not masks[key].all()
        else matrix * masks[key]
        for key, matrix in problem.matrices.items()
    }


def _restored(problem: _Problem, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`weights` with each output channel scaled such that its variance is again that of the float layer."""
    found = {}
    for key, values in weights.items():
        found[key] = values
        if key not in problem.covariances:
            continue
        wanted = output_variance(problem.matrices[key], problem.covariances[key])
        present = output_variance(values, problem.covariances[key])
        ratio = np.sqrt(wanted / np.where(present > 0, present, 1))
        gain = np.where(present > 0, np.clip(ratio, 1 / _MOST_RESTORED, _MOST_RESTORED), 1)
        found[key] = (values * gain).astype(values.dtype)
    return found


def _student(problem: _Problem, weights: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, str]]:
    """The teacher with these kernels and, if asked for, corrected biases; and why which bias was not."""
    graph = problem.teacher.copy()
    for key, values in weights.items():
        layer = graph.layers[key]
        graph.layers[key] = with_kernel(layer, from_output_last(values, problem.shapes[key], layout_of(layer)))
    if not problem.options.correct:
        return graph, {}
    return correct_biases(graph, problem.teacher, problem.means)


def _decisions(graph: Graph, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The graph's results before softmax and the like, one array (n, ...) each."""
    shortened = dataclasses.replace(graph.copy(), outputs=decision_tensors(graph) or list(graph.outputs))
    shortened.drop_unread()
    step = batch_size(graph)
    parts = [shortened.predict([array[at : at + step] for array in images]) for at in range(0, len(images[0]), step)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
