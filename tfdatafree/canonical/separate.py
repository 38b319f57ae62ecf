"""Separates layers that compute several operations, so that each node is one operation.

    Conv2D(activation="relu")      ->  Conv2D, Activation
    SeparableConv2D                ->  DepthwiseConv2D, Conv2D(1x1)
    silu(x)                        ->  x * sigmoid(x)
    Add([a, b, c])                 ->  (a + b) + c, and Multiply, Maximum, Minimum in the same way
    Dropout, augmentation ...      ->  nothing (they return their input at inference)

so that the function is unchanged, and every tensor that an integer runtime stores is a tensor of the graph.
"""

import dataclasses

import keras
import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.layer import Layer, knows_training, new_layer, weightless, without_activation
from tfdatafree.model.node import Node, Ref, TensorSpec
from tfdatafree.model.operations import operation_of
from tfdatafree.model.rewrite import Rewrite

_SEPARABLE = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}
# Layers that take any number of inputs. Keras computes them two by two; integer runtimes have operators for two inputs.
_PAIRWISE = (keras.layers.Add, keras.layers.Multiply, keras.layers.Maximum, keras.layers.Minimum)

# Sizes of the values on which a layer is asked whether it does anything.
_PROBE_SIZES = (1e-3, 1.0, 1e3, 1e6)


def separate(graph: Graph) -> Rewrite:
    """The same function with one operation per node."""
    graph = graph.copy()
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        operation = graph.operation_of(node)
        if isinstance(operation, tuple(_SEPARABLE)):
            node = _split_separable(graph, node)
        if _does_nothing(graph, node) and not _joins_input_to_output(graph, node):
            graph.redirect(node.output, node.inputs[0])
            graph.replace(node)
        else:
            _split_activation(graph, node)
    for split in (_split_silu, _split_merge):
        for node in list(graph.nodes):
            split(graph, node)
    graph.drop_unread()
    return Rewrite(graph=graph)


def _does_nothing(graph: Graph, node: Node) -> bool:
    """Whether `node` returns its input at inference: by its class, or because it does so with every probe.

    Only layers that tell training from inference are probed. Others, such as ReLU(max_value=1e9), are there for their values.
    """
    layer = graph.layer_of(node)
    if operation_of(layer).no_op:
        return True
    if not knows_training(layer.operation) or layer.weights or len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    spec = graph.specs[node.inputs[0]]
    if None in spec.shape[1:] or spec.shape[1:] != graph.specs[node.output].shape[1:]:
        return False
    noise = np.random.default_rng(0).normal(size=(2, *spec.example_shape))
    for size in _PROBE_SIZES:
        probe = (size * noise).astype(spec.dtype)
        try:
            (output,) = graph.call(node, {node.inputs[0]: keras.ops.convert_to_tensor(probe)})
        except Exception:  # a layer of any author, which may take only some values
            return False
        if not np.array_equal(np.asarray(output), probe):
            return False
    return True


def _joins_input_to_output(graph: Graph, node: Node) -> bool:
    """Whether `node` leads from an input to an output of the model: without it there would be no such output."""
    return node.output in graph.outputs and node.inputs[0] in graph.inputs


def _split_activation(graph: Graph, node: Node) -> None:
    layer = graph.layer_of(node)
    activation = getattr(layer.operation, "activation", None)
    if find_layout(layer) is None or activation in (None, keras.activations.linear):
        return
    label = getattr(activation, "__name__", None) or getattr(activation, "name", "activation")
    # A shared layer is split once. Its activation follows each of its calls.
    key = f"{node.layer}_{label}"
    if key not in graph.layers or graph.layers[key].class_name != "Activation":
        key = graph.fresh_name(key)
    callers = [other.name for other in graph.nodes if other.layer == node.layer]
    graph.layers[node.layer] = Layer(without_activation(layer.operation), layer.weights)
    graph.layers[key] = weightless(keras.layers.Activation, activation, name=key)
    for caller in callers:
        name = key if len(callers) == 1 else graph.fresh_name(f"{caller}_{label}")
        append_after(graph, graph.node(caller), key, name)


