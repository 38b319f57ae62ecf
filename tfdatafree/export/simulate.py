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
from tfdatafree.quantization.headroom import widen_decisions
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.placement import float_nodes, simulated_grids
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import NO_RULES, LayerRules


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
        at = graph.nodes.index(_current(graph, producers[tensor])) + 1 if tensor in producers else 0
        graph.nodes.insert(at, Node(name, name, (Ref(tensor),), {}, (name,)))
    return graph


def _current(graph: Graph, node: Node) -> Node:
    """The node of that name as it stands now: redirecting rewrites nodes."""
    return next(other for other in graph.nodes if other.name == node.name)


def simulated_model(graph: Graph, grids: Mapping[str, Quantizer]) -> keras.Model:
    """A plain Keras model of `graph` (weights already on their grids) with activations rounded to `grids`."""
    return insert_quantizers(graph, grids).to_keras()


def simulate(
    graph: Graph,
    teacher: Graph,
    kernels: Mapping[str, IntegerKernel],
    ranges: Mapping[str, Range],
    inputs: Sequence[np.ndarray],
    options: Quantize,
    *,
    probes: int = 2,
    rules: LayerRules = NO_RULES,
    widen: bool = True,
) -> Built:
    """What `export.build.build_integer_file` decides and measures, without a file: its arguments and its result.

    Grids stand where the file's would (`placement.py`); decisions get their headroom from the noise that this simulation
    measures on the first `probes` inputs, unless `widen` is False. Biases stay in float: a file's have 32 bits.
    """
    some = [array[:probes] for array in inputs]
    grids = simulated_grids(graph, ranges, options.activation_bits, rules)
    checks = compare_simulation(graph, teacher, grids, some)
    noise = {tensor: check.noise for tensor, check in checks.items()}
    wider = widen_decisions(graph, ranges, noise, grids) if widen else {}
    ranges = {**ranges, **wider}
    if wider:
        grids = simulated_grids(graph, ranges, options.activation_bits, rules)
        checks = compare_simulation(graph, teacher, grids, some)
    written = {key: kernel.quantizer for key, kernel in kernels.items()}
    return Built(None, graph, grids, checks, written, float_nodes(graph, rules), {}, 0, ranges, {})


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
