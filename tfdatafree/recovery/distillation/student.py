"""The differentiable form of a compressed network: masks and straight-through grids of weights and activations.

    weight      w = w0 + size * u           then times its mask, then on its grid           u: what is trained, 0 at the start
                                      or set to zero below a threshold (`thresholds.py`)
    scale       s = s0 * exp(size * v)      of a kernel's or an activation's grid           v: what is trained, 0 at the start

`size` is the size of what moves (`recovery/parameters.py`), so that one learning rate serves channels of any scale. Scales stay
above 0. The first forward pass computes what the student computes before training.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.differentiable import differentiable
from tfdatafree.model.graph import Graph, Layer, Node
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.mixed_precision import in_float32, mixed
from tfdatafree.model.quantizer_layer import Quantization
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.recipe.distillation import Thresholds
from tfdatafree.recovery.activation_grids import ActivationGrids
from tfdatafree.recovery.distillation.thresholds import KernelThresholds
from tfdatafree.recovery.parameters import Parameter, Place
from tfdatafree.recovery.straight_through import straight_through, straight_through_trained

# Of moving averages, for BatchNorms that train.
_MOMENTUM = 0.9
_STATISTICS = ("moving_mean", "moving_variance")


class Student:
    """A separated graph with trained weights and scales.

    Args:
        graph: The student; Quantization layers round its activations.
        parameters: Layer and place of a weight -> how it is trained.
        activations: Grids of activations whose scales are trained.
        scales: Size of a scale's steps; 0 keeps the scales.
        relative: Whether steps are relative to the size of what moves.
        batch_statistics: Whether BatchNorms compute with statistics of the batch in training.
        thresholds: Zeros that training finds.
        mixed_precision: Whether kernels are multiplied in bfloat16 in training.
    """

    def __init__(
        self,
        graph: Graph,
        parameters: Mapping[Place, Parameter],
        activations: ActivationGrids,
        *,
        scales: float,
        relative: bool = True,
        batch_statistics: bool = False,
        thresholds: Thresholds | None = None,
        mixed_precision: bool = False,
    ):
        self.graph, self._parameters, self._activations = graph, parameters, activations
        self._with_tensors = differentiable(graph.with_tensors())
        self._in_training = mixed(self._with_tensors) if mixed_precision else self._with_tensors
        # Steps on the weights as they are: u is the weight itself.
        self._starts = {place: p.values if relative else np.zeros_like(p.values) for place, p in parameters.items()}
        self._sizes = {place: p.size if relative else np.float32(1) for place, p in parameters.items()}
        self._weights = {place: tf.Variable(p.values - self._starts[place]) for place, p in parameters.items()}
        self._scale_size = scales
        kernels = {place: p.grid for place, p in parameters.items() if p.grid is not None} if scales else {}
        self._kernel_scales = {place: _zeros(np.shape(grid.scale)) for place, grid in kernels.items()}
        self._activation_scales = {group: _zeros(()) for group in (activations.grid_of if scales else ())}
        pruned = {place: p.values for place, p in parameters.items() if self._is_pruned(place)} if thresholds else {}
        self._thresholds = KernelThresholds(thresholds, pruned) if thresholds is not None and pruned else None
        normalized = [key for key, layer in graph.layers.items() if is_batchnorm(layer)] if batch_statistics else []
        self._statistics = {
            (key, name): tf.Variable(graph.layers[key].required_weight(name), trainable=False)
            for key in normalized
            for name in _STATISTICS
        }

    @property
    def trained(self) -> list[tf.Variable]:
        """The variables that an optimizer moves."""
        thresholds = [] if self._thresholds is None else self._thresholds.trained
        return [*self._weights.values(), *self._kernel_scales.values(), *self._activation_scales.values(), *thresholds]

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables, in an order that is always the same."""
        thresholds = [] if self._thresholds is None else self._thresholds.variables
        return [*self.trained, *self._statistics.values(), *thresholds]

    def settle(self, step: int, steps: int) -> None:
        """Sets the zeros that are due before this step of all."""
        if self._thresholds is not None:
            self._thresholds.settle({place: self._dense(place) for place in self._weights}, step, steps)

    def penalty(self) -> tf.Tensor:
        """What the student's thresholds add to its loss."""
        return tf.constant(0.0) if self._thresholds is None else self._thresholds.penalty()

    def values_of(self, inputs: Sequence[Any], tensors: Sequence[str], *, training: bool = False) -> dict[str, Any]:
        """The values of the named tensors, differentiable in `trained` and in the inputs.

        Args:
            training: BatchNorms compute with statistics of the batch, where `batch_statistics` is set, and kernels are
                multiplied in bfloat16, where `mixed_precision` is.
        """
        base = self._in_training if training else self._with_tensors
        graph = dataclasses.replace(base.copy(), layers=self._layers(base))
        graph = graph.up_to(sorted(set(tensors)))

        def call(node: Node, live: Mapping[str, Any]) -> tuple:
            layer = graph.layer_of(node)
            if isinstance(layer.operation, Quantization):
                tensor, grid = node.inputs[0], layer.operation.quantizer
                return (_on_grid(live[tensor], grid, self._activation_scale(tensor)),)
            if training and (node.layer, _STATISTICS[0]) in self._statistics:
                return (self._normalized(node.layer, layer, live[node.inputs[0]]),)
            return in_float32(graph.call(node, live)) if base is not self._with_tensors else graph.call(node, live)

        live = dict(zip(graph.inputs, inputs, strict=True))
        for _, live in graph.walk(inputs, call):
            pass
        return {tensor: live[tensor] for tensor in tensors}

    def kernel(self, key: str) -> tf.Tensor | None:
        """The kernel of a layer as the student computes with it; None if it is not trained."""
        found = next((place for place in self._weights if place[0] == key and self._is_kernel(place)), None)
        return None if found is None else self._weight(found)

    def bias(self, key: str) -> tf.Tensor | None:
        """The bias of a layer; None if it has none, or if it is not trained."""
        names = [variable.name for variable in self.graph.layers[key].operation.weights]
        place = (key, names.index("bias")) if "bias" in names else None
        return self._weight(place) if place in self._weights else None

    # Results ----------------------------------------------------------------------------------------------------------

    def result(self) -> Graph:
        """The graph with the present weights, exactly on their grids and zero outside their masks."""
        grids, graph = self._kernel_grids(), self.graph.copy()
        for key, layer in graph.layers.items():
            values = list(layer.weights)
            for at, variable in enumerate(layer.operation.weights if layer.weights else ()):
                if (key, at) in self._weights:
                    latent, grid = self._latent((key, at)).numpy(), grids.get((key, at))
                    rounded = latent if grid is None else grid(latent)
                    values[at] = (rounded * self._mask((key, at))).astype(layer.weights[at].dtype)
                elif (key, variable.name) in self._statistics:
                    values[at] = self._statistics[key, variable.name].numpy()
            graph.layers[key] = Layer(layer.operation, tuple(values))
        return graph

    def grids(self) -> dict[str, Quantizer]:
        """Layer -> the present grid of its kernel."""
        return {key: grid for (key, _), grid in self._kernel_grids().items()}

    def ranges(self) -> dict[str, Range]:
        """Tensor -> the present range of its grid, of those that are trained."""
        if not self._activation_scales:
            return {}
        return self._activations.ranges(
            {group: self._scale_of_group(group).numpy() for group in self._activation_scales}
        )

    # Parts ------------------------------------------------------------------------------------------------------------

    def _layers(self, graph: Graph) -> dict[str, Layer]:
        layers = dict(graph.layers)
        for key, layer in layers.items():
            values = list(layer.weights)
            for at, variable in enumerate(layer.operation.weights if layer.weights else ()):
                if (key, at) in self._weights:
                    values[at] = self._weight((key, at))
                elif (key, variable.name) in self._statistics:
                    values[at] = tf.convert_to_tensor(self._statistics[key, variable.name])
            layers[key] = Layer(layer.operation, tuple(values))
        return layers

    def _weight(self, place: Place) -> tf.Tensor:
        grid, latent = self._parameters[place].grid, self._latent(place)
        return latent if grid is None else _on_grid(latent, grid, self._kernel_scale(place, grid))

    def _latent(self, place: Place) -> tf.Tensor:
        dense = self._dense(place)
        return dense if self._thresholds is None else self._thresholds.apply(place, dense)

    def _dense(self, place: Place) -> tf.Tensor:
        return (self._starts[place] + self._sizes[place] * self._weights[place]) * self._mask(place)

    def _mask(self, place: Place) -> np.ndarray:
        mask = self._parameters[place].mask
        return np.ones((), np.float32) if mask is None else mask

    def _kernel_scale(self, place: Place, grid: Quantizer) -> tf.Tensor | None:
        if place not in self._kernel_scales:
            return None
        # Several channels of a kernel are summed by the next layer; one that moves alone moves it less.
        size = np.float32(self._scale_size / np.sqrt(np.size(grid.scale)))
        return np.asarray(grid.scale, np.float32) * tf.exp(size * self._kernel_scales[place])

    def _kernel_grids(self) -> dict[Place, Quantizer]:
        grids = {place: p.grid for place, p in self._parameters.items() if p.grid is not None}
        for place, grid in grids.items():
            scale = self._kernel_scale(place, grid)
            if scale is not None:
                grids[place] = dataclasses.replace(grid, scale=scale.numpy())
        return grids

    def _activation_scale(self, tensor: str) -> tf.Tensor | None:
        group = self._activations.group_of.get(tensor)
        return self._scale_of_group(group) if group in self._activation_scales else None

    def _scale_of_group(self, group: str) -> tf.Tensor:
        scale = np.float32(self._activations.grid_of[group].scale)
        return scale * tf.exp(np.float32(self._scale_size) * self._activation_scales[group])

    def _is_kernel(self, place: Place) -> bool:
        return "kernel" in self.graph.layers[place[0]].operation.weights[place[1]].name

    def _is_pruned(self, place: Place) -> bool:
        """Whether thresholds set zeros there: depthwise kernels hold few weights, and need each of them."""
        layout = find_layout(self.graph.layers[place[0]])
        return self._is_kernel(place) and layout is not None and layout.kind != "depthwise"

    def _normalized(self, key: str, layer: Layer, x: tf.Tensor) -> tf.Tensor:
        """What the BatchNorm computes in training; its moving averages move."""
        axis = layer.operation.axis % len(x.shape)
        mean, variance = tf.nn.moments(x, [other for other in range(len(x.shape)) if other != axis])
        for name, value in zip(_STATISTICS, (mean, variance), strict=True):
            moving = self._statistics[key, name]
            moving.assign(_MOMENTUM * moving + (1 - _MOMENTUM) * tf.stop_gradient(value))
        scale = tf.math.rsqrt(variance + layer.operation.epsilon)
        gamma, beta = layer.weight("gamma"), layer.weight("beta")
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if beta is None else beta - mean * scale
        shape = [-1 if other == axis else 1 for other in range(len(x.shape))]
        return x * tf.reshape(scale, shape) + tf.reshape(shift, shape)


def _on_grid(x: tf.Tensor, grid: Quantizer, scale: tf.Tensor | None) -> tf.Tensor:
    return straight_through(x, grid) if scale is None else straight_through_trained(x, scale, grid)


def _zeros(shape: Sequence[int]) -> tf.Variable:
    return tf.Variable(tf.zeros(tuple(shape), tf.float32))
