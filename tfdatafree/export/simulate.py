"""The Keras model that computes what an integer file computes, in float; at bit widths, too, that no file can hold."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfdatafree.export.build import Built
from tfdatafree.export.verify import TensorCheck, note_difference
from tfdatafree.model.graph import Graph, Layer, Node, Ref
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.headroom import widen_decisions
from tfdatafree.quantization.placement import float_nodes, simulated_grids


def insert_quantizers(graph: Graph, grids: Mapping[str, Quantizer]) -> Graph:
    """`graph` with a Quantization layer behind each tensor named in `grids`."""
    graph = graph.copy()
    producers = graph.producers()
    for tensor, grid in grids.items():
        name = graph.fresh_name(f"{tensor}_quantized".replace(":", "_"))
        layer = Quantization(float(grid.scale), int(grid.zero_point), grid.bits, name=name)
        graph.redirect(tensor, name)
        graph.layers[name] = Layer(layer)
        graph.specs[name] = graph.specs[tensor]
        at = graph.nodes.index(graph.node(producers[tensor].name)) + 1 if tensor in producers else 0
        graph.nodes.insert(at, Node(name, name, (Ref(tensor),), {}, (name,)))
    return graph


def simulated_model(graph: Graph, grids: Mapping[str, Quantizer]) -> keras.Model:
    """A plain Keras model of `graph` (weights already on their grids) with activations rounded to `grids`."""
    return insert_quantizers(graph, grids).to_keras()


def simulate(decision: Decision, inputs: Sequence[np.ndarray], *, probes: int = 2) -> Built:
    """What `export.build.build_integer_file` decides and measures, without a file: its arguments and its result.

    Grids stand where the file's would (`placement.py`); decisions get their headroom from the noise that this simulation
    measures on the first `probes` inputs, unless the ranges are those of a file. Biases stay in float: a file's have 32 bits.
    """
    graph, reference, ranges = decision.graph, decision.reference, decision.ranges
    bits, rules = decision.options.activation_bits, decision.rules
    some = [array[:probes] for array in inputs]
    grids = simulated_grids(graph, ranges, bits, rules)
    checks = compare_simulation(graph, reference, grids, some)
    wider: Mapping[str, Range] = {}
    if decision.file_ranges is None:
        wider = widen_decisions(graph, ranges, {tensor: check.noise for tensor, check in checks.items()}, grids)
    ranges = {**ranges, **wider}
    if wider:
        grids = simulated_grids(graph, ranges, bits, rules)
        checks = compare_simulation(graph, reference, grids, some)
    return Built(
        content=None,
        graph=graph,
        grids=grids,
        checks=checks,
        kernels=decision.kernels,
        kept_float=float_nodes(graph, rules),
        ranges=ranges,
    )


def compare_simulation(
    student: Graph, teacher: Graph, grids: Mapping[str, Quantizer], inputs: Sequence[np.ndarray]
) -> dict[str, TensorCheck]:
    """Runs the student with its tensors rounded to `grids` beside the float teacher, one input at a time."""
    checks: dict[str, TensorCheck] = {}
    for at in range(len(inputs[0])):
        one = [array[at : at + 1] for array in inputs]
        rounded = []
        for tensor, array in zip(student.inputs, one, strict=True):
            rounded.append(grids[tensor](array) if tensor in grids else array)
            if tensor in grids:
                note_difference(checks, tensor, 0, array, rounded[-1])
        for (node, live), (_, reference) in zip(student.walk(rounded), teacher.walk(one), strict=True):
            for tensor in node.outputs:
                if tensor in grids:
                    live[tensor] = grids[tensor](np.asarray(live[tensor]))
                    note_difference(checks, tensor, 0, np.asarray(reference[tensor]), live[tensor])
    return checks
