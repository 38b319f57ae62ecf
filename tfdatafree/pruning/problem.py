"""Poses the problem of pruning: the kernels as matrices, the covariances of what they read, and what their outputs matter for.

The covariance of a classifier's inputs gets the means of its classes added, which generated images do not show. Every image
passes once for each layer that is measured alone. So the more layers there are, the fewer images are used: time stays linear in
the number of layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.inputs.make import drawing, make_inputs
from tfdatafree.measuring.covariances import input_covariances
from tfdatafree.measuring.sensitivity import channel_sensitivities
from tfdatafree.measuring.walks import Draw
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of, output_last
from tfdatafree.model.network import Network
from tfdatafree.pruning.support import with_class_means
from tfdatafree.recipe.pattern import Pattern, parse_pattern, refuse
from tfdatafree.recipe.prune import Prune

# Most and fewest images on which single layers are measured, and passes for all layers together.
_MEASURING_IMAGES, _FEWEST_IMAGES, _MEASURING_PASSES, _MEASURING_SEED = 16, 2, 640, 600_000
_SENSITIVITY_SEED = 250_000


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What pruning methods work on, by layer key.

    Attributes:
        reference: The folded float graph.
        matrices: Weights (rows, outputs) in the order of `model.kernels.output_last`.
        unfolded: The same before BatchNorm was folded; as in `matrices` where a layer has no such counterpart.
        covariances: Covariance of what the layer reads, (groups, inputs, inputs); not for every layer.
        sensitivities: What an error of each output channel costs the model's results, (outputs,); not for every layer.
        means: Tensor -> mean per channel on real inputs.
        fixed: Sparsity, for layers where a rule decides it.
        classifiers: Layers whose covariance has the means of their classes added.
        images: Inputs of the graph on which single layers are measured.
        reasons: Why a kernel stays as it is, or is pruned without a covariance.
        prices: What a unit of a layer's scores costs the results, from `methods.measure_prices`; None: the same in all layers.
    """

    reference: Graph
    options: Prune
    matrices: dict[str, np.ndarray]
    unfolded: dict[str, np.ndarray]
    covariances: dict[str, np.ndarray]
    sensitivities: dict[str, np.ndarray]
    means: Mapping[str, np.ndarray]
    fixed: dict[str, float]
    classifiers: frozenset[str]
    images: list[np.ndarray]
    reasons: dict[str, str]
    prices: Mapping[str, float] | None = None

    @property
    def pattern(self) -> Pattern | None:
        return None if self.options.pattern is None else parse_pattern(self.options.pattern)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the kernels in Keras."""
        return {key: kernel_of(self.reference.layers[key]).shape for key in self.matrices}

    @property
    def sizes(self) -> dict[str, int]:
        return {key: matrix.size for key, matrix in self.matrices.items()}


def pose(network: Network, options: Prune, *, means: Mapping[str, np.ndarray], seed: int) -> Problem:
    """The problem for those kernels of `network.reference` that `options` can prune.

    Args:
        means: Tensor -> mean per channel on real inputs, for the bias correction.
    """
    fixed = network.rules.setting("sparsity")
    matrices, reasons = _select_kernels(network.reference, options, fixed)
    covariances = _measure_covariances(network, options, seed) if matrices and _needs_covariances(options) else {}
    results = decision_tensors(network.reference)
    classifiers = set()
    if options.inputs == "normalized":
        for key in _classifiers(network.reference, results) & covariances.keys() & matrices.keys():
            if covariances[key].shape[:2] == (1, len(matrices[key])):
                covariances[key] = with_class_means(covariances[key], matrices[key])
                classifiers.add(key)
    for key in matrices:
        if _needs_covariances(options) and key not in covariances:
            reasons[key] = "pruned by magnitude: the covariance of its input is too large or not known"
    sensitivities: dict[str, np.ndarray] = {}
    if options.method in ("auto", "obs") and options.inputs == "normalized" and matrices:
        results = results or list(network.reference.outputs)
        if set(results) <= network.unfolded.specs.keys():
            sensitivities = channel_sensitivities(
                network.unfolded, network.reference, results, _draw(network), seed=seed + _SENSITIVITY_SEED
            )
    reasons |= {key: "not pruned: a rule keeps it dense" for key in matrices if fixed.get(key) == 0}
    count = int(np.clip(_MEASURING_PASSES // max(len(matrices), 1), _FEWEST_IMAGES, _MEASURING_IMAGES))
    return Problem(
        reference=network.reference,
        options=options,
        matrices=matrices,
        unfolded=_before_folding(network.unfolded, network.reference, matrices),
        covariances={key: values for key, values in covariances.items() if key in matrices},
        sensitivities=sensitivities,
        means=means,
        fixed={key: part for key, part in fixed.items() if key in matrices},
        classifiers=frozenset(classifiers),
        images=make_inputs(network.reference, count, network.input_ranges, seed=seed + _MEASURING_SEED),
        reasons=reasons,
    )


def _needs_covariances(options: Prune) -> bool:
    """Whether the method uses the covariances of what layers read."""
    by_covariance = options.method in ("auto", "obs", "str", "budget", "energy")
    return bool(by_covariance or options.refit or options.restore)


def _select_kernels(
    graph: Graph, options: Prune, fixed: Mapping[str, float]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(kernels that can be pruned, as matrices; layer -> why its kernel cannot)."""
    matrices, reasons = {}, {}
    for key in graph.first_calls():
        layer = graph.layers[key]
        layout = find_layout(layer)
        if layout is None:
            continue
        if fixed.get(key) == 0 and options.pattern is not None:
            reasons[key] = "not pruned: a rule keeps it dense"
        elif layout.kind == "depthwise" and not options.depthwise and key not in fixed:
            reasons[key] = "not pruned: depthwise kernels stay dense"
        elif (reason := _refuse(layer, options)) is not None:
            reasons[key] = f"not pruned: {reason}"
        else:
            matrices[key] = output_last(kernel_of(layer), layout)
    return matrices, reasons


