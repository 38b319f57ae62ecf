"""Tiny Keras models that look trained, each with one difficulty, and what the tests need to ask of them.

`MODELS` maps the name of a difficulty to a builder. Weights are drawn from a seed such that every one matters:
BatchNorm statistics far from (0, 1), some gammas negative, biases, slopes of PReLU.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

from tfdatafree import Compressed, Generate, Recipe, compress
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.export.build import Built, build_integer_file
from tfdatafree.inputs.make import make_inputs
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.measuring.gaussian import gaussian_walk
from tfdatafree.measuring.tensor_statistics import collect
from tfdatafree.measuring.walks import image_walk
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange, Network
from tfdatafree.numerics import metrics
from tfdatafree.numerics.range import Range
from tfdatafree.quantization import activation_ranges
from tfdatafree.quantization.activation_ranges import choose_ranges
from tfdatafree.quantization.bias import correct_biases
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.integer_kernel import IntegerKernel
from tfdatafree.quantization.ranges import search_range
from tfdatafree.quantization.rounding import Rounding, round_graph
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import NO_RULES, LayerRules
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.metadata import OWN_ENTRY, STANDARD_ENTRY

SHAPE = (8, 8, 3)
MODELS: dict[str, Callable[[], keras.Model]] = {}
_WEIGHTS: dict[str, list[np.ndarray]] = {}
_SHARED: dict[str, tuple[keras.Model, tuple]] = {}  # the model, and what it was like at first
_LENT: set[str] = set()


def build(name: str) -> keras.Model:
    """The model of that difficulty, one for the whole run. Nobody may change it; `fresh` gives one to change."""
    if name not in _SHARED:
        model = fresh(name)
        _SHARED[name] = model, fingerprint(model)
    _LENT.add(name)
    return _SHARED[name][0]


def fresh(name: str) -> keras.Model:
    """A new model of that difficulty, always with the same weights."""
    return MODELS[name]()


def changed_models() -> list[str]:
    """Which of the models that `build` gave since the last call were changed. They are forgotten."""
    names = [name for name in sorted(_LENT) if fingerprint(_SHARED[name][0]) != _SHARED[name][1]]
    _LENT.clear()
    for name in names:
        del _SHARED[name]
    return names


def fingerprint(model: keras.Model) -> tuple:
    """What a careless test might change of a model: weights, calls of its layers, whether they are trained."""
    operations = [*functional(model).operations, *model._flatten_layers()]
    return (
        [weights.tobytes() for weights in model.get_weights()],
        [(operation.name, len(operation._inbound_nodes), len(operation._outbound_nodes)) for operation in operations],
        [layer.trainable for layer in model._flatten_layers()],
    )


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """`model` with weights drawn as a trained model might hold them.

    The statistics of its BatchNorms are those of images that pass through it, so that ranges can be judged.
    """
    random = np.random.default_rng(seed)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.name
        if name == "gamma":
            value = random.uniform(0.5, 1.5, shape) * random.choice([1, 1, -1], shape)
        elif name == "moving_variance":
            value = random.uniform(0.3, 2.0, shape)
        elif name in ("beta", "moving_mean", "bias"):
            value = random.normal(0, 0.4, shape)
        elif name == "alpha":
            value = random.uniform(0.05, 0.4, shape)
        elif "kernel" in name:
            fan_in = np.prod(shape[:-2]) if "depthwise" in variable.path else np.prod(shape[:-1])
            value = random.normal(0, random.uniform(0.6, 1.8) / np.sqrt(fan_in), shape)
        else:  # the state of a random generator
            continue
        variable.assign(value)
    _observe_statistics(model)
    return model


def _observe_statistics(model: keras.Model) -> None:
    """Sets every BatchNorm's moving statistics to those of its input over a batch of images."""
    batchnorms = [layer for layer in model._flatten_layers() if isinstance(layer, L.BatchNormalization)]
    if not batchnorms:
        return
    first = next(layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    low, high = (0, 255) if model.inputs[0].dtype == "uint8" or isinstance(first, L.Rescaling) else (-1, 1)
    shapes = [tuple(x.shape[1:]) for x in keras.tree.flatten(model.inputs)]
    count = model.inputs[0].shape[0] or 16
    images = [_images(count, shape, low, high, seed=at + 100) for at, shape in enumerate(shapes)]
    momenta = [bn.momentum for bn in batchnorms]
    for bn in batchnorms:
        bn.momentum = 0.0
    functional = model._functional if isinstance(model, keras.Sequential) else model
    functional(keras.tree.pack_sequence_as(functional._inputs_struct, images), training=True)
    for bn, momentum in zip(batchnorms, momenta, strict=True):
        bn.momentum = momentum


_images = functools.cache(procedural_images)


def random_inputs(model: keras.Model | Graph, n: int = 3, seed: int = 1) -> list[np.ndarray]:
    """`n` inputs for each input of the model: standard normal, or any 8-bit values where it wants those."""
    random = np.random.default_rng(seed)
    graph = model if isinstance(model, Graph) else Graph.from_keras(model)
    specs = [graph.specs[name] for name in graph.inputs]
    return [
        random.integers(0, 256, (n, *spec.shape[1:]), np.uint8) if spec.dtype == "uint8"
        else random.normal(size=(n, *spec.shape[1:])).astype(np.float32)
        for spec in specs
    ]  # fmt: skip


def outputs_of(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The model's outputs at inference, flat."""
    packed = keras.tree.pack_sequence_as(
        model._inputs_struct if hasattr(model, "_inputs_struct") else inputs[0], inputs
    )
    return [np.asarray(y) for y in keras.tree.flatten(model(packed, training=False))]


def discrepancy(a: keras.Model, b: keras.Model, images: np.ndarray) -> float:
    """`tfdatafree.output_discrepancy` of two models with one input; it traces neither, which takes longer than they do."""
    pairs = zip(outputs_of(a, [images]), outputs_of(b, [images]), strict=True)
    return float(np.mean([metrics.output_discrepancy(x, y) for x, y in pairs]))


def relative_difference(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Largest difference of any output, relative to the largest value of that output."""
    assert [a.shape for a in found] == [b.shape for b in wanted]
    return max(
        float(np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()) for a, b in zip(found, wanted, strict=True)
    )


@dataclass(frozen=True)
class Exported:
    """A tiny model's way to its file, with every decision on the way."""

    unfolded: Graph
    decision: Decision
    inputs: list[np.ndarray]
    built: Built

    @property
    def reference(self) -> Graph:
        return self.decision.reference

    @property
    def rounded(self) -> Graph:
        return self.decision.graph

    @property
    def kernels(self) -> Mapping[str, IntegerKernel]:
        return self.decision.kernels

    @property
    def ranges(self) -> Mapping[str, Range]:
        return self.decision.ranges

    @property
    def options(self) -> Quantize:
        return self.decision.options


@functools.cache
def separated(name: str) -> Graph:
    """The separated graph of tiny model `name`; not to be edited."""
    return separate(Graph.from_keras(build(name))).graph


@functools.cache
def folded(name: str) -> Graph:
    """The separated graph of tiny model `name` with its BatchNorms folded; not to be edited."""
    return fold(separated(name)).graph


@functools.cache
def compressed(name: str, recipe: Recipe | str = "int8", **options) -> Compressed:
    """What `compress` makes of tiny model `name`: once per test run; not to be edited."""
    return compress(build(name), recipe, verbose=0, **{"input_range": (-1, 1), **options})


def without_metadata(content: bytes) -> bytes:
    """The file without what it says of its making, which names the weights and the recipe."""
    file = File.parse(content)
    kept = [entry for entry in file.model.metadata or [] if entry.name.decode() not in (STANDARD_ENTRY, OWN_ENTRY)]
    file.model.metadata = kept
    file.drop_unused_buffers()
    return file.serialize()


@functools.cache
def exported(name: str, options: Quantize = Quantize()) -> Exported:
    """The integer file of tiny model `name` and what was decided for it: once per test run."""
    return export(build(name), options)


def export(model: keras.Model, options: Quantize = Quantize(), images: int = 4) -> Exported:
    """The stages of `compress`, one by one, each result kept."""
    unfolded = separate(Graph.from_keras(model)).graph
    reference = fold(unfolded).graph
    bounds = (0.0, 255.0) if reference.specs[reference.inputs[0]].dtype == "uint8" else (-1.0, 1.0)
    inputs = make_inputs(reference, images, bounds, seed=0)
    means = {tensor: s.mean for tensor, s in collect(gaussian_walk(unfolded, samples=200)).items()}
    rounded = round_graph(
        reference, Rounding(bits=options.weight_bits, per_channel=options.one_step_per_channel(dense=False))
    )
    corrected, _ = correct_biases(rounded.graph, reference, means)
    ranges = choose_ranges(reference, collect(image_walk(reference, inputs)), "min_max", bits=options.activation_bits)
    decision = Decision(graph=corrected, reference=reference, kernels=rounded.kernels, ranges=ranges, options=options)
    return Exported(unfolded, decision, inputs, build_integer_file(decision, inputs))


def network_of(
    unfolded: Graph, folded: Graph, ends: tuple[float, float] = (-1.0, 1.0), rules: LayerRules = NO_RULES
) -> Network:
    """A network before anything was done to it."""
    ranges = (InputRange(*ends, "given"),) * len(folded.inputs)
    return Network(
        source=unfolded, unfolded=unfolded, reference=folded, current=folded, input_ranges=ranges, rules=rules
    )


# The models -----------------------------------------------------------------------------------------------------------


def tiny(function: Callable) -> Callable:
    """Registers a builder that returns (inputs, outputs), or a whole model, under its own name."""

    def builder() -> keras.Model:
        made = function()
        if isinstance(made, keras.Model):
            return made
        model = keras.Model(*made, name=function.__name__)
        if function.__name__ in _WEIGHTS:
            model.set_weights(_WEIGHTS[function.__name__])
            return model
        _WEIGHTS[function.__name__] = randomized(model).get_weights()
        return model

    MODELS[function.__name__] = builder
    return function


def image(shape: tuple = SHAPE, name: str = "image"):
    return keras.Input(shape, name=name)


def block(x, filters: int, name: str, kernel: int = 3, activation: str = "relu", **options):
    """Convolution without bias, BatchNorm, activation."""
    x = L.Conv2D(filters, kernel, use_bias=False, name=f"{name}_conv", **{"padding": "same", **options})(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return L.Activation(activation, name=f"{name}_{activation}")(x)


def head(x, classes: int = 5, activation: str | None = None):
    x = L.GlobalAveragePooling2D(name="pool")(x)
    return L.Dense(classes, activation=activation, name="head")(x)


@tiny
def plain():
    x = image()
    return x, head(block(block(x, 4, "a"), 6, "b", strides=2))


@tiny
def branch_add():
    x = image()
    y = block(x, 4, "a")
    z = block(y, 4, "b")
    z = L.BatchNormalization(name="c_bn")(L.Conv2D(4, 3, padding="same", name="c_conv")(z))
    return x, head(L.ReLU(name="relu")(L.Add(name="add")([y, z])))


@tiny
def depthwise():
    x = image()
    y = block(x, 4, "a")
    y = L.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, name="dw")(y)
    y = L.ReLU(6.0, name="dw_relu6")(L.BatchNormalization(name="dw_bn")(y))
    return x, head(block(y, 8, "b", kernel=1))


@tiny
def depthwise_multiplier():
    x = image()
    y = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="dw")(x)
    y = L.BatchNormalization(name="dw_bn")(y)
    y = L.BatchNormalization(name="before")(L.ReLU(name="relu")(y))
    return x, head(L.DepthwiseConv2D(3, depth_multiplier=2, name="dw_valid")(y))


@tiny
def shared_layer():
    a, b = image(name="a"), image(name="b")
    conv, bn = L.Conv2D(4, 3, padding="same", name="conv"), L.BatchNormalization(name="bn")
    y = L.Add(name="add")([bn(conv(a)), L.ReLU(name="relu")(conv(b))])
    return [a, b], head(y)


@tiny
def shared_layer_with_activation():
    x = image()
    conv = L.Conv2D(3, 3, padding="same", activation="relu", name="conv")
    return x, head(conv(conv(x)))


@tiny
def shared_batchnorm():
    x = image()
    bn = L.BatchNormalization(name="bn")
    y = bn(L.Conv2D(4, 3, name="a")(x))
    z = bn(L.Conv2D(4, 3, name="b")(x))
    return x, head(L.Concatenate(name="join")([y, z]))


@tiny
def shared_batchnorm_foldable_once():
    x = image()
    bn = L.BatchNormalization(name="bn")
    y = bn(x)
    z = bn(L.Conv2D(3, 3, padding="same", name="conv")(y))
    return x, head(L.Add(name="add")([y, z]))


@tiny
def nested():
    inner_in = keras.Input((8, 8, 4), name="inner_in")
    deepest = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            L.Conv2D(4, 3, padding="same", name="deep_conv"),
            L.BatchNormalization(name="deep_bn"),
            L.ReLU(name="deep_relu"),
        ],
        name="deepest",
    )
    inner = keras.Model(inner_in, L.Add(name="inner_add")([inner_in, deepest(inner_in)]), name="inner")
    x = image()
    return x, head(inner(block(x, 4, "a")))


