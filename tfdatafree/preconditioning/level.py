"""Activations made easier to round: channels of a tensor brought nearer to one another's reach, exactly undone behind.

A tensor has one step, and the channel that reaches farthest decides it: what is right for that one is coarse for a channel that
reaches a tenth as far. Where scale moves freely between layers (`scale_channels.py`), with r_c the reach max|x_c| of a channel,

    s_c = sqrt(max_k r_k / r_c)

at most 10. Reaches are seen on generated inputs, and on real ones a channel may go farther: somewhere between r_c, which
s_c = max r / r_c would stake everything on, and max r, which s_c = 1 leaves room for. This goes half the way between the two,
by their logarithms: a channel may reach sqrt(max r / r_c) times as far as seen before it decides the step.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.preconditioning.scale_channels import Group, find_groups, scale_group, scale_unfolded

# Channels that reach less than this part of the farthest are taken to reach so far, or not at all.
_LEAST, _NOTHING = 1e-2, 1e-4


def level_channels(
    unfolded: Graph, folded: Sequence[Graph], reaches: Mapping[str, np.ndarray]
) -> tuple[Graph, list[Graph], dict[str, np.ndarray]]:
    """Graphs with the same functions whose channels reach alike, as far as scale may move: (unfolded, folded, scales).

    Args:
        unfolded: A separated graph with its BatchNorms.
        folded: The same without, any number of them, each with kernels of its own (pruned ones, say).
        reaches: Tensor -> largest absolute value per channel, (channels,), for the tensors of the folded graphs.

    Returns:
        The scales are those of the groups of `scale_channels.py` that were scaled, by the name of a group's first producer.
    """
    groups = [group for group in find_groups(folded[0])[0] if _tensors(group) <= reaches.keys()]
    scales = {group.producers[0].name: _scale(group, reaches) for group in groups}
    unfolded, done, _ = scale_unfolded(unfolded, groups, scales)
    copies = [graph.copy() for graph in folded]
    for graph in copies:
        for group in done:
            scale_group(graph, group, scales[group.producers[0].name])
    return unfolded, copies, {group.producers[0].name: scales[group.producers[0].name] for group in done}


def _tensors(group: Group) -> set[str]:
    return {node.output for node in group.producers} | {node.inputs[0] for node in group.consumers}


def _scale(group: Group, reaches: Mapping[str, np.ndarray]) -> np.ndarray:
    """(channels,), from all tensors between the group's layers: in each a channel may be beside farther ones."""
    seen = [reaches[tensor] / max(reaches[tensor].max(), 1e-30) for tensor in _tensors(group)]
    relative = np.max(seen, axis=0)
    return np.where(relative > _NOTHING, 1 / np.sqrt(np.maximum(relative, _LEAST)), 1.0)
