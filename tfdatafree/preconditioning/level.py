"""Scales channels of an activation so that their largest values are more alike, which makes it easier to round.

A tensor has one step, which the channel with the largest values decides. For a channel with values a tenth as large, this step is
coarse. Where scale moves freely between layers (`scale_channels.py`), with r_c = max|x_c| the reach of channel c,

    s_c = sqrt(max_k r_k / r_c),   at most 10

so that the function is unchanged. Reaches are measured on generated inputs. On real inputs, a channel may reach farther.
s_c = max r / r_c would leave no room for that; s_c = 1 leaves the most room. The square root is half the way between the two. A
channel then decides the step only if it reaches sqrt(max r / r_c) times as far as measured.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.rewrite import Rewrite
from tfdatafree.preconditioning.scale_channels import Group, find_groups, scale_unfolded

# Smaller reaches count as the first part of the largest reach. Channels that reach less than the second part of it are dead, and
# are left alone.
_LEAST, _NOTHING = 1e-2, 1e-4


def level_channels(unfolded: Graph, folded: Graph, reaches: Mapping[str, np.ndarray]) -> Rewrite:
    """`unfolded` with channels of more equal reach. `scale_folded` scales folded copies of it alike.

    Args:
        unfolded: A separated graph with its BatchNorms.
        folded: The same without.
        reaches: Tensor of the folded graph -> largest absolute value per channel, (channels,).
    """
    groups = [group for group in find_groups(folded)[0] if _tensors(group) <= reaches.keys()]
    return scale_unfolded(unfolded, groups, {group.name: _scale(group, reaches) for group in groups})


def _tensors(group: Group) -> set[str]:
    return {node.output for node in group.producers} | {node.inputs[0] for node in group.consumers}


def _scale(group: Group, reaches: Mapping[str, np.ndarray]) -> np.ndarray:
    """s of the group's channels, (channels,). r_c / max r is its largest value in the tensors between the group's layers."""
    seen = [reaches[tensor] / max(reaches[tensor].max(), 1e-30) for tensor in _tensors(group)]
    relative = np.max(seen, axis=0)
    return np.where(relative > _NOTHING, 1 / np.sqrt(np.maximum(relative, _LEAST)), 1.0)
