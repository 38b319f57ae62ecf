"""The canonical form of a model: one operation per node, in the forms that all later stages expect."""

from tfdatafree.canonical.fold_untrained import fold_untrained
from tfdatafree.canonical.global_pooling import globalize_pooling
from tfdatafree.canonical.merge_twins import merge_twins
from tfdatafree.canonical.pool_slices import pool_slices
from tfdatafree.canonical.separate import separate
from tfdatafree.canonical.split_activations import split_activations
from tfdatafree.canonical.split_moments import split_moments
from tfdatafree.canonical.split_normalization import split_normalization
from tfdatafree.model.graph import Graph
from tfdatafree.model.rewrite import Pass, Rewrite, apply_passes

PASSES: tuple[Pass, ...] = (
    separate,
    globalize_pooling,
    split_moments,
    split_normalization,
    split_activations,
    fold_untrained,
    merge_twins,
)


def canonical_form(source: Graph, *, pooled_slices: bool = False) -> Rewrite:
    """The canonical form of a model, its BatchNorms not folded yet.

    Args:
        pooled_slices: Write slices that take every k-th pixel as poolings (`Target.pooled_slices`).
    """
    return apply_passes(source, (*PASSES, pool_slices) if pooled_slices else PASSES)