@tiny
def nested_called_twice():
    inner_in = keras.Input((8, 8, 3), name="inner_in")
    inner = keras.Model(inner_in, block(inner_in, 3, "inner"), name="inner")
    x = image()
    return x, head(inner(inputs=inner(x)))


@tiny
def nested_with_dict_inputs():
    x = image()
    p, q = L.Conv2D(3, 3, padding="same", name="p")(x), L.Conv2D(3, 1, name="q")(x)
    z, y = keras.Input((8, 8, 3), name="z"), keras.Input((8, 8, 3), name="y")
    by_key = keras.Model({"z": z, "y": y}, L.Subtract(name="difference")([z, y]), name="by_key")
    z, y = keras.Input((8, 8, 3), name="z"), keras.Input((8, 8, 3), name="y")
    by_name = keras.Model([z, y], {"b": L.ReLU(name="relu_z")(z), "a": L.LeakyReLU(name="leaky_y")(y)}, name="by_name")
    found = by_name({"y": by_key({"z": p, "y": q}), "z": q})
    return x, [head(found["a"]), found["b"]]


@tiny
def nested_outputs():
    inner_in = keras.Input((8, 8, 3), name="inner_in")
    y = block(inner_in, 4, "inner")
    inner = keras.Model(inner_in, {"wide": L.Conv2D(2, 3, name="wide")(y), "head": head(y)}, name="inner")
    x = image()
    found = inner(x)
    return x, [found["wide"], found["head"], found["head"]]


