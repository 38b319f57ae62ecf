"""Handles capped activations (ReLU6 and the like) when the channels that pass through them are scaled.

f(x) = min(h(x), m) with h(s x) = s h(x) for s > 0. A scale s_c per channel moves the cap with it:

    s f(x) = min(h(s x), s m)

There are four modes. y_c ~ N(mean_c, sd_c^2) are the values before the cap, by BatchNorm statistics.

"keep"     Nothing is scaled across the cap.
"limit"    The cap stays m. s_c is limited such that P(s_c y_c > m) <= p; it is 1 where P(y_c > m) > p already.
"drop"     The cap is taken out where P(y_c > m) <= p for every channel of its tensor; elsewhere nothing is scaled.
"channel"  One cap s_c m per channel (`ChannelCap`).

so that "keep" and "channel" leave the function exactly as it was. "limit" and "drop" do so as far as activations are normal.
Their tails are often heavier, so measure the difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from scipy import stats

from tfdatafree.model.batchnorm import is_batchnorm, on_channels, output_moments
from tfdatafree.model.cap_layer import ChannelCap
from tfdatafree.model.graph import Graph
from tfdatafree.model.layer import weightless
from tfdatafree.model.node import Node, Ref
from tfdatafree.model.operations import RELU, cap_of, rectifier_of
from tfdatafree.recipe.recipe import CAPS

# p: a cap that a channel exceeds with at most this probability, by BatchNorm statistics, counts as not reached.
CAP_PROBABILITY = 1e-6

Moments = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Caps:
    """The capped activations of a graph that channels may be scaled across, and those that they may not.

    Attributes:
        bounds: Node -> (smallest, largest) scale of each channel, each of shape (channels,).
        reasons: Node -> why channels may not be scaled across it.
    """

    bounds: dict[str, tuple[np.ndarray, np.ndarray]]
    reasons: dict[str, str]


def batchnorm_moments(unfolded: Graph) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor that a BatchNorm writes -> (mean, standard deviation) of its channels on training data."""
    return {
        node.output: output_moments(unfolded.layer_of(node))
        for node in unfolded.nodes
        if is_batchnorm(unfolded.layer_of(node)) and on_channels(unfolded, node)
    }


def find_caps(graph: Graph, mode: str, moments: Moments, probability: float = CAP_PROBABILITY) -> Caps:
    """The caps of a separated graph across which channels may be scaled in this mode.

    Args:
        mode: "keep", "limit", "channel" or "drop".
        moments: Tensor -> (mean, sd) of its channels, as `batchnorm_moments` gives them.
        probability: p of the module's docstring.
    """
    if mode not in CAPS:
        raise ValueError(f"caps is {mode!r}; choose one of {', '.join(map(repr, CAPS))}.")
    if not 0 < probability < 0.5:
        raise ValueError(f"cap_probability is {probability}; choose a number between 0 and 0.5.")
    bounds, reasons = {}, {}
    for node in graph.nodes if mode != "keep" else ():
        cap = cap_of(graph.operation_of(node))
        channels = graph.specs[node.output].shape[-1]
        if cap is None or not channels:
            continue
        if mode == "channel":
            bounds[node.name] = np.zeros(channels), np.full(channels, np.inf)
        elif node.inputs[0] not in moments:
            reasons[node.name] = f"how often '{node.name}' reaches its cap is not known: no BatchNorm writes its input"
        else:
            mean, sd = moments[node.inputs[0]]
            reach = mean + stats.norm.isf(probability) * sd
            capped = reach > cap
            if mode == "limit":
                most = np.where(reach > 0, cap / np.maximum(reach, 1e-30), np.inf)
                bounds[node.name] = np.where(capped, 1.0, 0.0), np.where(capped, 1.0, most)
            elif capped.any():
                reasons[node.name] = (
                    f"{capped.sum()} of {channels} channels of '{node.name}' reach its cap with a probability above "
                    f"{probability:g}"
                )
            else:
                bounds[node.name] = np.zeros(channels), np.full(channels, np.inf)
    return Caps(bounds, reasons)


def apply_scales(graph: Graph, node: Node, mode: str, scale: np.ndarray) -> None:
    """Adapts the capped activation `node` of `graph` to its scaled channels, in place."""
    if mode == "limit":
        return
    operation, cap = graph.operation_of(node), cap_of(graph.operation_of(node))
    slope = (rectifier_of(operation) or RELU).slope
    key = graph.fresh_name(f"{node.name}_uncapped")
    graph.layers[key] = weightless(keras.layers.ReLU, negative_slope=float(slope), name=key)
    if mode == "drop":
        graph.replace(node, Node(node.name, key, (Ref(node.inputs[0]),), {}, node.outputs))
        return
    capped = graph.fresh_name(f"{node.name}_cap")
    graph.layers[capped] = weightless(ChannelCap, caps=cap * scale, name=capped)
    graph.specs[key] = graph.specs[node.output]
    graph.replace(
        node,
        Node(key, key, (Ref(node.inputs[0]),), {}, (key,)),
        Node(node.name, capped, (Ref(key),), {}, node.outputs),
    )
