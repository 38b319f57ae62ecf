"""Cross-layer equalization: moves scale between layers, channel by channel, without changing the function.

The kernels determine the scales of `scale_channels.py`. r_A = max|A_c| over the rows that write channel c, and
r_B = max|B_c| over the columns that read it:

    s_c = (r_B / r_A)^(power / 2)

so that at power 1 both maxima become sqrt(r_A r_B). That is s = sqrt(r_A r_B) / r_A of Nagel et al. 2019, eq. 11. It is also in
Horton et al. 2021, eq. 4-9 (the indices printed there are swapped). A smaller power changes the ranges of activations less.
Rounds are repeated until the mean of all s is within 1e-3 of 1.

ReLU6 and other caps are not homogeneous: when a channel is scaled, its cap would have to be scaled, too. `caps.py` says what can
be done about it. By default, groups with caps are left alone, with a reason.
"""

import dataclasses
from dataclasses import dataclass, field

import keras
import numpy as np

from tfdatafree.canonical.assumption_free import (
    LARGEST_SCALE,
    TOLERANCE,
    Buffers,
    equalize_assumption_free,
    insert_buffers,
    remove_buffers,
)
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.kernels import kernel_of, layout_of, output_last
from tfdatafree.model.rewrite import Rewrite
from tfdatafree.preconditioning.caps import CAP_PROBABILITY, Caps, apply_scales, batchnorm_moments, find_caps
from tfdatafree.preconditioning.scale_channels import Group, find_groups, scale_caps, scale_group, scale_unfolded

_MOST_ROUNDS = 50


@dataclass(frozen=True)
class Equalized:
    """Result of `equalize`.

    Attributes:
        rounds: Rounds until the mean of the scales was within TOLERANCE of 1.
        scales: First layer of those that write the same channels -> what these were multiplied by, (channels,).
        kept: Layer -> why its outputs were left alone.
        buffers: With `assumption_free`, layer -> (v_i, v_o): what its inputs and its outputs are multiplied by.
    """

    model: keras.Model
    rounds: int
    scales: dict[str, np.ndarray]
    kept: dict[str, str]
    buffers: Buffers = field(default_factory=dict)

    def folded(self) -> keras.Model:
        """`model` with the weights that it holds now, its buffers multiplied into kernels and biases."""
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
        caps: What becomes of ReLU6 and other caps.
            "keep": layers with a cap between them are not equalized.
            "channel": each channel gets a cap of its own. Exact; the model then holds `ChannelCap` layers.
            "limit": scales stay so small that, by BatchNorm statistics, channels hardly ever reach their cap.
            "drop": caps that, by BatchNorm statistics, are hardly ever reached are taken out.
            With the last two the outputs are only nearly the same: compare them.
        cap_probability: For "limit" and "drop": the largest probability, per channel and value, of reaching a cap.
        assumption_free: Equalize across any activation, with buffers that keep every layer's output. The kernels can be
            pruned or rounded as they stand in the model; `Equalized.folded` then takes the buffers out.
    """
    unfolded = separate(Graph.from_keras(model)).graph
    graph = fold(unfolded).graph
    if assumption_free:
        if power != 1 or caps != "keep":
            raise ValueError(
                f"power is {power}, caps is {caps!r}; assumption_free equalization goes the whole way and keeps every "
                'activation, leave power at 1 and caps at "keep".'
            )
        free = equalize_assumption_free(graph)
        explicit = insert_buffers(free.graph, free.buffers).to_keras()
        return Equalized(explicit, free.rounds, {}, dict(free.kept), free.buffers)
    crossed = find_caps(graph, caps, batchnorm_moments(unfolded), cap_probability)
    equalized = equalize_graph(graph, power=power, caps=caps, crossed=crossed)
    return Equalized(equalized.graph.to_keras(), equalized.rounds, dict(equalized.scales), dict(equalized.kept))


@dataclass(frozen=True, kw_only=True)
class EqualizedGraph(Rewrite):
    """Result of `equalize_graph`; `rounds` as in `Equalized`."""

    rounds: int


def equalize_graph(
    graph: Graph, *, power: float = 1.0, caps: str = "keep", crossed: Caps | None = None
) -> EqualizedGraph:
    """`equalize` on a folded, separated graph.

    Args:
        crossed: What `find_caps` says of the caps of the graph; None leaves all of them alone.
    """
    if not 0 < power <= 1:
        raise ValueError(f"power is {power}; choose a number above 0 and at most 1.")
    groups, reasons = find_groups(graph, crossed)
    bounds = {} if crossed is None else crossed.bounds
    graph = graph.copy()
    scales: dict[str, np.ndarray] = {}
    # With a smaller power there is one round only: many rounds, each going a part of the way, would go all the way.
    rounds = 0
    for rounds in range(1, (_MOST_ROUNDS if power == 1 else 1) + 1):
        means = []
        for group in groups:
            before = scales.get(group.name, 1.0)
            after = before * _scale(graph, group, power)
            for cap in group.caps:
                after = np.clip(after, *bounds[cap.name])
            scales[group.name] = after
            scale_group(graph, group, after / before)
            means.append((after / before).mean())
        if not means or abs(np.mean(means) - 1) < TOLERANCE:
            break
    for group in groups:
        for cap in group.caps:
            apply_scales(graph, cap, caps, scales[group.name])
    return EqualizedGraph(graph=graph, kept=reasons, scales=scales, rounds=rounds)


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


def equalize_unfolded(unfolded: Graph, *, power: float = 1.0, caps: str = "keep") -> Rewrite:
    """Equalizes a separated graph that still has its BatchNorms, with the scales of the folded graph."""
    folded = fold(unfolded).graph
    crossed = find_caps(folded, caps, batchnorm_moments(unfolded))
    equalized = equalize_graph(folded, power=power, caps=caps, crossed=crossed)
    groups, _ = find_groups(folded, crossed)
    scaled = scale_unfolded(unfolded, groups, equalized.scales)
    scale_caps(scaled, groups, caps)
    inexact = (f"equalize_caps={caps!r}",) if caps in ("limit", "drop") else ()
    return dataclasses.replace(scaled, kept={**equalized.kept, **scaled.kept}, inexact=inexact)