@tiny
def sequential():
    return randomized(
        keras.Sequential(
            [
                image(),
                L.Conv2D(4, 3, activation="relu", name="conv"),
                L.BatchNormalization(name="bn"),
                L.GlobalAveragePooling2D(name="pool"),
                L.Dropout(0.5, name="drop"),
                L.Dense(5, name="head"),
            ],
            name="sequential",
        )
    )


@tiny
def dropouts_in_a_row():
    x = image()
    y = L.Conv2D(4, 3, activation="relu", name="conv")(x)
    y = L.SpatialDropout2D(0.2, name="drop_a")(y)
    y = L.Dropout(0.2, name="drop_b")(y)
    y = L.Activation("linear", name="linear")(y)
    return x, L.Dropout(0.2, name="drop_c")(head(y))


@tiny
def no_bias():  # and layers called by keyword
    x = image()
    y = L.Conv2D(4, 3, use_bias=False, name="conv")(inputs=x)
    y = L.GlobalAveragePooling2D(name="pool")(L.ReLU(name="relu")(inputs=y))
    return x, L.Dense(5, use_bias=False, name="head")(y)


@tiny
def relu6():
    x = image()
    y = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, use_bias=False, name="conv")(x))
    y = L.Rescaling(8.0, name="louder")(y)
    return x, head(L.ReLU(6.0, name="relu6")(y))


