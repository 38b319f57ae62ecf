"""Simulates an integer file with a float Keras model, also at bit widths that no file can hold."""

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
from tfdatafree.quantization.split_outputs import joined


def insert_quantizers(graph: Graph, grids: Mapping[str, Quantizer]) -> Graph:
    """`graph` with a Quantization layer after each tensor of `grids`."""
    graph = graph.copy()
    producers = graph.producers()
    for tensor, grid in grids.items():
        name = graph.fresh_name(f"{tensor}_quantized".replace(":", "_"))
        layer = Quantization(float(grid.scale), int(grid.zero_point), grid.bits, name=name, dtype="float32")
        graph.redirect(tensor, name)
        graph.layers[name] = Layer(layer)
        graph.specs[name] = graph.specs[tensor]
        at = graph.nodes.index(graph.node(producers[tensor].name)) + 1 if tensor in producers else 0
        graph.nodes.insert(at, Node(name, name, (Ref(tensor),), {}, (name,)))
    return graph


def simulated_model(built: Built) -> keras.Model:
    """A plain Keras model with the weights of `built`, with activations rounded to its grids, and with the model's outputs."""
    return insert_quantizers(joined(built.graph, built.tail), built.grids).to_keras()


def simulate(decision: Decision, inputs: Sequence[np.ndarray], *, probes: int = 2) -> Built:
    """What `export.build.build_integer_file` returns, but without a file; it takes the same arguments.

    The grids are at the tensors where a file has them (`placement.py`). Decision tensors get headroom from the noise that
    the simulation measures on the first `probes` inputs, unless the ranges come from a file. Biases stay in float, because a
    file stores them with 32 bits.
    """
    graph, reference, ranges = decision.graph, decision.reference, decision.ranges
    bits = decision.options.activation_bits
    probe_inputs = [array[:probes] for array in inputs]
    grids = decision.placement.grids(ranges, bits)
    checks = compare_simulation(graph, reference, grids, probe_inputs)
    widened: Mapping[str, Range] = {}
    if decision.file_ranges is None:
        widened = widen_decisions(decision, {tensor: check.noise for tensor, check in checks.items()}, grids)
    ranges = {**ranges, **widened}
    if widened:
        grids = decision.placement.grids(ranges, bits)
        checks = compare_simulation(graph, reference, grids, probe_inputs)
    return Built(
        content=None,
        graph=graph,
        grids=grids,
        checks=checks,
        kernels=decision.kernels,
        float_reasons=decision.placement.float_nodes,
        ranges=ranges,
    )


def compare_simulation(
    rounded: Graph, reference: Graph, grids: Mapping[str, Quantizer], inputs: Sequence[np.ndarray]
) -> dict[str, TensorCheck]:
    """Compares `rounded`, with its tensors on `grids`, with the float `reference`, one input at a time."""
    rounded, reference = rounded.with_tensors(), reference.with_tensors()
    checks: dict[str, TensorCheck] = {}
    for at in range(len(inputs[0])):
        one_input = [array[at : at + 1] for array in inputs]
        rounded_input = []
        for tensor, array in zip(rounded.inputs, one_input, strict=True):
            rounded_input.append(grids[tensor](array) if tensor in grids else array)
            if tensor in grids:
                note_difference(checks, tensor, 0, array, rounded_input[-1])
        walks = zip(rounded.walk(rounded_input), reference.walk(one_input), strict=True)
        for (node, live), (_, reference_live) in walks:
            for tensor in node.outputs:
                if tensor in grids:
                    live[tensor] = grids[tensor](np.asarray(live[tensor]))
                    note_difference(checks, tensor, 0, np.asarray(reference_live[tensor]), live[tensor])
    return checks
