"""What is known of a graph's kernels before any of them is pruned: the matrices, what they read, what their outputs matter for.

Of a classifier's inputs the covariance is given the means of its classes, which generated images do not show. The more layers
there are, the fewer images each of them will be measured on alone, because every image passes once for each of them: time stays
linear in the number of layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.covariances import input_covariances
from tfdatafree.measuring.sensitivity import channel_sensitivities
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.pruning.support import with_class_means
from tfdatafree.recipe.pattern import Pattern, parse_pattern, refuse
from tfdatafree.recipe.prune import Prune

# Images that single layers are measured on, and passes of single layers in all.
_MEASURING_IMAGES, _FEWEST_IMAGES, _MEASURING_PASSES, _MEASURING_SEED = 16, 2, 640, 600_000
_SENSITIVITY_SEED = 250_000


@dataclass(frozen=True)
class Problem:
    """What the methods work on, by layer key.

    Attributes:
        teacher: The folded graph.
        matrices: Weights (rows, outputs) in the order of `linear.output_last`.
        unfolded: The same before BatchNorm was folded; as `matrices` where a layer has no such counterpart.
        shapes: Of the kernels as the layers have them.
        covariances: Of what each layer reads, (groups, inputs, inputs); not of every layer.
        sensitivities: What an error of each output channel costs the model's results, (outputs,); not of every layer.
        means: Tensor -> mean per channel on real inputs.
        fixed: Sparsity of layers that is not the methods' to choose.
        classifiers: Layers whose covariance has the means of their classes in it.
        images: Inputs of the graph on which single layers are measured.
    """

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


def pose(
    teacher: Graph,
    unfolded: Graph,
    options: Prune,
    input_range: tuple[float, float],
    means: Mapping,
    seed: int,
    fixed: Mapping[str, float] | None = None,
) -> tuple[Problem, dict[str, str]]:
    """The problem, and {layer key: why its kernel stays as it is, or is pruned with less knowledge than others}."""
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
                unfolded, teacher, results, input_range, seed=seed + _SENSITIVITY_SEED
            )
    kept |= {key: "not pruned: a rule keeps it dense" for key in matrices if fixed.get(key) == 0}
    fixed = {key: part for key, part in fixed.items() if key in matrices}
    count = int(np.clip(_MEASURING_PASSES // max(len(matrices), 1), _FEWEST_IMAGES, _MEASURING_IMAGES))
    images = make_inputs(teacher, count, input_range, seed=seed + _MEASURING_SEED)
    problem = Problem(
        teacher, options, matrices, before, shapes, found, sensitivities, means, fixed, frozenset(classifiers), images
    )
    return problem, kept


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