@tiny
def batchnorm_before_valid_conv():
    x = image()
    y = L.MaxPooling2D(2, name="max")(block(x, 4, "a"))
    return x, head(L.Conv2D(4, 3, padding="valid", use_bias=False, name="conv")(L.BatchNormalization(name="bn")(y)))


@tiny
def batchnorm_before_same_conv():
    x = image()
    y = L.MaxPooling2D(2, name="max")(block(x, 4, "a"))
    return x, head(L.Conv2D(4, 3, padding="same", name="conv")(L.BatchNormalization(name="bn")(y)))


@tiny
def batchnorm_before_pointwise_conv():
    x = image()
    y = L.MaxPooling2D(2, name="max")(block(x, 4, "a"))
    return x, head(L.Conv2D(4, 1, padding="same", name="conv")(L.BatchNormalization(name="bn")(y)))


@tiny
def batchnorm_unscaled():
    x = image()
    y = L.BatchNormalization(scale=False, name="bn")(L.Conv2D(4, 3, use_bias=False, name="conv")(x))
    return x, head(L.ReLU(name="relu")(y))


@tiny
def batchnorm_uncentered():
    x = image()
    y = L.BatchNormalization(center=False, name="bn")(L.Conv2D(4, 3, name="conv")(x))
    y = L.BatchNormalization(center=False, scale=False, name="bare")(L.Conv2D(4, 3, name="conv_2")(y))
    return x, head(L.ReLU(name="relu")(y))


