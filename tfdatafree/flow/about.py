"""What a file will say of its making, and of how 8-bit pixels become its inputs.

x = (p - mean) / std per channel, for pixels p of 0 to 255, where the range [low, high] of x tells it:

low = 0 or low = -high     pixels fill the range:                  mean = 255 abs(low) / (high - low),  std = 255 / (high - low)
about [-2.12, 2.64]        three channels, normalized as ImageNet: mean = 255 (0.485, ...),         std = 255 (0.229, ...)

All other ranges may be anything, such as pixels less the mean of each channel, and tell nothing.
"""

import dataclasses
import hashlib

import numpy as np

from tfdatafree.inputs.input_range import IMAGENET_RANGE
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange, Network, Pruning
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.task import Task
from tfdatafree.tflite.metadata import About, InputAbout

_BRIGHTEST = 255
_IMAGENET_MEAN, _IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# How far a range that somebody rounded may be from ImageNet's.
_ROUNDED = 0.05


def describe(task: Task, source: Graph, ranges: tuple[InputRange, ...]) -> About:
    """What the file of this task tells. The user's paths and data are no part of it.

    Args:
        source: The model as it was read.
        ranges: Those of its inputs, in its order.
    """
    kept = ("input_range", "input_shape", "target", "seed")
    call = {name: value for name, value in task.call.items() if name in kept}
    shapes = [source.specs[name].shape for name in source.inputs]
    return About(
        model=source.name,
        weights=weights_hash(source),
        recipe=task.user_recipe.to_dict(),
        call={**call, "representative_data": task.representative_data is not None},
        inputs=tuple(_input(known, shape) for known, shape in zip(ranges, shapes, strict=True)),
        labels=task.labels,
    )


def made_with(network: Network, replay: Recipe) -> About | None:
    """What the file says if it is made with the recipe `replay`, which searches for no bits; and for no sparsity any more."""
    if network.about is None:
        return None
    return dataclasses.replace(network.about, recipe=with_found_sparsity(replay, network.pruning).to_dict())


def with_found_sparsity(recipe: Recipe, pruning: Pruning | None) -> Recipe:
    """`recipe` with the sparsity that was found in place of "auto"."""
    if recipe.prune is None or recipe.prune.sparsity != "auto" or pruning is None:
        return recipe
    return dataclasses.replace(recipe, prune=dataclasses.replace(recipe.prune, sparsity=pruning.asked))


def weights_hash(graph: Graph) -> str:
    """SHA-256, in hexadecimal, of a model's weights: the bytes of each array, in the order of its layers."""
    digest = hashlib.sha256()
    for layer in graph.layers.values():
        for values in layer.weights:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _input(known: InputRange, shape: tuple[int | None, ...]) -> InputAbout:
    channels = shape[-1] if known.kind == "pictures" and len(shape) == 4 and shape[-1] in (1, 3) else None
    mean, std = normalization(known.low, known.high, channels) if channels and known.told else ((), ())
    return InputAbout(
        low=known.low, high=known.high, estimated=known.estimated, is_picture=channels is not None, mean=mean, std=std
    )


def normalization(low: float, high: float, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of 8-bit pixels, one for all channels or one each; both empty where the range does not tell them."""
    if channels == 3 and np.allclose((low, high), IMAGENET_RANGE, rtol=0, atol=_ROUNDED):
        return tuple(_BRIGHTEST * np.array(_IMAGENET_MEAN)), tuple(_BRIGHTEST * np.array(_IMAGENET_SD))
    if low == 0 or low == -high:
        return (_BRIGHTEST * abs(low) / (high - low),), (_BRIGHTEST / (high - low),)
    return (), ()
