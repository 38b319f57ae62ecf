"""generate_images(): inputs without data, whose statistics inside the model are those of its training data.

    load -> separate -> start (procedural images) -> match BatchNorm statistics, batch by batch -> images

The optimisation itself is in matching.py.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Literal

import keras
import numpy as np

from tfdatafree.canonical.separate import separate
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.files import write_atomically
from tfdatafree.inputs.checkpoint import (
    fingerprint,
    finished_images,
    parse_state,
    read_checkpoint,
    require_npz,
    state_arrays,
)
from tfdatafree.inputs.generated_images import GeneratedImages, arrays_of, npz_bytes
from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.inputs.input_range import (
    as_given,
    find_input_ranges,
)
from tfdatafree.inputs.make import make_inputs
from tfdatafree.inputs.matching import Matcher, Matching
from tfdatafree.limits import require_inputs_fit, require_seed, short
from tfdatafree.model.graph import Graph, TensorSpec
from tfdatafree.model.load import load
from tfdatafree.model.network import InputRange
from tfdatafree.progress import Progress


def generate_images(
    model: "keras.Model | str | os.PathLike",
    n: int,
    *,
    image_size: int | tuple[int, ...] | None = None,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    start: "Literal['procedural', 'noise'] | np.ndarray | GeneratedImages" = "procedural",
    steps: int = 100,
    learning_rate: float = 0.03,
    statistics: Literal["batch", "set", "image"] = "batch",
    total_variation: float = 0.0,
    l2: float = 0.0,
    targets: np.ndarray | None = None,
    target_weight: float = 1.0,
    swing: bool = False,
    batch_size: int | None = None,
    path: str | os.PathLike | None = None,
    seed: int = 0,
    unsafe_load: bool = False,
    verbose: int = 1,
) -> GeneratedImages:
    """Makes `n` inputs whose statistics at every BatchNorm come close to the stored ones. The model is not changed.

    Args:
        model: As for `compress`, but with its BatchNorms. They may be in nested models.
        n: Number of images.
        image_size: Height and width (or one number for both), if other than the model's own. Smaller images take less time.
            The model must be convolutional up to its last BatchNorm; with `targets`, up to its outputs.
        input_range: As for `compress`. All values stay within it.
        start: Images to start from. "procedural": images with the statistics of natural ones, which need several times fewer
            steps than "noise". Or an array (n, *shape) of values within the range, or the result of an earlier call.
        steps: Steps of Adam for each image.
        learning_rate: Length of the first step as a part of the input range; it decays to 0 as a cosine.
        statistics: "batch": each batch has the stored statistics, as in FRanDI. "set": all images together have them, so that
            batches differ as real ones do. The two are the same unless `n` is larger than the batch size, so give `batch_size`,
            too, e.g. 32. "image": each image alone has them, as in ZeroQ (Cai et al. 2020); images are then more alike than real
            ones.
        total_variation, l2: Weights of these priors (Yin et al. 2020), which make images smooth, and grey.
        targets: Class labels, int (n,), that the model shall assign to the images; or outputs, float (n, ...), that it shall
            give for them.
        target_weight: Weight of the term for `targets`.
        swing: Shift each strided convolution's input by a random part of its stride, so that all pixels have the same
            influence (Jeon et al. 2023).
        batch_size: Images optimised together; None: as many as about 2 GB of memory allow.
        path: An .npz file for finished and unfinished images. An interrupted run continues from it, and gives the same bytes
            as an uninterrupted one.
        seed: The same seed gives the same bytes.
        unsafe_load: As for `compress`.
        verbose: 0 hides the progress bar, which shows the loss.

    Raises:
        UnsupportedModelError: The model has no BatchNorm, or a layer does not work at `image_size`; says what to do.
        ValueError: An option is wrong, or `path` holds images of another model or of other options.
        LoadError: `path` is damaged, or as for `compress`.
    Source: Sobolev et al., FRanDI, eq. 1.
    """
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n is {short(n)}; ask for at least 1 image.")
    seed = require_seed(seed)
    if statistics not in ("batch", "set", "image"):
        raise ValueError(f"statistics is {statistics!r}; choose 'batch', 'set' or 'image'.")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; give a whole number of at least 1, or None.")
    options = Matching(
        steps=steps,
        learning_rate=learning_rate,
        total_variation=total_variation,
        l2=l2,
        target_weight=target_weight,
        swing=swing,
        whole_set=statistics == "set",
        by_image=statistics == "image",
    )
    graph = _read(model, image_size, unsafe_load)
    found = find_input_ranges(graph, None if input_range is None else check_input_range(input_range), seed)
    limits = {name: range_.ends for name, range_ in zip(graph.inputs, found, strict=True)}
    specs = input_specs(graph, image_size)
    for spec in specs:
        require_inputs_fit(n, spec.example_shape)
    targets = None if targets is None else _checked_targets(targets, n)
    matcher = Matcher(
        graph,
        options,
        shapes=[spec.example_shape for spec in specs],
        ranges=list(limits.values()),
        targets=targets,
        seed=seed,
    )
    begin = _start(graph, specs, start, n, found, seed)
    batch = batch_size or matcher.batch_size(n)
    ranges = as_given(limits)
    identity = fingerprint(graph, options, begin, targets, ranges, batch, seed)
    state = matcher.start(begin, batch)
    if path is not None:
        path = require_npz(path)
        saved = read_checkpoint(path, identity)
        if saved is not None and "state_done" not in saved:
            return finished_images(saved, graph.inputs, ranges)
        state = state if saved is None else parse_state(saved, len(specs))
    progress = Progress(state.loss.size, verbose, steps_done=state.done)
    try:
        for loss, worth_saving in matcher.advance(state):
            progress.step(f"match BatchNorm statistics, loss {loss:.3f}")
            if worth_saving and path is not None and state.done < state.loss.size:
                write_atomically(path, npz_bytes(state_arrays(state) | {"identity": np.array(identity)}))
    finally:
        progress.close()
    images = []
    for array, spec in zip(state.images, specs, strict=True):
        values = array.reshape(-1, *array.shape[2:])[:n]
        images.append(np.rint(values).astype(spec.dtype) if "int" in spec.dtype else values)
    divergence = matcher.divergence(images, batch)
    result = GeneratedImages(
        inputs=dict(zip(graph.inputs, images, strict=True)),
        input_range=ranges,
        loss=state.loss,
        divergence=divergence,
    )
    if path is not None:
        write_atomically(path, npz_bytes(arrays_of(result) | {"identity": np.array(identity)}))
    return result


def _read(model, image_size, unsafe: bool) -> Graph:
    """The separated graph. Where the model's input size is not static, it is `image_size`."""
    shape = None
    if isinstance(model, keras.Model) and image_size is not None and getattr(model, "inputs", None):
        sizes = tuple(model.inputs[0].shape[1:])
        if len(model.inputs) == 1 and None in sizes[:-1]:
            shape = (*_sizes(image_size, len(sizes) - 1), sizes[-1])
    return separate(Graph.from_keras(load(model, unsafe=unsafe, input_shape=shape))).graph


