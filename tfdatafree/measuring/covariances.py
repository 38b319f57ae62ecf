"""Computes the covariance of what each layer with a kernel reads, from generated inputs or from BatchNorm statistics alone.

    "normalized"  procedural images; every BatchNorm's statistics are restored on the way (`walks.normalized_walk`)
    "gaussian"    independent normal channels and pixels with the moments of BatchNorm   (Horton et al. 2021, eq. 10-12)
    "standard"    N(0, 1)                                                                (their ablation "ours-S")

Where a kernel reads a global average, "normalized" measures the pixels before the average, because the kernel is linear in them.
There are many more pixels than averages, so the covariance has full rank. Single pixels also show what an image contains more
strongly than their mean does.

Images pass in batches, so that memory holds only one batch and the covariances.
"""

import math
from collections.abc import Iterator

import keras
import numpy as np

from tfdatafree.measuring.gaussian import gaussian_walk
from tfdatafree.measuring.patches import sample_patches
from tfdatafree.measuring.walks import Draw, normalized_batch_size, normalized_walk
from tfdatafree.model.graph import Graph, Layer
from tfdatafree.model.kernels import find_layout, kernel_of, layout_of
from tfdatafree.model.operations import is_activation_layer, operation_of

# Images in one batch: enough that its statistics may stand for those of the training data.
_BATCH = 128
# Largest covariance; its spectrum takes seconds.
MOST_INPUTS = 2304
# Error of a mean of squares in float32, as a part of it.
_ROUNDING = 1e-6
_POOLINGS = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


def input_covariances(
    unfolded: Graph,
    folded: Graph,
    draw: Draw,
    *,
    inputs: str = "normalized",
    activations: bool = True,
    images: int = 256,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Layer key -> covariance (groups, inputs, inputs), float32, of the patches that the layer's first call reads.

    After a global average pooling, "normalized" gives the covariance of the pixels before it. It is larger than that of the
    means.

    Args:
        unfolded: The separated graph with its BatchNorms.
        folded: The graph that will be pruned; a layer that reads another tensor there is left out.
        draw: Makes the generated inputs, batch after batch.
        inputs: "normalized", "gaussian" or "standard".
        activations: For "gaussian": whether samples pass through the activations in front of a layer.
        images: For "normalized": number of images.
    """
    read = _readers(folded)
    same = {key: tensor for key, tensor in _readers(unfolded).items() if read.get(key) == tensor}
    if inputs == "normalized":
        before = {key: _before_pooling(unfolded, key, tensor) for key, tensor in same.items()}
        return _from_images(unfolded, before, draw, images, seed)
    if inputs == "standard":
        ones = {key: np.ones(unfolded.specs[tensor].size(-1)) for key, tensor in same.items()}
        return {key: _independent(unfolded, key, one) for key, one in ones.items() if _fits(unfolded, key)}
    graph = unfolded if activations else _without_activations(unfolded)
    variances = {tensor: values.var(axis=0, dtype=np.float64) for tensor, values in gaussian_walk(graph, seed=seed)}
    return {
        key: _independent(unfolded, key, variances[tensor])
        for key, tensor in _readers(graph).items()
        if key in same and tensor in variances and _fits(unfolded, key)
    }


def _from_images(graph: Graph, read: dict[str, str], draw: Draw, images: int, seed: int) -> dict:
    step = min(_BATCH, normalized_batch_size(graph))
    random = np.random.default_rng(seed)
    counts: dict[str, int] = {}
    sums: dict[str, np.ndarray] = {}
    products: dict[str, np.ndarray] = {}
    for start in range(0, images, step):
        # The seeds of two batches are far apart, because the inputs of a model take consecutive seeds.
        batch = draw(min(step, images - start), seed + 1000 + 101 * start)
        for key, patches in _patches(graph, read, batch, random):
            by_group = np.swapaxes(patches.astype(np.float32), 0, 1)
            counts[key] = counts.get(key, 0) + len(patches)
            sums[key] = sums.get(key, 0) + by_group.sum(axis=1, dtype=np.float64)
            products[key] = products.get(key, 0) + np.swapaxes(by_group, 1, 2) @ by_group
    covariances = {}
    for key, count in counts.items():
        mean = sums.pop(key) / count
        moments = products.pop(key) / count
        covariance = moments - mean[:, :, None] * mean[:, None, :]
        # What is left of the squares of nearly constant inputs is rounding error, which may be negative.
        noise = np.einsum("gii->gi", covariance) <= _ROUNDING * np.einsum("gii->gi", moments)
        covariance[noise[:, :, None] | noise[:, None, :]] = 0
        covariances[key] = covariance.astype(np.float32)
    return covariances


def _patches(graph: Graph, read: dict[str, str], batch: list, random) -> Iterator[tuple[str, np.ndarray]]:
    keys: dict[str, list[str]] = {}
    for key, tensor in read.items():
        keys.setdefault(tensor, []).append(key)
    for tensor, array in normalized_walk(graph, batch):
        for key in keys.get(tensor, ()):
            patches = sample_patches(array, graph.layers[key], random, MOST_INPUTS)
            if patches is not None:
                yield key, patches


def _readers(graph: Graph) -> dict[str, str]:
    """Key of each layer with a kernel -> the tensor that its first call reads."""
    tensors: dict[str, str] = {}
    for node in graph.nodes:
        if node.inputs and find_layout(graph.layer_of(node)):
            tensors.setdefault(node.layer, node.inputs[0])
    return tensors


def _before_pooling(graph: Graph, key: str, tensor: str) -> str:
    """The tensor whose average is `tensor`, if the layer reads only averages, pixel by pixel; else `tensor`."""
    if math.prod(kernel_of(graph.layers[key]).shape[:-2]) > 1 or layout_of(graph.layers[key]).kind == "depthwise":
        return tensor
    producers, channels, at = graph.producers(), graph.specs[tensor].shape[-1], tensor
    while at in producers:
        node = producers[at]
        operation = graph.operation_of(node)
        if isinstance(operation, _POOLINGS) and graph.specs[node.inputs[0]].shape[-1] == channels:
            return node.inputs[0]
        moves = operation_of(graph.layer_of(node)).values == "same"
        if not moves or math.prod(graph.specs[node.inputs[0]].example_shape) != channels:
            break
        at = node.inputs[0]
    return tensor


def _fits(graph: Graph, key: str) -> bool:
    layer = graph.layers[key]
    layout = layout_of(layer)
    return layout.kind == "depthwise" or kernel_of(layer).shape[-1 if layout.kind == "transpose" else -2] <= MOST_INPUTS


def _independent(graph: Graph, key: str, variance: np.ndarray) -> np.ndarray:
    """Diagonal covariance of independent channels. Pixels are independent, too, so all taps share it."""
    layer: Layer = graph.layers[key]
    layout = layout_of(layer)
    if layout.kind == "depthwise":
        return variance.reshape(-1, 1, 1).astype(np.float32)
    groups = getattr(layer.operation, "groups", 1)
    inside = kernel_of(layer).shape[-1 if layout.kind == "transpose" else -2]
    return np.stack([np.diag(part) for part in variance.reshape(groups, inside)]).astype(np.float32)


def _without_activations(graph: Graph) -> Graph:
    graph = graph.copy()
    for name in [node.name for node in graph.nodes]:
        node = graph.node(name)
        layer = graph.layer_of(node)
        mixes = operation_of(layer, by_name=True).channels == "mixed"
        if is_activation_layer(layer) and not mixes and node.output not in graph.outputs:
            graph.redirect(node.output, node.inputs[0])
            graph.replace(graph.node(name))
            del graph.specs[node.output]
    return graph
