"""Samples the input patches of each layer with a kernel, and computes their covariance."""

import math
from collections.abc import Iterable, Iterator, MutableMapping

import numpy as np

from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of
from tfdatafree.numerics.second_moment import covariance_of, with_doubt

# Patches per input of a kernel, and the fewest and most per layer. A patch is what one output pixel reads of the input.
_PATCHES_PER_INPUT, _FEWEST_PATCHES, _MOST_PATCHES = 2, 512, 2048
# Size of the largest covariance; its factorization takes a second or less. Larger kernels are sampled pixel by pixel.
MOST_INPUTS = 1280


def sample_patches(
    x: np.ndarray, layer: Layer, random: np.random.Generator, most_inputs: int = MOST_INPUTS
) -> np.ndarray | None:
    """Random patches of `x` as the layer's kernel reads them: a few for each input of the kernel.

    Args:
        x: Input of the layer, (n, *spatial, channels).
        most_inputs: Size of the largest covariance that is wanted.

    Returns:
        (count, groups, inputs per group), inputs ordered as in `kernels.output_last`. Single pixels, (count, 1, channels), for
        kernels of more than `most_inputs` inputs. Single pixels also for transposed convolutions, whose outputs use different
        parts of the kernel. None if even the channels are too many.
    """
    layout = layout_of(layer)
    channels = x.shape[-1]
    groups = channels if layout.kind == "depthwise" else getattr(layer.operation, "groups", 1)
    inputs = channels // groups * math.prod(kernel_of(layer).shape[: layout.rank])
    by_pixel = layout.kind == "transpose" or (inputs > most_inputs and groups == 1)
    inputs = channels if by_pixel else inputs
    if inputs > most_inputs:
        return None
    count = min(max(_PATCHES_PER_INPUT * inputs, _FEWEST_PATCHES), _MOST_PATCHES)
    if layout.kind == "dense" or by_pixel:
        rows = x.reshape(-1, channels)
        drawn = rows if len(rows) <= count else rows[random.integers(len(rows), size=count)]
        return drawn[:, None, :]
    return draw_patches(x, layer, random, count)[0]


def draw_patches(
    x: np.ndarray, layer: Layer, random: np.random.Generator, count: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """(`count` random patches of `x` as in `patches_at`, their places)."""
    places = tuple(random.integers(size, size=count) for size in _places_of(x, layer))
    return patches_at(x, layer, places), places


def patches_at(x: np.ndarray, layer: Layer, places: tuple[np.ndarray, ...]) -> np.ndarray:
    """Patches of `x` as the kernel of a dense, ordinary, grouped or depthwise layer reads them.

    Args:
        x: Input of the layer, (n, *spatial, channels).
        places: One array of indices (count,) for each axis of the layer's output but the last. The patches give
            output[places].

    Returns:
        (count, groups, inputs per group), ordered as in `kernels.output_last`.
    """
    layout, operation = layout_of(layer), layer.operation
    if layout.kind == "dense":
        return x[places][:, None, :]
    count, channels = len(places[0]), x.shape[-1]
    groups = channels if layout.kind == "depthwise" else getattr(operation, "groups", 1)
    index: list[np.ndarray] = [places[0].reshape(count, *[1] * layout.rank)]
    inside = np.ones((count, *[1] * layout.rank), bool)
    for axis in range(layout.rank):
        size, kernel = x.shape[1 + axis], operation.kernel_size[axis]
        stride, dilation = operation.strides[axis], operation.dilation_rate[axis]
        _, before = _placement(size, kernel, stride, dilation, operation.padding)
        at = (places[1 + axis] * stride - before)[:, None] + np.arange(kernel) * dilation
        shape = [count] + [kernel if other == axis else 1 for other in range(layout.rank)]
        inside = inside & ((at >= 0) & (at < size)).reshape(shape)
        index.append(np.clip(at, 0, size - 1).reshape(shape))
    patches = x[tuple(index)] * inside[..., None]
    grouped = patches.reshape(count, -1, groups, channels // groups)
    return np.swapaxes(grouped, 1, 2).reshape(count, groups, -1)


def _places_of(x: np.ndarray, layer: Layer) -> tuple[int, ...]:
    """Sizes of the axes of the layer's output but the last."""
    layout, operation = layout_of(layer), layer.operation
    if layout.kind == "dense":
        return x.shape[:-1]
    settings = zip(
        x.shape[1:-1], operation.kernel_size, operation.strides, operation.dilation_rate, strict=True
    )  # fmt: skip
    return (len(x), *(_placement(*setting, operation.padding)[0] for setting in settings))


def _placement(size: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """(number of outputs, zeros before the first input) along one axis."""
    extent = (kernel - 1) * dilation + 1
    if padding == "valid":
        return (size - extent) // stride + 1, 0
    outputs = -(-size // stride)
    if padding == "causal":
        return outputs, extent - 1
    return outputs, max((outputs - 1) * stride + extent - size, 0) // 2


def tap_covariances(
    values: Iterable[tuple[str, np.ndarray]],
    graph: Graph,
    covariances: MutableMapping[str, np.ndarray],
    *,
    seed: int = 0,
) -> Iterator[tuple[str, np.ndarray]]:
    """Passes a stream of (tensor, array) on, and puts the input covariance of each kernel layer into `covariances` by key.

    A layer called several times keeps the covariance of its first call.
    """
    random = np.random.default_rng(seed)
    readers = graph.consumers()
    for tensor, array in values:
        for node in readers.get(tensor, ()):
            layer = graph.layer_of(node)
            if node.layer in covariances or find_layout(layer) is None or node.inputs[0] != tensor:
                continue
            patches = sample_patches(array, layer, random)
            if patches is not None:
                covariances[node.layer] = with_doubt(
                    covariance_of(patches.astype(np.float32, copy=False)), len(patches)
                )
        yield tensor, array


def tap_shares(layer: Layer, spatial: tuple[int | None, ...]) -> np.ndarray:
    """Part of the output pixels for which each tap of a kernel lies inside an input of this size; shape (*taps,).

    For the other pixels, the tap reads padding. Ones for transposed convolutions, dense layers, and axes of unknown size.
    """
    layout, shares = layout_of(layer), np.ones(())
    for axis in range(0 if layout.kind == "transpose" else layout.rank):
        operation, size = layer.operation, spatial[axis]
        kernel, stride, dilation = operation.kernel_size[axis], operation.strides[axis], operation.dilation_rate[axis]
        inside = np.ones(kernel)
        if size is not None:
            outputs, before = _placement(size, kernel, stride, dilation, operation.padding)
            at = np.arange(outputs)[:, None] * stride - before + np.arange(kernel) * dilation
            inside = ((at >= 0) & (at < size)).mean(axis=0)
        shares = shares[..., None] * inside
    return shares if shares.ndim else np.ones((1,) * layout.rank)
