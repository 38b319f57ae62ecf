"""The canonical form: a model separated into operations that can be compressed."""

from tfdatafree.canonical.global_pooling import globalize_pooling
from tfdatafree.canonical.merge_twins import merge_twins
from tfdatafree.canonical.pool_slices import pool_slices
from tfdatafree.canonical.separate import separate
from tfdatafree.canonical.split_normalization import split_normalization
from tfdatafree.model.graph import Graph
from tfdatafree.targets.target import Target


def compressible(source: Graph, target: Target) -> Graph:
    """A model separated into operations that can be compressed, for this target."""
    trained = merge_twins(split_normalization(globalize_pooling(separate(source))))
    return pool_slices(trained) if target.pooled_slices else trained