def append_after(graph: Graph, node: Node, layer: str, name: str) -> Node:
    """Adds a call of `layer` to the output of `node`, whose readers then read the output of the new node."""
    graph.redirect(node.output, name)
    added = Node(name, layer, (Ref(node.output),), {}, (name,))
    graph.specs[name] = graph.specs[node.output]
    graph.nodes.insert(graph.nodes.index(node) + 1, added)
    return added


def _split_separable(graph: Graph, node: Node) -> Node:
    layer = graph.layer_of(node)
    config = layer.operation.get_config()
    depthwise_class, pointwise_class = next(
        classes for source, classes in _SEPARABLE.items() if isinstance(layer.operation, source)
    )
    input_shape = graph.specs[node.inputs[0]].shape
    shared = {key: config[key] for key in ("strides", "padding", "data_format", "dilation_rate", "depth_multiplier")}
    depthwise = new_layer(
        depthwise_class,
        {**shared, "kernel_size": config["kernel_size"], "use_bias": False, "name": f"{node.layer}_depthwise"},
        input_shape,
        kernel=layer.required_weight("depthwise_kernel"),
    )
    middle_shape = tuple(depthwise.operation.compute_output_shape(input_shape))
    pointwise_weights = {"kernel": layer.required_weight("pointwise_kernel")}
    if config["use_bias"]:
        pointwise_weights["bias"] = layer.required_weight("bias")
    pointwise = new_layer(
        pointwise_class,
        {
            "filters": config["filters"],
            "kernel_size": 1,
            "use_bias": config["use_bias"],
            "activation": config["activation"],
            "name": node.layer,
        },
        middle_shape,
        **pointwise_weights,
    )
    last = node
    depthwise_key = graph.fresh_name(f"{node.layer}_depthwise")
    for caller in [other for other in graph.nodes if other.layer == node.layer]:
        middle = graph.fresh_name(f"{caller.name}_depthwise")
        graph.specs[middle] = TensorSpec(middle_shape, graph.specs[caller.output].dtype)
        first = Node(middle, depthwise_key, caller.args, caller.kwargs, (middle,))
        second = dataclasses.replace(caller, args=(Ref(middle),), kwargs={})
        at = graph.nodes.index(caller)
        graph.nodes[at : at + 1] = [first, second]
        last = second if caller is node else last
    graph.layers[depthwise_key] = depthwise
    graph.layers[node.layer] = pointwise
    return last


def _split_silu(graph: Graph, node: Node) -> None:
    operation = graph.operation_of(node)
    silu_layer = isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.silu
    if not silu_layer and type(operation).__name__ != "Silu":
        return
    gate, source = graph.fresh_name(f"{node.name}_sigmoid"), node.inputs[0]
    product = graph.fresh_name(f"{node.name}_multiply")
    graph.layers[gate] = weightless(keras.layers.Activation, "sigmoid", name=gate)
    graph.layers[product] = weightless(keras.layers.Multiply, name=product)
    graph.specs[gate] = graph.specs[source]
    graph.replace(
        node,
        Node(gate, gate, (Ref(source),), {}, (gate,)),
        Node(node.name, product, ([Ref(source), Ref(gate)],), {}, node.outputs),
    )


def _split_merge(graph: Graph, node: Node) -> None:
    kind = type(graph.operation_of(node))
    if kind not in _PAIRWISE or len(node.inputs) < 3:
        return
    first, *others = node.inputs
    pairs, spec = [], graph.specs[first]
    for other in others:
        name = graph.fresh_name(f"{node.name}_{len(pairs) + 1}")
        layer = kind(name=name, dtype="float32")
        spec = TensorSpec(tuple(layer.compute_output_shape([spec.shape, graph.specs[other].shape])), spec.dtype)
        graph.layers[name] = Layer(layer)
        graph.specs[name] = spec
        pairs.append(Node(name, name, ([Ref(first), Ref(other)],), {}, (name,)))
        first = name
    pairs[-1] = dataclasses.replace(pairs[-1], name=node.name, outputs=node.outputs)
    graph.replace(node, *pairs)
