"""Scales channels with outlying weights across ReLU6 and other caps, for kernels that have one step each.

Generated inputs pass once, with every BatchNorm's statistics restored, and show what layers read. Then each pair of layers with a
capped activation between them gets the scales of `outlier_scales.py`, one pair after another. Caps stay where they are, so that
no operator is added. The float function changes where a scaled channel now reaches its cap; the scales weigh this change
against rounding.
"""

import math
from collections.abc import Sequence

import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.measuring.importance import channel_importance
from tfdatafree.measuring.patches import tap_covariances
from tfdatafree.measuring.walks import normalized_walk
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.model.operations import cap_of
from tfdatafree.model.rewrite import Rewrite
from tfdatafree.preconditioning.caps import Caps
from tfdatafree.preconditioning.outlier_scales import Side, outlier_scales
from tfdatafree.preconditioning.scale_channels import Group, find_groups, scale_group, scale_unfolded

# How many values of each channel, before its cap, are sampled.
_ROWS = 2048


def scale_outlier_channels(unfolded: Graph, inputs: Sequence[np.ndarray], *, bits: int = 8, seed: int = 0) -> Rewrite:
    """The graph with outlier channels scaled. The keys of `notes`, `kept` and `scales` are the layers that write them.

    Args:
        unfolded: A separated graph with its BatchNorms.
        inputs: Generated inputs, one array per graph input; one batch of them is used.
        bits: Bits of the weights.
    """
    folded = fold(unfolded).graph
    groups, reasons = _pairs(folded)
    wanted = {group.caps[0].inputs[0] for group in groups}
    random = np.random.default_rng(seed)
    covariances: dict[str, np.ndarray] = {}
    variances, values = {}, {}
    for tensor, array in tap_covariances(normalized_walk(unfolded, inputs), unfolded, covariances, seed=seed):
        rows = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array[:, None]
        variances[tensor] = rows.var(axis=0, dtype=np.float64)
        if tensor in wanted:
            values[tensor] = rows[random.integers(len(rows), size=min(_ROWS, len(rows)))]
    importance = channel_importance(folded, variances)

    def side(node: Node) -> Side:
        layer = folded.layer_of(node)
        layout = layout_of(layer)
        matrix = output_last(kernel_of(layer), layout).astype(np.float64)
        weights = importance.get(node.output, np.ones(matrix.shape[1]))
        return Side(matrix, covariances[node.layer], weights, layout.kind == "depthwise")

    scales, done = {}, []
    for group in groups:
        writer, cap, reader = group.producers[0], group.caps[0], group.consumers[0]
        seen = {writer.layer, reader.layer} <= covariances.keys() and cap.inputs[0] in values
        if not seen or cap.output not in importance:
            reasons[writer.name] = (
                "inputs of it or of its reader were not seen, or no later layer tells what errors cost"
            )
            continue
        limit = cap_of(folded.operation_of(cap))
        assert limit is not None, "the groups have caps"
        scale = outlier_scales(
            side(writer),
            side(reader),
            values[cap.inputs[0]],
            limit,
            importance[cap.output],
            bits=bits,
        )
        scale_group(folded, group, scale)  # the reader may be the next pair's writer
        scales[writer.name] = scale
        done.append(group)
    scaled = scale_unfolded(unfolded, done, scales)
    moved = {name: scale for name, scale in scaled.scales.items() if (scale != 1).any()}
    said = "channel(s) with outlying weights scaled across the cap"
    return Rewrite(
        graph=scaled.graph,
        kept={**reasons, **scaled.kept},
        notes={name: f"{np.count_nonzero(scale != 1)} {said}" for name, scale in moved.items()},
        scales=moved,
        inexact=("scale_outliers=True",) if moved else (),
    )


def _pairs(folded: Graph) -> tuple[list[Group], dict[str, str]]:
    """Groups of one writer, one cap and one reader, in execution order, and {writer of another group: why it is left out}."""
    free = {
        node.name: (np.zeros(()), np.full((), np.inf))
        for node in folded.nodes
        if cap_of(folded.operation_of(node)) is not None and folded.specs[node.output].shape[-1]
    }
    groups, _ = find_groups(folded, Caps(free, {}))
    pairs, reasons = [], {}
    for group in groups:
        if not group.caps:
            continue
        reason = None
        if len(group.caps) > 1 or len(group.producers) > 1 or len(group.consumers) > 1:
            reason = "several layers share the channels"
        elif _pixels(folded, group.consumers[0].inputs[0]) == 1 != _pixels(folded, group.caps[0].output):
            # After a global pooling single large values decide, and generated inputs do not show them.
            reason = "its channels are pooled before they are read"
        if reason is None:
            pairs.append(group)
        else:
            reasons.update((node.name, reason) for node in group.producers)
    order = {node.name: at for at, node in enumerate(folded.nodes)}
    return sorted(pairs, key=lambda group: order[group.caps[0].name]), reasons


def _pixels(graph: Graph, tensor: str) -> int | None:
    """Values per channel of one example; None if that depends on the input size."""
    sizes = graph.specs[tensor].shape[1:-1]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None
