"""The tensors that hold a model's results before softmax and the like."""

import keras

from tfdatafree.model.graph import Graph

# Layers that squash their input into a built-in range, or only move it: the decision is taken before them.
_BOUNDED = ("softmax", "sigmoid", "tanh", "hard_sigmoid", "relu6", "log_softmax")
_MOVES = (keras.layers.Identity, keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute, keras.layers.Softmax)


def decision_tensors(graph: Graph) -> list[str]:
    """Tensors that hold the model's unbounded results: its outputs, seen through softmax, sigmoid, reshape ..."""
    producers, found = graph.producers(), []
    for tensor in graph.outputs:
        node = producers.get(tensor)
        while node is not None and _passes_on(graph, node):
            tensor = node.inputs[0]
            node = producers.get(tensor)
        if node is not None and not _is_bounded(graph, node):
            found.append(tensor)
    return list(dict.fromkeys(found))


def _activation_name(graph: Graph, node) -> str:
    operation = graph.operation_of(node)
    activation = getattr(operation, "activation", None)
    return getattr(activation, "__name__", type(operation).__name__).lower()


def _is_bounded(graph: Graph, node) -> bool:
    capped = getattr(graph.operation_of(node), "max_value", None) is not None
    return capped or _activation_name(graph, node) in _BOUNDED


def _passes_on(graph: Graph, node) -> bool:
    operation = graph.operation_of(node)
    moves = isinstance(operation, _MOVES) or type(operation).__name__ in ("Reshape", "Squeeze", "Transpose")
    return len(node.inputs) == 1 and (moves or _activation_name(graph, node) in ("softmax", "sigmoid", "tanh"))
