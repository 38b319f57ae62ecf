"""Cross-layer equalization: moves scale between layers, channel by channel, without changing the function.

Scales as in `scale_channels.py`, by the kernels: with r_A = max|A_c| over the rows that write channel c, r_B = max|B_c| over
the columns that read it,

    s_c = (r_B / r_A)^(power / 2)

At power 1 both maxima become sqrt(r_A r_B), which is
s = sqrt(r_A r_B) / r_A of Horton et al. 2021, eq. 4-9 (there the printed indices are swapped) and Nagel et al. 2019, eq. 11; a
smaller power leaves the activations' own ranges more alike. Rounds are repeated until the mean of all s is within 1e-3 of 1.

ReLU6 and other caps are not homogeneous: scaling a channel moves its cap. Unless told how to go about it (`caps.py`), such
groups are left alone, and say so.
"""

from dataclasses import dataclass, field

import keras
import numpy as np

from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.preconditioning.assumption_free import (
    LARGEST_SCALE,
    TOLERANCE,
    Buffers,
    equalize_assumption_free,
    insert_buffers,
    remove_buffers,
)
from tfdatafree.preconditioning.caps import CAP_PROBABILITY, Caps, apply_scales, batchnorm_moments, find_caps
from tfdatafree.preconditioning.scale_channels import Group, find_groups, scale_group, scale_unfolded

_MOST_ROUNDS = 50


@dataclass(frozen=True)
class Equalized:
    """Result of `equalize`: the model, how far the scales went, and what could not be equalized.

    Attributes:
        rounds: Rounds until the mean of the scales was within TOLERANCE of 1.
        scales: Group (named after its first producing layer) -> (channels,) product of its scales.
        kept: Layer -> why its outputs were left alone.
        buffers: With `assumption_free`, layer -> (v_i, v_o): what its inputs and its outputs are multiplied by.
    """

    model: keras.Model
    rounds: int
    scales: dict[str, np.ndarray]
    kept: dict[str, str]
    buffers: Buffers = field(default_factory=dict)

    def folded(self) -> keras.Model:
        """`model`, with the weights that it holds now, with its buffers multiplied into kernels and biases."""
        return remove_buffers(Graph.from_keras(self.model), self.buffers).to_keras()


def equalize(
    model: keras.Model,
    *,
    power: float = 1.0,
    caps: str = "keep",
    cap_probability: float = CAP_PROBABILITY,
    assumption_free: bool = False,
) -> Equalized:
    """A model with the same outputs whose kernels are equalized across layers (BatchNorm folded first).

    Args:
        model: A Functional or Sequential model; it is not changed.
        power: Part of the way to equal maxima, 0 < power <= 1.
        caps: What becomes of ReLU6 and other caps: "keep" does not equalize across them; "channel" gives each channel a
            cap of its own (exact; the model then holds `ChannelCap` layers); "limit" keeps scales so small, and "drop"
            takes the caps out only where, BatchNorm statistics say, they are next to never reached. With these two the
            outputs are only nearly the same: compare them.
        cap_probability: With "limit" and "drop", what next to never means, per channel and value.
        assumption_free: Equalize across any activation, with buffers that keep every layer's output: the kernels can be
            pruned or rounded as they stand in the model, and `Equalized.folded` then takes the buffers out.
    """
    unfolded = separate(Graph.from_keras(model))
    graph, _ = fold(unfolded)
    if assumption_free:
        if power != 1 or caps != "keep":
            raise ValueError(
                f"power is {power}, caps is {caps!r}; assumption_free equalization goes the whole way and keeps every "
                'activation, leave power at 1 and caps at "keep".'
            )
        graph, buffers, rounds, kept = equalize_assumption_free(graph)
        return Equalized(insert_buffers(graph, buffers).to_keras(), rounds, {}, kept, buffers)
    crossed = find_caps(graph, caps, batchnorm_moments(unfolded), cap_probability)
    graph, rounds, scales, kept = equalize_graph(graph, power=power, caps=caps, crossed=crossed)
    return Equalized(graph.to_keras(), rounds, scales, kept)


def equalize_graph(
    graph: Graph, *, power: float = 1.0, caps: str = "keep", crossed: Caps | None = None
) -> tuple[Graph, int, dict[str, np.ndarray], dict[str, str]]:
    """`equalize` on a folded, separated graph: (graph, rounds, scales, kept).

    Args:
        crossed: What `find_caps` says of the graph's caps; None leaves all of them alone.
    """
    if not 0 < power <= 1:
        raise ValueError(f"power is {power}; choose a number above 0 and at most 1.")
    groups, kept = find_groups(graph, crossed)
    graph = graph.copy()
    scales: dict[str, np.ndarray] = {}
    # A part of the way per round would, over the rounds, become the whole way: partial equalization is one round.
    rounds = 0
    for rounds in range(1, (_MOST_ROUNDS if power == 1 else 1) + 1):
        means = []
        for group in groups:
            name = group.producers[0].name
            before = scales.get(name, 1.0)
            after = before * _scale(graph, group, power)
            for cap in group.caps:
                after = np.clip(after, *crossed.bounds[cap.name])
            scales[name] = after
            scale_group(graph, group, after / before)
            means.append((after / before).mean())
        if not means or abs(np.mean(means) - 1) < TOLERANCE:
            break
    for group in groups:
        for cap in group.caps:
            apply_scales(graph, cap, caps, scales[group.producers[0].name])
    return graph, rounds, scales, kept


def _row_maxima(graph: Graph, node: Node) -> np.ndarray:
    layer = graph.layer_of(node)
    return np.abs(output_last(kernel_of(layer), layout_of(layer))).max(axis=0).astype(np.float64)


def _column_maxima(graph: Graph, node: Node) -> np.ndarray:
    layer = graph.layer_of(node)
    kernel, kind = np.abs(kernel_of(layer)).astype(np.float64), layout_of(layer).kind
    axis = kernel.ndim - 1 if kind == "transpose" else kernel.ndim - 2
    return kernel.max(axis=tuple(other for other in range(kernel.ndim) if other != axis))


def _scale(graph: Graph, group: Group, power: float) -> np.ndarray:
    written = np.max([_row_maxima(graph, node) for node in group.producers], axis=0)
    read = np.max([_column_maxima(graph, node) for node in group.consumers], axis=0)
    # A channel without weights on one side has nothing to equalize.
    alive = (written > 0) & (read > 0)
    ratio = np.where(alive, read, 1.0) / np.where(alive, written, 1.0)
    scale = np.power(ratio, power / 2)
    return np.where((scale > 1 / LARGEST_SCALE) & (scale < LARGEST_SCALE), scale, 1.0)


def equalize_unfolded(
    unfolded: Graph, *, power: float = 1.0, caps: str = "keep"
) -> tuple[Graph, dict[str, np.ndarray], dict[str, str]]:
    """Equalizes a graph that still has its BatchNorms: (the same function, scales, {layer: why it was left alone}).

    The scales are those of the folded graph.
    """
    folded, _ = fold(unfolded)
    crossed = find_caps(folded, caps, batchnorm_moments(unfolded))
    _, _, scales, kept = equalize_graph(folded, power=power, caps=caps, crossed=crossed)
    groups, _ = find_groups(folded, crossed)
    graph, done, apart = scale_unfolded(unfolded, groups, scales)
    for group in done:
        for cap in group.caps:
            apply_scales(graph, graph.node(cap.name), caps, scales[group.producers[0].name])
    return graph, {group.producers[0].name: scales[group.producers[0].name] for group in done}, kept | apart
