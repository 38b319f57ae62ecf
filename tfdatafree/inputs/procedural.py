"""Images with the statistics of natural ones, made from noise: no data, no model, no training.

Every second image is noise whose amplitude spectrum falls as 1/f^a with a near 1, correlated across channels; the
others are dead leaves: discs and polygons with power-law radii that hide one another, each in its own colour, shaded
and textured. Exposure and contrast vary from image to image as photographs do.

Sources: Field 1987, JOSA A 4(12) (the spectrum); Lee, Mumford and Huang 2001, IJCV 41 (dead leaves).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfdatafree.model.network import InputKind

_LEAVES = 220
# Radii as parts of the image's longer side; their density falls as r**-3: the scene looks alike at all scales.
_SMALLEST_LEAF, _LARGEST_LEAF = 0.03, 0.6
# Standard deviation of the logarithm of the strength of fields and noise.
_LOUDNESS = 0.4
# Pixels that are compared with their leaves in one go. It bounds memory; larger parts are not faster.
_PIXELS_AT_ONCE = 2**16

# Drawn images that are kept, and the most values that each of them may have: 16 MB in all.
_KEPT, _KEPT_VALUES = 16, 2**18

# About the mean and the standard deviation of procedural pictures in [0, 1].
PICTURE_MEAN, PICTURE_SD = 0.5, 0.23


def kinds_for(shape: Sequence[int]) -> tuple[InputKind, ...]:
    """Kinds of inputs that differ for this shape, pictures first."""
    return ("pictures", "fields", "noise") if len(shape) > 1 else ("pictures",)


def unit_inputs(n: int, shape: Sequence[int], kind: InputKind = "pictures", seed: int = 0) -> np.ndarray:
    """`n` inputs (n, *shape), float32, with a mean near 0 and a standard deviation near 1. Input i does not depend on n."""
    if kind == "pictures":
        return (procedural_images(n, shape, seed=seed) - np.float32(PICTURE_MEAN)) / np.float32(PICTURE_SD)
    random = np.random.default_rng(seed)
    inputs = np.empty((n, *shape), np.float32)
    for values in inputs:
        field = _spectral_noise(random, tuple(shape)) if kind == "fields" else random.standard_normal(shape, np.float32)
        field /= field.std() + np.float32(1e-6)
        # Loud and soft ones: the mean of their squares is 1.
        values[:] = field * np.float32(np.exp(_LOUDNESS * random.standard_normal() - _LOUDNESS**2))
    return inputs


def procedural_images(
    n: int, shape: Sequence[int], low: float | np.ndarray = 0.0, high: float | np.ndarray = 1.0, seed: int = 0
) -> np.ndarray:
    """`n` inputs of shape `shape` with values in [low, high]; the same arguments give the same bytes.

    Guarantees that every value lies in its channel's [low, high]; most images come near both ends, some are dark,
    bright or of low contrast. Image i does not depend on n.

    Args:
        n: Number of images, at least 1.
        shape: Without the batch: (H, W, C) for images; (L, C) for signals and (D, H, W, C) for volumes, which are 1/f
            noise only; (C,) for vectors, which are uniform or normal. Any sizes of at least 1.
        low, high: Ends of the range of real inputs, low < high: floats or one per channel.
    Returns:
        float32 array (n, *shape).
    Raises:
        ValueError: An argument is none of these.
    """
    shape = tuple(shape)
    if not 1 <= len(shape) <= 4 or not all(isinstance(size, (int, np.integer)) and size >= 1 for size in shape):
        raise ValueError(
            f"shape is {shape}; give (H, W, C), (L, C), (D, H, W, C) or (C,) with fixed sizes of at least 1."
        )
    if n < 1:
        raise ValueError(f"n is {n}; ask for at least 1 image.")
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    if not {low.shape, high.shape} <= {(), shape[-1:]} or not np.all((low < high) & np.isfinite(high - low)):
        raise ValueError(f"the range is [{low}, {high}]; give finite low < high, as floats or {shape[-1]} per channel.")
    few = n * math.prod(shape) <= _KEPT_VALUES
    images = _kept_images(n, shape, seed).copy() if few else _unit_images(n, shape, seed)
    images *= high - low
    images += low
    return np.clip(images, low, high, out=images)  # rounding may have left the range by a digit


def _unit_images(n: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """`procedural_images` in [0, 1]."""
    random = np.random.default_rng(seed)
    images = np.empty((n, *shape), np.float32)
    for i, image in enumerate(images):
        if len(shape) == 1:
            image[:] = random.random(shape) if i % 2 else np.clip(random.normal(0.5, 0.25, shape), 0, 1)
            continue
        draw = _dead_leaves if len(shape) == 3 and i % 2 else _spectral_noise
        image[:] = _exposed(draw(random, shape), random)
    return images


# Every compression of a small network draws the same images, for its ranges and for the estimate of agreement.
_kept_images = functools.lru_cache(maxsize=_KEPT)(_unit_images)


def _spectral_noise(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian noise (*spatial, channels) with amplitudes 1/f^a and one correlation between all channels."""
    *spatial, channels = shape
    squared: Any = sum(
        np.meshgrid(
            *(np.fft.fftfreq(size) ** 2 for size in spatial[:-1]),
            np.fft.rfftfreq(spatial[-1]) ** 2,
            indexing="ij",
            sparse=True,
        )
    )
    squared.flat[0] = np.inf  # no constant part: exposure is chosen later
    amplitude = (squared ** (-random.uniform(0.9, 1.4) / 2)).astype(np.float32)
    shared = random.uniform(0.75, 0.98)
    common, own = np.sqrt(np.array([shared, 1 - shared], np.float32))
    noise = random.standard_normal((channels + 1, *amplitude.shape, 2), np.float32).view(np.complex64)[..., 0]
    spectrum = (common * noise[0] + own * noise[1:]) * amplitude
    fields = np.fft.irfftn(spectrum, s=spatial, axes=range(1, len(shape)))
    return np.moveaxis(fields, 0, -1).astype(np.float32)