@tiny
def batchnorm_at_the_input():
    x = image()
    return x, head(block(L.BatchNormalization(name="bn")(x), 4, "a"))


@tiny
def batchnorm_preactivation():
    x = image()
    y = L.Conv2D(4, 3, padding="same", name="stem")(x)
    z = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(y))
    return x, head(L.Add(name="add")([y, L.Conv2D(4, 3, padding="same", name="conv")(z)]))


@tiny
def batchnorm_of_a_vector():
    x = image()
    y = L.GlobalAveragePooling2D(name="pool")(block(x, 4, "a"))
    y = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(y))
    return x, L.Dense(5, name="head")(y)


@tiny
def batchnorm_after_dense():
    x = image()
    y = L.GlobalAveragePooling2D(name="pool")(block(x, 4, "a"))
    y = L.BatchNormalization(name="bn")(L.Dense(6, use_bias=False, name="dense")(y))
    return x, L.Dense(5, name="head")(L.ReLU(name="relu")(y))


@tiny
def batchnorms_in_a_row():
    x = image()
    y = L.Conv2D(4, 3, name="conv")(x)
    y = L.BatchNormalization(name="bn_b")(L.BatchNormalization(name="bn_a")(y))
    y = L.BatchNormalization(name="bn_d")(L.BatchNormalization(name="bn_c")(L.MaxPooling2D(2, name="max")(y)))
    return x, head(y)


@tiny
def batchnorm_on_another_axis():
    x = image()
    return x, head(L.BatchNormalization(axis=1, name="bn")(L.Conv2D(4, 3, name="conv")(x)))


@tiny
def batchnorm_is_an_output():
    x = image()
    y = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv")(x))
    return x, [y, head(L.ReLU(name="relu")(y))]


@tiny
def ops_nodes():
    x = image()
    y = L.Conv2D(4, 3, padding="same", name="conv")(x)
    y = y[:, ::2, ::2, :]
    y = ops.pad(y, ((0, 0), (1, 1), (0, 2), (0, 0)))
    y = y * 0.5 + 1
    y = ops.add(x1=y, x2=np.float32([0.1, -0.2, 0.3, 0.0]))
    return x, head(L.Conv2D(4, 3, name="conv_2")(y))


@tiny
def ops_activation():
    x = image()
    y = ops.relu6(L.Conv2D(4, 3, name="conv")(x) * 4.0)
    return x, head(ops.relu(L.Conv2D(4, 3, name="conv_2")(y)))


@tiny
def sine():
    x = image()
    return x, head(L.Conv2D(4, 3, name="conv_2")(ops.sin(L.Conv2D(4, 3, name="conv")(x))))


@tiny
def two_inputs():
    a, b = image(name="left"), image((4, 4, 2), name="right")
    y = block(a, 4, "a", strides=2)
    return [a, b], head(L.Concatenate(name="join")([y, L.Conv2D(3, 3, padding="same", name="b_conv")(b)]))


@tiny
def dict_inputs():
    a, b = image(name="left"), image((4, 4, 2), name="right")
    y = L.Concatenate(name="join")([block(a, 4, "a", strides=2), L.Conv2D(3, 3, padding="same", name="b_conv")(b)])
    return {"right": b, "left": a}, head(y)


@tiny
def two_outputs():
    x = image()
    y = block(x, 4, "a")
    return x, [L.Conv2D(2, 1, name="mask")(y), head(y)]


@tiny
def conv_is_an_output():
    x = image()
    y = L.Conv2D(4, 3, name="conv")(x)
    return x, [y, head(L.ReLU(name="relu")(L.BatchNormalization(name="bn")(y)))]


@tiny
def dict_outputs():
    x = image()
    y = block(x, 4, "a")
    return x, {"scores": head(y), "mask": L.Conv2D(2, 1, activation="sigmoid", name="sigmoid_conv")(y)}


