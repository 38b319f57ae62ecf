"""Random small networks of every kind that the package takes: images, sequences and vectors, branches, shared layers.

`random_network(seed)` gives a Keras model with weights as training might leave them; the same seed gives the same model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops

_ACTIVATIONS = (
    "relu", "relu", "relu", "relu6", "tanh", "sigmoid", "swish", "gelu", "hard_swish", "hard_sigmoid", "elu", "selu",
    "softplus", "leaky_relu", "mish", "linear",
)  # fmt: skip
_RANGES = ((-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-2.5, 2.5))
_MOST_VALUES = 4000  # in one tensor
_TRIES = 60


@dataclass
class Sketch:
    """A network that is being drawn.

    Attributes:
        random: Where every choice comes from.
        tensors: All tensors so far, inputs first.
        shared: Layers that may be called again, with the shape of their inputs.
    """

    random: np.random.Generator
    tensors: list[Any]
    shared: list[tuple[Any, tuple]] = field(default_factory=list)

    def choose(self, *options):
        return options[int(self.random.integers(len(options)))]

    def chance(self, part: float) -> bool:
        return bool(self.random.random() < part)

    def tensor(self) -> Any:
        """One of the tensors, most often the last."""
        return self.tensors[-1] if self.chance(0.65) else self.choose(*self.tensors)

    def like(self, x: Any, *, channels: bool = True) -> Any:
        """Another tensor with the shape of `x`, up to its channels unless these count; else a function of `x`."""
        end = None if channels else -1
        others = [
            y for y in self.tensors if y is not x and y.shape[:end] == x.shape[:end] and len(y.shape) == len(x.shape)
        ]
        return self.choose(*others) if others else self.mixed(x, int(x.shape[-1]))

    def mixed(self, x: Any, channels: int) -> Any:
        """A layer with weights on `x` that keeps its sizes."""
        rank = len(x.shape) - 2
        if rank == 0 or self.chance(0.2):
            return layers.Dense(channels, activation=self.activation(), use_bias=self.chance(0.8))(x)
        kind = layers.Conv2D if rank == 2 else layers.Conv1D
        return kind(channels, 3, padding="same", activation=self.activation(), use_bias=self.chance(0.7))(x)

    def activation(self) -> str | None:
        return self.choose(*_ACTIVATIONS) if self.chance(0.5) else None

    def padding(self, x: Any, size: int) -> str:
        return "same" if min(x.shape[1:-1]) < size or self.chance(0.6) else "valid"


def _convolution(s: Sketch, x: Any) -> Any:
    rank, channels = len(x.shape) - 2, int(x.shape[-1])
    size = s.choose(1, 3, 3, 5)
    groups = s.choose(*(g for g in (1, 1, 1, 2, channels) if channels % g == 0))
    plain = s.chance(0.6)
    options = {
        "padding": s.padding(x, size) if rank == 2 or s.chance(0.7) else "causal",
        "strides": 1 if plain else s.choose(1, 2),
        "groups": groups,
        "use_bias": s.chance(0.7),
        "activation": s.activation(),
    }
    if not plain and options["strides"] == 1 and min(x.shape[1:-1]) > 2 * size:
        options["dilation_rate"] = 2
    layer = (layers.Conv2D if rank == 2 else layers.Conv1D)(groups * s.choose(1, 2, 3), size, **options)
    s.shared.append((layer, x.shape))
    return layer(x)


def _depthwise(s: Sketch, x: Any) -> Any:
    rank, size = len(x.shape) - 2, s.choose(1, 3, 3, 5)
    options = {"padding": s.padding(x, size), "use_bias": s.chance(0.7), "activation": s.activation()}
    if s.chance(0.4):
        kind = layers.SeparableConv2D if rank == 2 else layers.SeparableConv1D
        return kind(s.choose(2, 4, 5), size, **options)(x)
    kind = layers.DepthwiseConv2D if rank == 2 else layers.DepthwiseConv1D
    return kind(size, depth_multiplier=s.choose(1, 1, 2), strides=s.choose(1, 1, 2), **options)(x)


def _transposed(s: Sketch, x: Any) -> Any:
    kind = layers.Conv2DTranspose if len(x.shape) == 4 else layers.Conv1DTranspose
    options = {"strides": s.choose(1, 2), "padding": s.choose("same", "valid"), "activation": s.activation()}
    return kind(s.choose(1, 2, 4), s.choose(1, 2, 3), **options)(x)


def _dense(s: Sketch, x: Any) -> Any:
    layer = layers.Dense(s.choose(1, 3, 4, 8), activation=s.activation(), use_bias=s.chance(0.8))
    s.shared.append((layer, x.shape))
    return layer(x)


def _batchnorm(s: Sketch, x: Any) -> Any:
    return layers.BatchNormalization(scale=s.chance(0.8), center=s.chance(0.8))(x)


def _activated(s: Sketch, x: Any) -> Any:
    kind = s.choose(
        *(layers.Activation(name) for name in _ACTIVATIONS),
        layers.ReLU(),
        layers.ReLU(6.0),
        layers.ReLU(1.5),
        layers.ReLU(4.0, negative_slope=0.1),
        layers.ReLU(threshold=0.5),
        layers.LeakyReLU(negative_slope=0.3),
        layers.ELU(0.7),
        layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None),
        layers.Softmax() if x.shape[-1] > 1 else layers.ReLU(),
    )
    return kind(x)


def _pooled(s: Sketch, x: Any) -> Any:
    rank, size = len(x.shape) - 2, s.choose(2, 2, 3)
    kinds = (
        (layers.MaxPooling2D, layers.AveragePooling2D) if rank == 2 else (layers.MaxPooling1D, layers.AveragePooling1D)
    )
    return s.choose(*kinds)(size, strides=s.choose(None, 1, 2), padding=s.padding(x, size))(x)


def _resized(s: Sketch, x: Any) -> Any:
    if len(x.shape) == 3:
        return s.choose(layers.UpSampling1D(2), layers.ZeroPadding1D((1, 2)), layers.Cropping1D((1, 0)))(x)
    return s.choose(
        layers.UpSampling2D(2),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.ZeroPadding2D(((1, 0), (0, 2))),
        layers.Cropping2D(((1, 0), (0, 1))),
    )(x)


def _merged(s: Sketch, x: Any) -> Any:
    kind = s.choose(
        layers.Add, layers.Add, layers.Add, layers.Concatenate, layers.Concatenate, layers.Multiply, layers.Subtract,
        layers.Average, layers.Maximum, layers.Minimum,
    )  # fmt: skip
    return kind()([x, s.like(x, channels=kind is not layers.Concatenate)])


def _gated(s: Sketch, x: Any) -> Any:
    """Squeeze and excitation."""
    pool = layers.GlobalAveragePooling2D if len(x.shape) == 4 else layers.GlobalAveragePooling1D
    gate = layers.Dense(int(x.shape[-1]), activation=s.choose("sigmoid", "hard_sigmoid", "tanh"))(
        pool(keepdims=True)(x)
    )
    return layers.Multiply()([x, gate])


def _computed(s: Sketch, x: Any) -> Any:
    channel = s.random.uniform(0.3, 2.0, int(x.shape[-1])).astype("float32")
    functions: list[Callable] = [
        lambda t: t + 0.3,
        lambda t: t * 1.7,
        lambda t: 1.0 - t,
        lambda t: t * channel,
        lambda t: t - channel,
        lambda t: t / 3.0,
        lambda t: ops.clip(t, -1.0, 2.0),
        ops.abs,
        ops.relu,
        lambda t: ops.split(t, 2, -1)[1] if t.shape[-1] % 2 == 0 else t * 0.5,
        lambda t: ops.flip(t, 1),
    ]
    if len(x.shape) > 2:
        functions += [
            lambda t: t[:, 1:],
            lambda t: t[:, ::2],
            lambda t: ops.mean(t, 1, keepdims=True),
            lambda t: ops.max(t, 1, keepdims=True),
        ]
    return s.choose(*functions)(x)


def _reshaped(s: Sketch, x: Any) -> Any:
    if len(x.shape) == 4:
        return s.choose(layers.Permute((2, 1, 3)), layers.Reshape((-1, int(x.shape[-1]))))(x)
    if len(x.shape) == 3 and x.shape[1] % 2 == 0:
        return layers.Reshape((2, x.shape[1] // 2, int(x.shape[-1])))(x)
    return layers.Dropout(0.3)(x)


def _again(s: Sketch, x: Any) -> Any:
    """A layer that was called before, on a tensor that fits it."""
    pairs = [(layer, y) for layer, shape in s.shared for y in s.tensors if y.shape == shape]
    if not pairs:
        return _batchnorm(s, x)
    layer, y = s.choose(*pairs)
    return layer(y)


def _nested(s: Sketch, x: Any) -> Any:
    """A model within the model, perhaps called twice."""
    inside = keras.Input(x.shape[1:])
    y = s.mixed(inside, int(x.shape[-1]))
    y = layers.ReLU()(layers.BatchNormalization()(y)) if s.chance(0.7) else y
    model = keras.Model(inside, y)
    return model(model(x)) if s.chance(0.3) else model(x)


_ANY = (_batchnorm, _batchnorm, _activated, _activated, _merged, _merged, _computed, _again, _nested, _dense)
_SPACE = (_convolution, _convolution, _convolution, _convolution, _depthwise, _depthwise, _transposed, _pooled, _resized,
          _gated, _reshaped)  # fmt: skip


@dataclass(frozen=True)
class RandomNetwork:
    """A model, and the (low, high) of all its inputs."""

    model: keras.Model
    input_range: tuple[float, float]

    def inputs(self, n: int, seed: int) -> list[np.ndarray]:
        """`n` inputs in the range: smooth and rough, bright and dark ones, as real ones are."""
        random = np.random.default_rng([seed, 1])
        low, high = self.input_range
        found = []
        for tensor in self.model.inputs:
            shape = tuple(tensor.shape[1:])
            rough = random.normal(size=(n, *shape))
            smooth = np.cumsum(random.normal(size=(n, *shape)), axis=1) / math.sqrt(shape[0])
            values = np.where(random.random((n, *(1,) * len(shape))) < 0.5, rough, smooth)
            values = values * random.uniform(0.1, 0.6, (n, *(1,) * len(shape)))
            values += random.uniform(-0.4, 0.4, (n, *(1,) * len(shape)))
            found.append(np.clip((low + high) / 2 + (high - low) / 2 * values, low, high).astype("float32"))
        return found


def random_network(seed: int) -> RandomNetwork:
    """A network of 2 to 12 steps; the same seed gives the same one."""
    random = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    s = Sketch(random, [])
    inputs = _inputs(s)
    s.tensors += inputs
    steps = int(random.integers(2, 13))
    for _ in range(_TRIES):
        if steps == 0:
            break
        x = s.tensor()
        blocks = _ANY if len(x.shape) == 2 else _ANY + _SPACE + _SPACE
        try:
            y = s.choose(*blocks)(s, x)
        except ValueError:  # sizes that Keras refuses
            continue
        sizes = y.shape[1:]
        if None not in sizes and min(sizes) > 0 and math.prod(sizes) <= _MOST_VALUES:
            s.tensors.append(y)
            steps -= 1
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], _outputs(s, len(inputs)), name=f"network_{seed}")
    found = RandomNetwork(model, s.choose(*_RANGES))
    _train(found, random)
    return found


def _inputs(s: Sketch) -> list[Any]:
    kind = s.choose("image", "image", "image", "sequence", "vector")
    sizes = {
        "image": (s.choose(7, 8, 12), s.choose(5, 8, 11), s.choose(1, 3, 3, 4)),
        "sequence": (s.choose(16, 20, 33), s.choose(1, 3, 4)),
        "vector": (s.choose(8, 20),),
    }[kind]
    found = [keras.Input(sizes, name="x")]
    if s.chance(0.2):
        found.append(keras.Input(sizes if s.chance(0.6) else (s.choose(4, 6),), name="z"))
    return found


def _outputs(s: Sketch, n_inputs: int) -> Any:
    """One to three tensors that nothing reads, most of them behind a classifier's or a detector's head."""
    read = {id(x) for y in s.tensors for node in [y._keras_history] for x in _sources(node)}
    leaves = [x for x in s.tensors[n_inputs:] if id(x) not in read] or s.tensors[-1:]
    unread = [x for x in s.tensors[:n_inputs] if id(x) not in read]
    chosen = [*leaves[:-1][: s.choose(0, 0, 1, 2)], leaves[-1]]
    if unread:
        # Every input has to lead to an output.
        chosen += [layers.Dense(3)(x) for x in unread]
    results = []
    for x in chosen:
        if s.chance(0.6):
            if len(x.shape) > 2:
                images = len(x.shape) == 4
                x = s.choose(
                    layers.GlobalAveragePooling2D() if images else layers.GlobalAveragePooling1D(),
                    layers.GlobalMaxPooling2D() if images else layers.GlobalMaxPooling1D(),
                    layers.Flatten(),
                )(x)
            units, activation = s.choose(1, 2, 5), s.choose(None, None, "softmax", "sigmoid")
            x = layers.Dense(units, activation="sigmoid" if units == 1 and activation else activation)(x)
        results.append(x)
    return results if len(results) > 1 else results[0]


def _sources(history: Any) -> Sequence[Any]:
    operation, node_index, _ = history
    return operation._inbound_nodes[node_index].input_tensors


def _train(network: RandomNetwork, random: np.random.Generator) -> None:
    """Gives the model weights as training leaves them: statistics that hold, dead channels, outliers, small gammas."""
    for variable in network.model.weights:
        shape, name = tuple(variable.shape), variable.name
        if name == "gamma":
            value = random.uniform(0.5, 1.5, shape) * random.choice([1, 1, 1, -1], shape)
            value = value * (random.random(shape) > (0.2 if random.random() < 0.3 else 0.0))
        elif name in ("beta", "bias"):
            value = random.normal(0, 0.3, shape)
        elif name == "alpha":
            value = random.uniform(0.05, 0.4, shape)
        elif "kernel" in name and shape:
            fan_in = np.prod(shape[:-2]) if "depthwise" in variable.path else np.prod(shape[:-1])
            value = random.normal(0, random.uniform(0.6, 1.6) / np.sqrt(fan_in), shape)
            if random.random() < 0.2:
                value[..., int(random.integers(shape[-1]))] *= 0 if random.random() < 0.5 else 8
        else:
            continue
        variable.assign(value)
    normalized = [layer for layer in network.model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    if not normalized:
        return
    # A layer that is called twice has statistics of both, a channel that is seldom active some of the times when it is.
    for seed, momentum in ((7, 0.0), (8, 0.5), (9, 0.7)):
        inputs = network.inputs(64, seed)
        for layer in normalized:
            layer.momentum = momentum
        network.model(inputs if len(inputs) > 1 else inputs[0], training=True)
    for layer in normalized:
        layer.momentum = 0.99