def _sizes(image_size, rank: int) -> tuple[int, ...]:
    sizes = (image_size,) * rank if isinstance(image_size, (int, np.integer)) else tuple(image_size)
    if len(sizes) != rank or not all(isinstance(size, (int, np.integer)) and size >= 1 for size in sizes):
        raise ValueError(f"image_size is {image_size!r}; give {rank} whole numbers of at least 1, or one for all.")
    return tuple(int(size) for size in sizes)


def input_specs(graph: Graph, image_size: int | tuple[int, ...] | None) -> list[TensorSpec]:
    """Shape and type of each input to make.

    Raises:
        UnsupportedModelError, ValueError: As for `generate_images`.
    """
    specs = []
    for tensor in graph.inputs:
        spec = graph.specs[tensor]
        if "float" not in spec.dtype and spec.dtype != "uint8":
            raise UnsupportedModelError(
                f"input '{tensor}' takes {spec.dtype}, which has no gradient; only inputs of floats or of uint8 can be "
                "matched to BatchNorm statistics."
            )
        if image_size is not None:
            if len(graph.inputs) > 1:
                raise ValueError(f"image_size is for models with one input; '{graph.name}' has {len(graph.inputs)}.")
            spec = TensorSpec((None, *_sizes(image_size, len(spec.shape) - 2), spec.shape[-1]), spec.dtype)
        specs.append(spec)
    return specs


def _start(graph: Graph, specs, start, n: int, ranges: tuple[InputRange, ...], seed: int) -> list[np.ndarray]:
    """The first images, one array per input."""
    limits = [range_.ends for range_ in ranges]
    if isinstance(start, (np.ndarray, GeneratedImages)):
        arrays = list(start.inputs.values()) if isinstance(start, GeneratedImages) else [start]
        shapes, wanted = [array.shape for array in arrays], [(n, *spec.shape[1:]) for spec in specs]
        if shapes != wanted:
            raise ValueError(f"start has shape {_listed(shapes)}; give {_listed(wanted)}.")
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("start has NaN or infinite values; give finite ones within the input range.")
        return [np.clip(array, *ends).astype(np.float32) for array, ends in zip(arrays, limits, strict=True)]
    if start == "procedural":
        resized = graph.copy()
        resized.specs |= {
            name: TensorSpec(spec.shape, "float32") for name, spec in zip(graph.inputs, specs, strict=True)
        }
        own_size = all(graph.specs[name].shape == resized.specs[name].shape for name in graph.inputs)
        return make_inputs(resized, n, ranges if own_size else tuple(map(_for_any_size, ranges)), seed=seed)
    if start == "noise":
        random = np.random.default_rng(seed)
        drawn = [random.standard_normal((n, *spec.shape[1:]), np.float32) for spec in specs]
        return [
            np.clip((low + high) / 2 + array * ((high - low) / 4), low, high).astype(np.float32)
            for array, (low, high) in zip(drawn, limits, strict=True)
        ]
    raise ValueError(f"start is {start!r}; choose 'procedural' or 'noise', or give an array.")


def _for_any_size(range_: InputRange) -> InputRange:
    """The range without what is fitted along an axis of the model's own input size."""
    fits_all = range_.offset is None or range_.offset.ndim == 1
    return range_ if fits_all else dataclasses.replace(range_, offset=None, scale=None, kind="pictures")


def _listed(shapes: list[tuple]) -> str:
    return ", ".join(map(str, shapes))


def _checked_targets(targets, n: int) -> np.ndarray:
    """`targets` as an array of `n` labels or outputs."""
    targets = np.asarray(targets)
    if not targets.ndim or len(targets) != n or targets.dtype.kind not in "iuf":
        raise ValueError(
            f"targets are {targets.dtype} of shape {targets.shape}; give {n} class labels (int) or outputs ({n}, ...)."
        )
    return targets