@tiny
def prelu():
    x = image()
    y = L.PReLU(shared_axes=[1, 2], name="prelu")(L.Conv2D(4, 3, padding="same", name="conv")(x))
    y = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv_2")(y))
    return x, head(L.PReLU(name="prelu_per_pixel")(y))


@tiny
def leaky_relu():
    x = image()
    y = L.LeakyReLU(0.1, name="leaky")(L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv")(x)))
    y = L.Conv2D(4, 3, activation="leaky_relu", name="conv_2")(y)
    return x, head(L.ReLU(negative_slope=0.3, name="sloped")(L.Conv2D(4, 1, name="conv_3")(y)))


@tiny
def elu():
    x = image()
    y = L.ELU(name="elu")(L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv")(x)))
    return x, head(L.Conv2D(4, 3, activation="elu", name="conv_2")(y))


@tiny
def hard_swish():
    x = image()
    y = block(x, 4, "a", activation="hard_swish")
    return x, head(L.Conv2D(4, 3, activation="hard_sigmoid", name="conv_2")(y))


@tiny
def swish():
    x = image()
    y = block(x, 4, "a", activation="swish")
    return x, head(ops.silu(L.Conv2D(4, 3, activation="silu", name="conv_2")(y)))


@tiny
def gelu():
    x = image()
    y = block(x, 4, "a", activation="gelu")
    return x, head(L.Conv2D(4, 3, activation="gelu", name="conv_2")(y))


@tiny
def squeeze_excite():
    x = image()
    y = block(x, 6, "a")
    s = L.Reshape((1, 1, 6), name="reshape")(L.GlobalAveragePooling2D(name="squeeze")(y))
    s = L.Conv2D(3, 1, activation="relu", name="reduce")(s)
    s = L.Conv2D(6, 1, activation="sigmoid", name="expand")(s)
    return x, head(L.Multiply(name="excite")([y, s]))


@tiny
def concatenate():
    x = image()
    y = block(x, 3, "a")
    z = L.Rescaling(4.0, name="louder")(L.Conv2D(5, 3, padding="same", name="b_conv")(x))
    return x, head(L.Conv2D(4, 3, name="conv")(L.Concatenate(name="join")([y, z, y])))


@tiny
def merges():
    x = image()
    y, z = block(x, 4, "a"), L.Conv2D(4, 3, padding="same", name="b_conv")(x)
    y, z = L.Average(name="average")([y, z]), L.Maximum(name="maximum")([y, z])
    return x, head(L.Subtract(name="subtract")([y, z]))


@tiny
def upsampling_nearest():
    x = image()
    y = L.UpSampling2D(2, name="up")(block(x, 4, "a", strides=2))
    return x, L.Conv2D(2, 3, padding="same", name="mask")(y)


@tiny
def upsampling_bilinear():
    x = image()
    y = L.UpSampling2D(2, interpolation="bilinear", name="up")(block(x, 4, "a", strides=2))
    return x, L.Conv2D(2, 3, padding="same", name="mask")(y)


@tiny
def conv_transpose():
    x = image()
    y = L.Conv2DTranspose(5, 3, strides=2, padding="same", use_bias=False, name="up")(block(x, 4, "a", strides=2))
    y = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(y))
    return x, L.Conv2DTranspose(3, 2, strides=2, name="mask")(y)


@tiny
def dilated():
    x = image()
    y = block(x, 4, "a", dilation_rate=2)
    y = L.DepthwiseConv2D(3, dilation_rate=2, padding="same", name="dw")(y)
    return x, head(y)


@tiny
def grouped():
    x = image()
    y = block(block(x, 4, "a"), 6, "b", groups=2)
    y = L.MaxPooling2D(2, name="max")(y)
    return x, head(L.Conv2D(4, 3, groups=2, name="conv")(L.BatchNormalization(name="before_grouped")(y)))


@tiny
def separable():
    x = image()
    y = L.SeparableConv2D(5, 3, strides=2, padding="same", use_bias=False, name="sep")(x)
    y = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(y))
    return x, head(L.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu", name="sep_2")(y))


@tiny
def shared_separable():
    x = image()
    conv = L.SeparableConv2D(3, 3, padding="same", activation="relu", name="sep")
    return x, head(conv(conv(x)))


@tiny
def conv1d():
    x = image((16, 3), name="signal")
    y = L.Conv1D(4, 3, padding="same", use_bias=False, name="conv")(x)
    y = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(y))
    y = L.MaxPooling1D(2, name="max")(y)
    y = L.BatchNormalization(name="bn_2")(y)
    return x, L.Dense(5, name="head")(L.GlobalAveragePooling1D(name="pool")(y))


