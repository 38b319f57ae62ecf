"""Mends joined branches of very different steps (quantization/uneven.py), such as boxes and scores of a detector in one tensor.

They are given out one by one if the recipe asks for it and they lead to an output. Else their tensor gets 16 bits, if all
operators that write and read it have 16-bit kernels on the target, and if no 8-bit output of the file holds it. What is left is
a warning in the report.
"""

import dataclasses
import glob
from collections.abc import Iterator, Sequence

from tfdatafree.model.graph import Graph, Node
from tfdatafree.model.joins import is_elementwise, moves_values
from tfdatafree.model.operations import operation_of
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.placement import has_kernels
from tfdatafree.quantization.split_outputs import leading_to_outputs, split_outputs
from tfdatafree.quantization.uneven import Uneven, find_uneven
from tfdatafree.recipe.rules import LayerRules, Rule


def mend_joins(decision: Decision) -> Decision:
    """The decision with joined branches mended as far as recipe and target let it."""
    if decision.options.split_outputs:
        decision = _split(decision)
    return _widened(decision)


def uneven_warnings(decision: Decision) -> tuple[str, ...]:
    """One sentence for each node whose branches still lose, with what the user can do."""
    found = find_uneven(decision)
    at_outputs = leading_to_outputs(decision.graph, [uneven.node for uneven in found])
    return tuple(f"{uneven}: {_advice(decision, uneven, uneven.node in at_outputs)}" for uneven in found)


def _advice(decision: Decision, uneven: Uneven, at_output: bool) -> str:
    if at_output:
        return "pass split_outputs=True, which gives each branch an output of its own"
    if decision.options.activation_bits == 16 or uneven.tensor in decision.placement.ruled_bits:
        return "bring the branches to similar ranges before they are joined"
    nodes = list(_holding(decision.graph, decision.graph.node(uneven.node)))
    if 16 in decision.target.activation_bits and _may_have_16_bits(decision, nodes):
        return f"Rule({nodes[0].layer!r}, activation_bits=16) helps, or similar ranges of the branches"
    return (
        f"this target has no 16 bits for all operators that write or read it; keep '{uneven.node}' and these in float, or "
        "bring the branches to similar ranges"
    )


def _split(decision: Decision) -> Decision:
    found = [uneven.node for uneven in find_uneven(decision)]
    split = split_outputs(decision, found)
    if split.tail is None:
        why = "nothing is split: no output joins branches whose steps differ by more than 8 times"
        return dataclasses.replace(decision, notes={**decision.notes, "split_outputs": why})
    return split


def _widened(decision: Decision) -> Decision:
    """The decision with 16 bits for tensors whose branches lose, where that is possible."""
    options, target = decision.options, decision.target
    # A target without a CPU beside it refuses a whole file for one operator that it lacks in 16 bits.
    able = 16 in target.activation_bits and not target.needs_all
    if options.activation_bits != 8 or not able or options.ranges != "extreme_value":
        return decision
    for uneven in find_uneven(decision):
        nodes = list(_holding(decision.graph, decision.graph.node(uneven.node)))
        if not _may_have_16_bits(decision, nodes):
            continue
        layer = nodes[0].layer
        note = f"16 bits: {uneven}. They are slow on CPUs; Rule({layer!r}, activation_bits=8) keeps 8"
        wide = _with_16_bits(decision, [node.layer for node in nodes])
        decision = dataclasses.replace(wide, notes={**decision.notes, uneven.node: note})
    return decision


def _holding(graph: Graph, node: Node) -> Iterator[Node]:
    """The node, and those after it that write its values, or an unbounded function of each of them."""
    yield node
    for reader in graph.consumers()[node.output]:
        bounded = operation_of(graph.layer_of(reader), by_name=True).bounded
        if moves_values(graph, reader) or (is_elementwise(graph, reader) and not bounded):
            yield from _holding(graph, reader)


def _may_have_16_bits(decision: Decision, nodes: Sequence[Node]) -> bool:
    graph, groups = decision.graph, decision.placement.groups
    rules = [decision.placement.rule_of[node.name] for node in nodes if node.name in decision.placement.rule_of]
    if any(rule.keep_float or rule.activation_bits is not None for rule in rules):
        return False
    wide = {groups[node.output] for node in nodes if node.output in groups}
    tensors = [tensor for tensor, group in groups.items() if group in wide]
    at_edge = decision.options.edge_dtype in ("int8", "uint8") and any(tensor in graph.outputs for tensor in tensors)
    moves_input = any(tensor in graph.inputs for tensor in tensors)
    return not at_edge and not moves_input and all(_has_16_bits(decision, tensor) for tensor in tensors)


def _has_16_bits(decision: Decision, tensor: str) -> bool:
    """Whether the operators that write and read the tensor have 16-bit kernels in LiteRT and on the target."""
    graph = decision.graph
    touching = [node for node in graph.nodes if tensor in (*node.inputs, *node.outputs)]
    operators = {operation_of(graph.layer_of(node), by_name=True).operator for node in touching}
    refused = any(
        limit.fact == "types" and operators & set(limit.operators) and "int16" not in limit.one_of
        for limit in decision.target.limits
    )
    return has_kernels(graph, tensor, 16) and not refused


def _with_16_bits(decision: Decision, layers: Sequence[str]) -> Decision:
    """The decision with a rule for each layer; other settings of its present rule stay."""
    former = decision.rules
    new = {
        layer: dataclasses.replace(former.of[layer], activation_bits=16)
        if layer in former.of
        else Rule(glob.escape(layer), activation_bits=16)
        for layer in dict.fromkeys(layers)
    }
    rules = LayerRules((*new.values(), *former.rules), {**former.of, **new}, former.shadowed)
    return dataclasses.replace(decision, rules=rules)
