"""The images of a distillation: those that judge a student, and those that train it, kept in files beside its checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdatafree.files import write_atomically
from tfdatafree.inputs.checkpoint import read_checkpoint
from tfdatafree.inputs.generate import generate_images
from tfdatafree.inputs.generated_images import npz_bytes
from tfdatafree.inputs.input_range import as_given
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRange
from tfdatafree.progress import Progress
from tfdatafree.recipe.distillation import MatchedImages
from tfdatafree.recovery.distillation.deep_inversion import Inverter
from tfdatafree.recovery.distillation.pool import Pool, in_type, joined


@dataclass(frozen=True)
class Place:
    """Where images are kept, and what they are made with.

    Attributes:
        checkpoint: The file of the run; None keeps nothing.
        seed: Seed of the images.
        verbose: 0 hides the progress bar.
    """

    checkpoint: Path | None
    seed: int
    verbose: int

    def beside(self, name: str) -> Path | None:
        """The file `stem.name.npz` beside `stem.npz`."""
        return None if self.checkpoint is None else self.checkpoint.with_suffix(f".{name}.npz")


def matched_images(
    model: keras.Model, graph: Graph, ranges: Sequence[InputRange], options: MatchedImages, place: Place, name: str
) -> Any:
    """Images with the stored statistics, as `feature_regression` takes them; without BatchNorms: procedural ones.

    Args:
        graph: The separated graph of `model`.
        ranges: Range of each input.
        name: What the file beside the checkpoint is called.
    """
    if not any(is_batchnorm(layer) for layer in graph.layers.values()):
        return dict(zip(graph.inputs, make_inputs(graph, options.images, tuple(ranges), seed=place.seed), strict=True))
    return generate_images(
        model,
        options.images,
        input_range=as_given({tensor: range_.ends for tensor, range_ in zip(graph.inputs, ranges, strict=True)}),
        steps=options.steps,
        statistics="set",
        batch_size=min(options.group, options.images),
        path=place.beside(name),
        seed=place.seed,
        verbose=place.verbose,
    )


def inverted_images(inverter: Inverter, graph: Graph, place: Place, identity: str) -> Pool:
    """All images of Deep Inversion. An interrupted run continues with the group at which it stopped.

    Args:
        graph: The teacher, whose inputs they are for.
        identity: A text that is the same only for the same images.
    """
    file, options = place.beside("images"), inverter.options
    saved = None if file is None else read_checkpoint(file, identity)
    pools = [] if saved is None else [_pool_of(saved, len(graph.inputs))]
    done = 0 if saved is None else int(saved["groups"])
    progress = Progress(inverter.groups * options.steps, place.verbose, steps_done=done * options.steps)
    try:
        for number in range(done, inverter.groups):
            pools.append(inverter.group(number, lambda loss: progress.step(f"Deep Inversion, loss {loss:.3f}")))
            if file is not None:
                arrays = _arrays_of(joined(pools)) | {"identity": np.array(identity), "groups": np.array(number + 1)}
                write_atomically(file, npz_bytes(arrays))
    finally:
        progress.close()
    pool = joined(pools).first(options.images)
    return Pool(in_type(pool.arrays, [graph.specs[tensor].dtype for tensor in graph.inputs]), pool.labels)


def _arrays_of(pool: Pool) -> dict[str, np.ndarray]:
    labels = {} if pool.labels is None else {"labels": pool.labels}
    return {f"x_{at}": array for at, array in enumerate(pool.arrays)} | labels


def _pool_of(arrays: Mapping[str, np.ndarray], inputs: int) -> Pool:
    return Pool([arrays[f"x_{at}"] for at in range(inputs)], arrays.get("labels"))