@tiny
def one_channel():
    x = image((8, 8, 1))
    return x, head(L.DepthwiseConv2D(3, name="dw")(block(x, 4, "a")))


@tiny
def one_output_channel():
    x = image((8, 8, 1))
    y = L.Conv2D(1, 3, name="conv")(L.DepthwiseConv2D(3, name="dw")(x))
    y = L.Conv2DTranspose(1, 2, strides=2, name="up")(y)
    return x, L.Dense(1, activation="sigmoid", name="head")(L.Flatten(name="flatten")(y))


@tiny
def zero_padding():
    x = image()
    y = L.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    y = block(y, 4, "a", strides=2, padding="valid")
    return x, head(L.Cropping2D(1, name="crop")(y))


@tiny
def flatten_dense():
    x = image()
    y = L.Flatten(name="flatten")(block(x, 4, "a", strides=2))
    return x, L.Dense(5, name="head")(L.Dense(6, activation="relu", name="hidden")(y))


@tiny
def batchnorm_before_flatten_dense():
    x = image()
    y = L.BatchNormalization(name="bn")(L.MaxPooling2D(2, name="max")(block(x, 4, "a")))
    y = L.BatchNormalization(name="bn_flat")(L.Flatten(name="flatten")(y))
    return x, L.Dense(5, name="head")(y)


@tiny
def dense_on_pixels():
    x = image()
    y = L.Dense(4, activation="relu", name="dense")(x)
    return x, head(L.BatchNormalization(name="bn")(L.Dense(6, name="dense_2")(y)))


@tiny
def poolings():
    x = image()
    y = L.AveragePooling2D(3, strides=2, padding="same", name="average")(block(x, 4, "a"))
    y = L.MaxPooling2D(3, strides=1, padding="same", name="max")(y)
    return x, L.Dense(5, name="head")(L.GlobalMaxPooling2D(name="pool")(y))


@tiny
def softmax():
    x = image()
    return x, head(block(x, 4, "a"), activation="softmax")


@tiny
def sigmoid():
    x = image()
    return x, head(block(x, 4, "a", activation="sigmoid"), activation="sigmoid")


@tiny
def tanh():
    x = image()
    return x, head(block(x, 4, "a", activation="tanh"), activation="tanh")


@tiny
def rescaling():
    x = image()
    return x, head(block(L.Rescaling(1 / 127.5, offset=-1, name="rescale")(x), 4, "a"))


@tiny
def mixed_float16():
    x = image()
    policy = "mixed_float16"
    y = L.Conv2D(4, 3, use_bias=False, dtype=policy, name="conv")(x)
    y = L.ReLU(dtype=policy, name="relu")(L.BatchNormalization(dtype=policy, name="bn")(y))
    y = L.GlobalAveragePooling2D(dtype=policy, name="pool")(y)
    return x, L.Dense(5, dtype=policy, name="head")(y)


@tiny
def dead_channels():
    x = image()
    y = head(block(block(x, 4, "a"), 6, "b"))
    model = randomized(keras.Model(x, y, name="dead_channels"))
    bn = model.get_layer("a_bn")
    bn.gamma.assign([1.0, 0.0, 1e-9, 0.7])
    bn.moving_variance.assign([1.0, 1.0, 1.0, 1e-12])
    return model


@tiny
def zero_kernel():
    x = image()
    model = randomized(keras.Model(x, head(L.ReLU(name="relu")(L.Conv2D(4, 3, name="conv")(x))), name="zero_kernel"))
    model.get_layer("conv").kernel.assign(np.zeros((3, 3, 3, 4)))
    return model


@tiny
def twin_layers():
    x = image()
    a, b = L.Conv2D(4, 3, name="a"), L.Conv2D(4, 3, name="b")
    model = randomized(keras.Model(x, head(L.Subtract(name="difference")([a(x), b(x)])), name="twin_layers"))
    b.kernel.assign(a.kernel)
    return model