def _dead_leaves(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Scene (H, W, C) of leaves painted back to front on a background."""
    height, width, channels = shape
    label = _leaf_map(random, height, width)
    luminance = random.random((_LEAVES + 1, 1))
    colour = luminance + 0.25 * random.uniform(0.1, 1.0) * random.standard_normal((_LEAVES + 1, channels))
    colour = colour.astype(np.float32)
    # Each leaf is shaded along a direction of its own and shows more or less of one texture.
    slope = (0.25 * random.standard_normal((2, _LEAVES + 1))).astype(np.float32)
    roughness = (0.12 * random.random(_LEAVES + 1) ** 2).astype(np.float32)
    texture = _spectral_noise(random, (height, width, 1))[..., 0]
    texture /= texture.std() + np.float32(1e-6)
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in (height, width))
    light = slope[0][label] * y[:, None] + slope[1][label] * x + roughness[label] * texture
    scene = colour[label] + light[..., None]
    blur = np.float32(random.random())  # a lens, sharp or not
    return (1 - blur) * scene + blur * _blurred(scene)


def _leaf_map(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Which leaf is seen at each pixel, (H, W) of 0 (background) to _LEAVES."""
    size = max(height, width)
    # The inverse of the radii's distribution function.
    u = random.random(_LEAVES)
    radii = size / np.sqrt(u / _SMALLEST_LEAF**2 + (1 - u) / _LARGEST_LEAF**2)
    centres = random.random((_LEAVES, 2)) * (height, width)
    corners = random.integers(2, 7, _LEAVES)  # 2 stands for an ellipse
    angles = random.random(_LEAVES) * 2 * np.pi
    aspects = random.uniform(0.4, 1.0, _LEAVES)
    cos, sin = np.cos(angles), np.sin(angles)
    # A regular polygon, squeezed: all its sides lie at the distance `apothem` from the centre, in the directions `turns`.
    turns = np.arange(corners.max())[:, None] % corners * 2 * np.pi / corners
    side_cos, side_sin = np.cos(turns), np.sin(turns)
    apothem = np.where(corners == 2, np.inf, radii * np.cos(np.pi / corners))

    label = np.zeros(height * width, np.intp)
    first = np.maximum((centres - radii[:, None]).astype(int), 0)
    sizes = np.minimum((centres + radii[:, None]).astype(int) + 1, (height, width)) - first
    part = np.cumsum(sizes.prod(axis=1)) // _PIXELS_AT_ONCE
    for some in np.split(np.arange(_LEAVES), np.flatnonzero(np.diff(part)) + 1):
        leaf, y, x = _pixels_of(some, first, sizes)
        dy, dx = y + 0.5 - centres[leaf, 0], x + 0.5 - centres[leaf, 1]
        along = cos[leaf] * dx + sin[leaf] * dy
        across = (cos[leaf] * dy - sin[leaf] * dx) / aspects[leaf]
        inside = np.flatnonzero(along**2 + across**2 < radii[leaf] ** 2)
        for cos_turn, sin_turn in zip(side_cos, side_sin, strict=True):
            of = leaf[inside]
            distance = cos_turn[of] * along[inside] + sin_turn[of] * across[inside]
            inside = inside[distance < apothem[of]]
        # The last leaf hides those before it: where an index comes several times, NumPy keeps the last value.
        label[y[inside] * width + x[inside]] = leaf[inside] + 1
    return label.reshape(height, width)


def _pixels_of(leaves: np.ndarray, first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Leaf, y and x of every pixel in the leaves' boxes, leaf after leaf, (3, pixels). Boxes start at `first` (leaves, 2)."""
    counts = sizes[leaves].prod(axis=1)
    leaf = np.repeat(leaves, counts)
    at = np.arange(len(leaf)) - np.repeat(np.cumsum(counts) - counts, counts)
    y, x = np.divmod(at, sizes[leaf, 1])
    return np.stack([leaf, first[leaf, 0] + y, first[leaf, 1] + x])


def _blurred(scene: np.ndarray) -> np.ndarray:
    """The scene (H, W, C) through a (1, 2, 1) / 4 filter along both sides."""
    padded = np.pad(scene, ((1, 1), (0, 0), (0, 0)), mode="edge")
    rows = (padded[:-2] + padded[2:]) / 4 + scene / 2
    padded = np.pad(rows, ((0, 0), (1, 1), (0, 0)), mode="edge")
    return (padded[:, :-2] + padded[:, 2:]) / 4 + rows / 2


def _exposed(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image (..., C) brought into [0, 1] as a camera would: brightness, colour cast, clipped lights, contrast."""
    darkest, brightest = image.min(), image.max()
    if darkest == brightest:
        return np.full_like(image, random.random())
    image = (image - darkest) / (brightest - darkest)
    image **= np.exp(0.4 * random.standard_normal() + 0.1 * random.standard_normal(image.shape[-1])).astype(np.float32)
    overexposure = np.float32(random.uniform(1.0, 1.2))
    image = np.clip((image - 0.5) * overexposure + 0.5, 0, 1)
    if random.random() < 0.3:
        contrast = random.uniform(0.25, 0.9)
        image = image * np.float32(contrast) + np.float32(random.uniform(0, 1 - contrast))
    return image
