"""Splits activations without an integer kernel into operations that keep their precision on 8-bit grids.

    elu(x; a)       =  relu(x) + a elu(min(x, 0))
    selu(x)         =  s relu(x) + s a elu(min(x, 0))
    celu(x; a)      =  relu(x) + a elu(min(x, 0) / a)
    softplus(x)     =  relu(x) - log(sigmoid(|x|))
    log_sigmoid(x)  =  min(x, 0) + log(sigmoid(|x|))
    mish(x)         =  x tanh(softplus(x))
    softsign(x)     =  (x r) r,   r = rsqrt(1 + |x|)
    square(x)       =  x x

The converter would compute exp(x) of positive x instead, whose largest values leave no integers for all others. Here
exponentials are of negative x only, so that no part has a wider range than the input or the output. softsign is a division,
which TFLite does not compute in integers.
"""

from typing import Any

import keras
from keras import ops

from tfdatafree.canonical.parts import put_in_place
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.rewrite import Rewrite

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_FUNCTIONS = ("selu", "celu", "softplus", "log_sigmoid", "mish", "softsign")
_OPERATIONS = {
    "Selu": "selu",
    "Celu": "celu",
    "Softplus": "softplus",
    "LogSigmoid": "log_sigmoid",
    "Mish": "mish",
    "Softsign": "softsign",
    "Square": "square",
}


def split_activations(graph: Graph) -> Rewrite:
    """The same function (within float rounding) without these activations."""
    graph = graph.copy()
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        found = _activation_of(graph.layer_of(node))
        if found is not None:
            x = keras.Input(graph.specs[node.inputs[0]].shape[1:], dtype=graph.specs[node.inputs[0]].dtype)
            put_in_place(graph, node, keras.Model(x, _elementary(*found, x)))
    return Rewrite(graph=graph)


def _activation_of(layer: Layer) -> tuple[str, float] | None:
    """(function, its alpha) of an activation that is split; None for any other layer."""
    operation, alpha = layer.operation, 1.0
    if isinstance(operation, keras.layers.Activation):
        known = (name for name in _FUNCTIONS if getattr(keras.activations, name) is operation.activation)
        name = next(known, None)
    else:
        name = "elu" if layer.class_name in ("ELU", "Elu") else _OPERATIONS.get(layer.class_name)
        name = name if type(operation).__module__.split(".")[0] == "keras" else None
        alpha = 1.0 if name is None else float(getattr(operation, "alpha", 1.0))
    return None if name is None or (name == "elu" and alpha == 1) else (name, alpha)


def _elementary(name: str, alpha: float, x: Any) -> Any:
    add, elu = keras.layers.Add(dtype=x.dtype), keras.layers.Activation("elu", dtype=x.dtype)
    scaled = lambda factor, y: y if factor == 1 else keras.layers.Rescaling(factor, dtype=x.dtype)(y)  # noqa: E731
    if name == "elu":
        return add([ops.relu(x), scaled(alpha, elu(ops.minimum(x, 0.0)))])
    if name == "celu":
        return add([ops.relu(x), scaled(alpha, elu(scaled(1 / alpha, ops.minimum(x, 0.0))))])
    if name == "selu":
        negative = scaled(_SELU_SCALE * _SELU_ALPHA, elu(ops.minimum(x, 0.0)))
        return add([scaled(_SELU_SCALE, ops.relu(x)), negative])
    multiply = keras.layers.Multiply(dtype=x.dtype)
    if name == "softsign":
        root = ops.rsqrt(ops.absolute(x) + 1.0)
        return multiply([multiply([x, root]), root])
    if name == "square":
        return multiply([x, x])
    log = ops.log(keras.layers.Activation("sigmoid", dtype=x.dtype)(ops.absolute(x)))
    if name == "log_sigmoid":
        return add([ops.minimum(x, 0.0), log])
    softplus = keras.layers.Subtract(dtype=x.dtype)([ops.relu(x), log])
    if name == "softplus":
        return softplus
    return multiply([x, keras.layers.Activation("tanh", dtype=x.dtype)(softplus)])