@tiny
def shared_activation():
    x = image()
    relu = L.ReLU(name="relu")
    y = relu(L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="a")(x)))
    return x, head(relu(L.Conv2D(4, 3, name="b")(y)))


@tiny
def activation_object():
    x = image()
    return x, head(L.Conv2D(4, 3, activation=L.LeakyReLU(0.1), name="conv")(x))


@tiny
def normalization():
    x = image()
    normalize = L.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06], name="normalize")
    return x, head(block(normalize(x), 4, "a"))


@tiny
def output_given_twice():
    x = image()
    y = head(block(x, 4, "a"))
    return x, [y, L.Dropout(0.1, name="drop")(y), L.Softmax(name="softmax")(y)]


@tiny
def input_is_an_output():
    x = image()
    return x, [L.Identity(name="copy")(x), head(block(x, 4, "a"))]


@tiny
def permuted():
    x = image()
    y = L.Permute((2, 1, 3), name="swap")(block(x, 4, "a"))
    y = L.Reshape((16, 16), name="reshape")(y)
    return x, L.Dense(5, name="head")(L.Flatten(name="flatten")(y))


@tiny
def static_batch():
    x = keras.Input(batch_shape=(2, 8, 8, 3), name="image")
    return x, head(block(x, 4, "a"))


@tiny
def uint8_input():
    x = keras.Input(SHAPE, dtype="uint8", name="image")
    return x, head(block(L.Rescaling(1 / 255, name="rescale")(x), 4, "a"))


def state(model: keras.Model) -> tuple:
    """Everything about a model that reading it must not touch."""
    return (*fingerprint(model), json.dumps(model.get_config(), default=str))


def functional(model: keras.Model) -> keras.Model:
    return model._functional if isinstance(model, keras.Sequential) else model


def traced_if(steps: int) -> contextlib.AbstractContextManager[None]:
    """`untraced` for a few steps, nothing for many."""
    return contextlib.nullcontext() if steps > _FEW_STEPS else untraced()


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Within it no tf.function is traced: for the few steps of some tests, that would take longer than the steps."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@contextlib.contextmanager
def coarse_search() -> Iterator[None]:
    """Within it ranges are searched on a hundredth of the grids: for tests of what is done with ranges, however good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation_ranges, "search_range", functools.partial(search_range, steps=10))
        yield


_FEW_STEPS = 8
QUICK = Generate(images=4, samples=200, effort="fast")


def quick(model: keras.Model, quantize: Quantize | None = Quantize(), **options) -> Compressed:
    """`compress` with few inputs."""
    recipe = Recipe(name="quick", quantize=quantize, generate=QUICK)
    return compress(model, recipe, verbose=0, **{"input_range": (-1, 1), **options})


# Which models a law is tested on --------------------------------------------------------------------------------------

# One model for each kind of layer, of operation, of input and of output that the canonical form leaves. The other models
# are difficulties of reading and folding; behind these their graphs hold nothing else. test_tiny_models.py sees to it.
KINDS = [
    "plain", "branch_add", "depthwise", "separable", "shared_separable", "grouped", "dilated", "conv_transpose", "conv1d",
    "dense_on_pixels", "one_output_channel", "no_bias", "shared_layer", "shared_activation", "squeeze_excite",
    "concatenate", "merges", "poolings", "zero_padding", "permuted", "upsampling_nearest", "upsampling_bilinear",
    "ops_nodes", "ops_activation", "sine", "activation_object", "leaky_relu", "prelu", "elu", "gelu", "swish",
    "hard_swish", "softmax", "tanh", "normalization", "batchnorm_of_a_vector", "batchnorm_on_another_axis",
    "uint8_input", "static_batch", "dict_inputs", "dict_outputs", "nested_with_dict_inputs", "output_given_twice",
    "input_is_an_output", "flatten_dense", "dead_channels", "zero_kernel",
]  # fmt: skip
# The few that `pytest -m "not slow"` runs.
FIRST = {"plain", "branch_add", "depthwise", "conv1d", "shared_layer", "squeeze_excite", "dict_inputs", "two_outputs",
         "nested", "uint8_input"}  # fmt: skip


def each(names) -> pytest.MarkDecorator:
    """Runs a test with the `name` of each of these models; all but the first few are slow."""
    return pytest.mark.parametrize(
        "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in names]
    )


every_model, every_kind = each(MODELS), each(KINDS)
