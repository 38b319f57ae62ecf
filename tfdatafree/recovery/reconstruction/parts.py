"""What moves in a block, as arrays: roundings, scales of kernels, biases, and scales of activations.

    kernel       s exp(a) clip(floor(W / s) + h(V), l, h) m       learned: V (soft_rounding.py), a
    bias         b + size c                                       learned: c
    activation   s exp(d) clip(round(x / (s exp(d))), l, h)       learned: d        (straight_through.py)

W is the float weight where it is less than a step from the student's weight. Elsewhere, as where a layer was solved, it is the
student's own weight, a hundredth of a step to either side by chance. h(V) starts in the middle between W and the student's
integer, so that a block in which nothing is learned is the student's, and no integer moves by more than one. m is the mask of
zeros that stay.
"""

import dataclasses
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout, kernel_of
from tfdatafree.model.layer import Layer, variables_of
from tfdatafree.model.node import Node, map_refs
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recovery.activation_grids import ActivationGrids
from tfdatafree.recovery.reconstruction.blocks import Block
from tfdatafree.recovery.straight_through import along

# Where a weight lies on the grid, it starts this far from it, in steps, so that its rounding can be learned.
_ASIDE = 0.01

# Lists of arrays by name, in an order that is the same for all blocks of one shape.
Arrays = dict[str, list[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Rounded:
    """The rounded network as far as blocks are reconstructed.

    Attributes:
        graph: The student with its present weights and activation grids.
        latent: Layer -> its float kernel.
        masks: Layer -> mask of its kernel.
        grids: Layer -> the present grid of its kernel, for kernels that may change.
        activations: Which scales of activations may change.
        sizes: Layer -> how large each channel of its output is, as `parameters.feature_sizes` gives it.
    """

    graph: Graph
    latent: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    grids: Mapping[str, Quantizer]
    activations: ActivationGrids
    sizes: Mapping[str, np.ndarray]


class Parts:
    """What moves in one block.

    Args:
        block: The block.
        network: What it is a part of.
        taken: Groups of activations whose scales earlier blocks have chosen.
        random: Decides on which side of a grid's value a weight starts that lies on it.

    Attributes:
        kernels, biases: Layer and place of the weights that are learned.
        groups: Groups of activations whose scales are learned.
        fixed: Arrays that stay: "weights" that are not learned; "base", "scale", "low", "high" and "mask" of kernels; "bias" and
            "size"; "step", "lowest" and "highest" of the activation grids, in the order of the nodes.
        start: Arrays that are learned, as they are at the start: "up", "scales", "biases", "steps".
        shape: What a compiled step depends on. Blocks of one shape differ in the values of `fixed` and `start` only.
    """

    def __init__(self, block: Block, network: Rounded, taken: set[str], random: np.random.Generator):
        self.block, self._network = block, network
        graph = block.student
        calls = network.graph.calls()
        places = [
            (key, at, variable.name)
            for key, layer in graph.layers.items()
            for at, variable in enumerate(variables_of(layer.operation) if layer.weights else ())
        ]
        learned = {
            key
            for key, layer in graph.layers.items()
            if find_layout(layer) is not None and key in network.grids and calls[key] == 1
        }
        self.kernels = [(key, at) for key, at, name in places if key in learned and "kernel" in name]
        self.biases = [(key, at) for key, at, name in places if key in learned and name == "bias"]
        others = [(key, at) for key, at, _ in places if (key, at) not in {*self.kernels, *self.biases}]
        rounding = [node for node in graph.nodes if isinstance(graph.operation_of(node), Quantization)]
        group_of = {node.name: network.activations.group_of.get(node.inputs[0]) for node in rounding}
        self.groups = [group for group in dict.fromkeys(group_of.values()) if group is not None and group not in taken]
        self.group_at = {name: self.groups.index(g) for name, g in group_of.items() if g in self.groups}
        kernels = [_kernel(network, key, random) for key, _ in self.kernels]
        quantizers = [graph.operation_of(node).quantizer for node in rounding]
        self.fixed: Arrays = {
            "weights": [graph.layers[key].weights[at] for key, at in others],
            **{name: [kernel[name] for kernel in kernels] for name in ("base", "scale", "low", "high", "mask")},
            "bias": [graph.layers[key].weights[at] for key, at in self.biases],
            "size": [_bias_size(network, key, graph.layers[key].weights[at]) for key, at in self.biases],
            "step": [_number(q.scale) for q in quantizers],
            "lowest": [_number(q.qmin - q.zero_point) for q in quantizers],
            "highest": [_number(q.qmax - q.zero_point) for q in quantizers],
        }
        self.start: Arrays = {
            "fraction": [kernel["fraction"] for kernel in kernels],
            "scales": [np.zeros_like(kernel["scale"]) for kernel in kernels],
            "biases": [np.zeros_like(bias) for bias in self.fixed["bias"]],
            "steps": [_number(0) for _ in self.groups],
        }
        self.others = others
        self.shape = self._shape()

    def _shape(self) -> Hashable:
        """All that the compiled step depends on: operations, how they are connected, and which weights are learned."""
        graph = self.block.student
        number = {tensor: at for at, tensor in enumerate(graph.inputs)}
        number |= {t: len(number) + at for at, t in enumerate(t for node in graph.nodes for t in node.outputs)}
        layers = {key: at for at, key in enumerate(graph.layers)}
        nodes = tuple((layers[node.layer], _arguments(node, number), len(node.outputs)) for node in graph.nodes)
        operations = tuple(_operation(layer) for layer in graph.layers.values())
        places = tuple((layers[key], at) for key, at in (*self.kernels, *self.biases, *self.others))
        groups = tuple(self.group_at.get(node.name, -1) for node in graph.nodes)
        tensors = tuple(number[tensor] for tensor in (*graph.outputs, *(t for t, _ in self.block.compared)))
        inputs = tuple((graph.specs[tensor].shape[1:], graph.specs[tensor].dtype) for tensor in graph.inputs)
        arrays = tuple(
            (name, tuple(a.shape for a in arrays)) for name, arrays in (*self.fixed.items(), *self.start.items())
        )
        return nodes, operations, places, groups, tensors, inputs, arrays, len(self.kernels)

    def result(self, learned: Mapping[str, list[np.ndarray]]) -> tuple[dict[str, Layer], dict[str, Quantizer]]:
        """(layer -> with the learned weights, exactly on their grids; layer -> the grid of its kernel).

        Args:
            learned: Arrays as in `start`, with "up" in place of "fraction": 1 where a weight rounds up, else 0.
        """
        network, fixed, layers, grids = self._network, self.fixed, {}, {}
        weights = {key: list(network.graph.layers[key].weights) for key, _ in (*self.kernels, *self.biases)}
        for n, (key, at) in enumerate(self.kernels):
            old = network.grids[key]
            scale = np.reshape(fixed["scale"][n] * np.exp(learned["scales"][n]), np.shape(old.scale))
            grids[key] = dataclasses.replace(old, scale=scale)
            integers = np.clip(fixed["base"][n] + learned["up"][n], fixed["low"][n], fixed["high"][n])
            kernel = grids[key].dequantize(integers + along(old.zero_point, old, integers.ndim))
            weights[key][at] = np.where(fixed["mask"][n] > 0, kernel, 0).astype(np.float32)
        for n, (key, at) in enumerate(self.biases):
            weights[key][at] = fixed["bias"][n] + fixed["size"][n] * learned["biases"][n]
        for key, values in weights.items():
            layers[key] = Layer(network.graph.layers[key].operation, tuple(values))
        return layers, grids

    def activation_scales(self, learned: Mapping[str, list[np.ndarray]]) -> dict[str, float]:
        """Group -> its learned scale."""
        grids = self._network.activations.grid_of
        return {g: float(grids[g].scale * np.exp(learned["steps"][at])) for at, g in enumerate(self.groups)}


def _kernel(network: Rounded, key: str, random: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of one kernel, in its shape or so that they broadcast with it."""
    own, grid = kernel_of(network.graph.layers[key]).astype(np.float32), network.grids[key]
    zero_point = np.asarray(grid.zero_point)
    scale, low, high = (
        along(values, grid, own.ndim) for values in (grid.scale, grid.qmin - zero_point, grid.qmax - zero_point)
    )
    integers = np.clip(np.rint(own / scale), low, high)
    latent = network.latent.get(key)
    exact = (own if latent is None or latent.shape != own.shape else latent) / scale
    aside = np.where(random.random(own.shape) < 0.5, -_ASIDE, _ASIDE)
    near = (np.abs(exact - integers) < 1) & (exact != integers)
    exact = np.clip(np.where(near, exact, integers + aside), low, high)
    base = np.minimum(np.floor(exact), high - 1)
    start = (exact + integers) / 2
    mask = network.masks.get(key)
    return {
        "base": base.astype(np.float32),
        "fraction": (start - base).astype(np.float32),
        "scale": scale,
        "low": low,
        "high": high,
        "mask": np.ones((), np.float32) if mask is None else mask.astype(np.float32),
    }


def _number(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def _bias_size(network: Rounded, key: str, bias: np.ndarray) -> np.ndarray:
    """How far a step of size 1 moves the bias, as in `parameters.py`."""
    size = network.sizes.get(key, np.abs(bias))
    return np.broadcast_to(size / np.sqrt(max(1, len(bias))), bias.shape).astype(np.float32)


def _operation(layer: Layer) -> Hashable:
    """What the layer's operation computes, apart from its weights and its name."""
    operation = layer.operation
    shapes = tuple(np.shape(values) for values in layer.weights)
    if isinstance(operation, Quantization):
        return "Quantization", shapes
    if isinstance(operation, keras.layers.Layer) and type(operation).__module__.startswith("keras."):
        config = {name: value for name, value in operation.get_config().items() if name != "name"}
        return type(operation).__qualname__, json.dumps(config, sort_keys=True, default=str), shapes
    values = {name: value for name, value in vars(operation).items() if not name.startswith("_") and name != "name"}
    return type(operation).__qualname__, repr(sorted(values.items())) if _is_plain(values) else id(operation), shapes


def _arguments(node: Node, number: Mapping[str, int]) -> Hashable:
    """What the node passes to its layer, with numbers in place of tensors."""
    arguments = map_refs((node.args, dict(node.kwargs)), lambda ref: f"tensor {number[ref.tensor]}")
    return repr(arguments) if _is_plain(arguments) else id(node)


def _is_plain(value: Any) -> bool:
    """Whether `repr` tells all about the value."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, slice):
        return _is_plain((value.start, value.stop, value.step))
    return value is None or value is Ellipsis or isinstance(value, bool | int | float | str)
