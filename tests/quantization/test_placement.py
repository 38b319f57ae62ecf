"""Where the simulation rounds, held against where the integer file of the same network does."""

import re

import numpy as np
from keras import layers as L
from tiny_models import every_kind, exported, separated

from tfdatafree.model.decisions import decision_tensors
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.placement import Placement

# What the converter writes as one operator and the graph as two, or reads as 8-bit integers: rounded once more, or less.
UNLIKE = {
    "hard_swish": {"conv_2"},
    "ops_activation": {"conv"},
    "ops_nodes": {"add"},
    "uint8_input": {"rescale", "image"},
}


def is_unlike(name: str, tensor: str) -> bool:
    """Whether UNLIKE lists the tensor; Keras numbers operations without a name as it meets them: "add", "add_7"."""
    return bool(UNLIKE.get(name, set()) & {tensor, re.sub(r"_\d+$", "", tensor)})


@every_kind
def test_the_simulation_rounds_where_the_file_does(name):
    built = exported(name).built
    placed = Placement(built.graph).groups
    unlike = {tensor for tensor in placed.keys() | built.grids.keys() if is_unlike(name, tensor)}
    assert built.grids.keys() <= placed.keys() | unlike
    # What the file has under no name of its own only moves what another tensor holds.
    named = {placed[tensor] for tensor in built.grids if tensor in placed}
    assert all(placed[tensor] in named for tensor in placed.keys() - built.grids.keys() - unlike)


@every_kind
def test_tensors_share_a_grid_where_the_files_do(name):
    made = exported(name)
    grids, placed = Placement(made.built.graph).grids(made.ranges, 8), Placement(made.built.graph).groups
    widened = {placed[tensor] for tensor in decision_tensors(made.built.graph)}
    for tensor, grid in made.built.grids.items():
        if not is_unlike(name, tensor) and placed[tensor] not in widened:
            # The file may have measured tensors that the graph has not.
            np.testing.assert_allclose((grids[tensor].low, grids[tensor].high), (grid.low, grid.high), rtol=0.01)


def test_a_built_in_grid_covers_the_same_reals_at_any_width():
    graph = separated("tanh")
    for bits in (4, 5, 6, 7, 8):
        grid = Placement(graph).grids({}, bits)[graph.outputs[0]]
        assert grid.bits == bits and grid.low == -1 and grid.high == 1 - grid.scale
    softmax = separated("softmax")
    for bits in (4, 6, 8):
        grid = Placement(softmax).grids({}, bits)[softmax.outputs[0]]
        assert grid.low == 0 and grid.high == 1 - grid.scale
    assert Placement(softmax).grids({}, 16)[softmax.outputs[0]].low == -1


def test_a_grid_spans_all_that_shares_it():
    graph = separated("poolings")
    pooled = [node.output for node in graph.nodes if isinstance(graph.operation_of(node), L.MaxPooling2D)]
    ranges = {tensor: Range(0, 1) for tensor in graph.specs} | {pooled[0]: Range(-1, 2)}
    grids = Placement(graph).grids(ranges, 6)
    source = graph.node(pooled[0]).inputs[0]
    assert grids[source] == grids[pooled[0]] and np.isclose(grids[source].high - grids[source].low, 3)
    assert grids[graph.inputs[0]].low == 0, "the input is another group"
