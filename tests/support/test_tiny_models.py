"""The tiny models themselves: which of them a law has to be tested on."""

import keras
import pytest
from tiny_models import FIRST, KINDS, MODELS, build, changed_models, folded, fresh, state

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout

# Options of an operation that its stages may treat differently.
OPTIONS = ("padding", "strides", "dilation_rate", "groups", "depth_multiplier", "use_bias", "interpolation", "max_value",
           "negative_slope", "shared_axes")  # fmt: skip


def features(graph: Graph) -> set[tuple]:
    """What there is in a graph: operations with their options, how they are read, inputs and outputs."""
    readers, calls = graph.consumers(), graph.calls()
    found = {
        ("inputs", *((graph.specs[tensor].shape, graph.specs[tensor].dtype) for tensor in graph.inputs)),
        ("outputs", len(graph.outputs), len(set(graph.outputs))),
        ("containers", type(graph.input_structure).__name__, type(graph.output_structure).__name__),
    }
    for node in graph.nodes:
        operation, kind = graph.operation_of(node), graph.layer_of(node).class_name
        activation = getattr(operation, "activation", None)
        name = getattr(activation, "__name__", type(activation).__name__)
        found.add((kind, name, len(graph.specs[node.output].shape)))
        found.add((kind, "called", min(calls[node.layer], 2)))
        found.add((kind, "joins a tensor with itself", len(set(node.inputs)) < len(node.inputs)))
        found |= {(kind, option, str(getattr(operation, option, None))) for option in OPTIONS}
        if find_layout(graph.layer_of(node)) is not None:
            found.add((kind, "reads an input", not set(node.inputs).isdisjoint(graph.inputs)))
            found.add((kind, "is an output", node.output in graph.outputs))
            found.add(("kernel is read", min(len(readers[node.output]), 2)))
        elif node.output in graph.outputs:
            found.add((kind, name, "is an output"))
    return found


@pytest.mark.slow
def test_kinds_have_all_that_folding_leaves_of_any_model():
    known = set().union(*(features(folded(name)) for name in KINDS))
    lacking = {name: features(folded(name)) - known for name in MODELS}
    assert {name: some for name, some in lacking.items() if some} == {}


def test_names_are_those_of_models():
    assert len(set(KINDS)) == len(KINDS) and set(KINDS) <= set(MODELS) and set(MODELS) >= FIRST


def test_who_changes_a_shared_model_is_found():
    shared, own = build("plain"), fresh("plain")
    assert build("plain") is shared is not own and state(own)[0] == state(shared)[0]
    assert changed_models() == []
    kernel = build("plain").get_layer("a_conv").kernel
    before = kernel.numpy()
    kernel.assign(before * 1.001)
    assert changed_models() == ["plain"] and build("plain") is not shared
    shared, x = build("plain"), keras.Input((8, 8, 3))
    shared.get_layer("a_conv")(x)
    assert changed_models() == ["plain"] and changed_models() == []
