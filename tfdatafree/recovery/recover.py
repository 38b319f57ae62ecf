"""The recovery that a recipe asks for: what `generate_images` and then `feature_regression` do, with the compression's own seed
and input range.

    recover(compressed, task, options, ends, ...) gives the bytes of feature_regression(compressed, model, images)
"""

import dataclasses

from tfdatafree.canonical.resize import resize
from tfdatafree.compressed import Compressed
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.inputs.generate import generate_images, input_specs
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.model.load import load
from tfdatafree.progress import Progress
from tfdatafree.recipe.recipe import Recover
from tfdatafree.recovery.regression import feature_regression
from tfdatafree.task import Task

IMAGES_STAGE, LAYERS_STAGE = "match images", "solve layers anew"
# Images optimised together: fewer than all, so that they may differ as those of a training set do.
_TOGETHER = 32


def require_recoverable(source: Graph, graph: Graph, options: Recover) -> None:
    """Raises what recovery would, before the work that comes before it.

    Args:
        source: The user's model.
        graph: The same separated into operations.

    Raises:
        UnsupportedModelError: No BatchNorm, or a layer or an input that allows no such images.
        ValueError: `image_size` cannot be for this model.
    """
    if not any(is_batchnorm(layer) for layer in source.layers.values()):
        raise UnsupportedModelError(
            f"'{source.name}' has no BatchNormalization, by whose statistics recover could make images; leave recover out, "
            "and pass images of your own to feature_regression(compressed, model, images)."
        )
    specs = input_specs(graph, options.image_size)
    if options.image_size is not None:
        resize(graph, specs[0].shape[1:])


def recover(
    compressed: Compressed, task: Task, options: Recover, ends: tuple[float, float], progress: Progress
) -> Compressed:
    """`compressed` with weights that are solved anew; itself, with a note that says why, where no file can be made of them.

    Args:
        task: It was made by.
        ends: Smallest and largest value of the inputs.

    Guarantees that the Output Discrepancy on images held out is not larger than before.
    """
    if all(grid is None for grid in compressed.weight_grids.values()):
        return _left(compressed, "no layer has integer weights with steps along a single axis")
    model = load(task.model, unsafe=task.unsafe_load, input_shape=task.input_shape)
    with progress.stage(IMAGES_STAGE):
        images = generate_images(
            model,
            options.images,
            image_size=options.image_size,
            input_range=ends,
            statistics="set",
            batch_size=_TOGETHER,
            seed=task.seed,
            verbose=0,
        )
    with progress.stage(LAYERS_STAGE):
        recovered = feature_regression(compressed, model, images, steps=options.steps, seed=task.seed, verbose=0)
    if recovered.compressed is None:
        return _left(compressed, "; ".join(recovered.kept.values()))
    found = recovered.compressed
    policy = found.report.policy
    if policy is not None and compressed.report.bytes <= policy.budget < found.report.bytes:
        return _left(
            compressed, f"its file would take {found.report.bytes:,} bytes, and policy.size allows {policy.budget:,}"
        )
    left = {name: f"not recovered: {why}" for name, why in recovered.kept.items()}
    found.report = dataclasses.replace(found.report, kept=left | found.report.kept, call=compressed.report.call)
    return found


def _left(compressed: Compressed, why: str) -> Compressed:
    report = compressed.report
    compressed.report = dataclasses.replace(report, notes={**report.notes, "recovery": f"none: {why}"})
    return compressed