def _before_folding(unfolded: Graph, folded: Graph, matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The matrices before BatchNorm was folded; unchanged where a layer has no such counterpart."""
    former_matrices = {}
    for key, matrix in matrices.items():
        former, layer = unfolded.layers.get(key), folded.layers[key]
        layout, shape = layout_of(layer), kernel_of(layer).shape
        former_matrices[key] = matrix
        if former is not None and find_layout(former) == layout and kernel_of(former).shape == shape:
            former_matrices[key] = output_last(kernel_of(former), layout)
    return former_matrices


def _draw(network: Network) -> Draw:
    return drawing(network.unfolded, network.input_ranges)


def _measure_covariances(network: Network, options: Prune, seed: int) -> dict[str, np.ndarray]:
    return input_covariances(
        network.unfolded,
        network.reference,
        _draw(network),
        inputs=options.inputs,
        activations=options.activations,
        images=options.images,
        seed=seed,
    )


def _refuse(layer: Layer, options: Prune) -> str | None:
    """Why the pattern does not fit the layer's kernel; None if it does, or if there is no pattern."""
    if options.pattern is None:
        return None
    shape, kind = kernel_of(layer).shape, layout_of(layer).kind
    inputs, outputs = (shape[-1], shape[-2]) if kind == "transpose" else shape[-2:]
    if kind == "depthwise":
        inputs, outputs = 1, inputs * outputs
    return refuse(parse_pattern(options.pattern), inputs, outputs // getattr(layer.operation, "groups", 1))


def _classifiers(graph: Graph, results: Sequence[str]) -> set[str]:
    """Layers with a kernel that write one of `results`, in more than two channels."""
    producers = graph.producers()
    writers = {
        producers[tensor].layer for tensor in results if tensor in producers and graph.specs[tensor].size(-1) > 2
    }
    return {key for key in writers if find_layout(graph.layers[key])}
