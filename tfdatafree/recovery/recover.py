"""The recovery that a recipe asks for: `generate_images`, then `feature_regression`, with the compression's own seed and ranges.

recover(compressed, task, ranges, ...) gives the bytes of feature_regression(compressed, model, images), then trained
"""

import dataclasses
from collections.abc import Callable

import keras

from tfdatafree.compressed import Compressed
from tfdatafree.inputs.generate import generate_images
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.input_range import as_given
from tfdatafree.model.load import load
from tfdatafree.model.network import InputRange
from tfdatafree.progress import Progress
from tfdatafree.recovery.regression import feature_regression
from tfdatafree.task import Task

IMAGES_STAGE, LAYERS_STAGE = "match images", "solve layers"
# Method of `Recover` -> the stage that trains.
TRAINING_STAGES = {"distill": "distill", "reconstruct": "reconstruct blocks"}
# Images that are optimised together: fewer than all, so that they may differ as those of a training set do.
_BATCH_SIZE = 32

# (solved network, float model, matched images) -> the network after training, or the same.
Train = Callable[[Compressed, keras.Model, GeneratedImages], Compressed]


def recover(
    compressed: Compressed,
    task: Task,
    ranges: tuple[InputRange, ...],
    progress: Progress,
    train: Train | None = None,
) -> Compressed:
    """`compressed` with recovered weights. Where these give no file, `compressed` itself, with a note that says why.

    Args:
        task: What made `compressed`; its recipe says how to recover.
        ranges: Range of each of the model's inputs.
        train: What to do after the layers are solved; None: nothing more.

    Guarantees that the Output Discrepancy on the held-out images is not larger than before.
    """
    options = task.recipe.recover
    assert options is not None, "compress() calls this for recipes that recover"
    if all(grid is None for grid in compressed.weight_grids.values()):
        return _with_note(compressed, "no layer has integer weights with scales along a single axis")
    model = load(task.model, unsafe=task.unsafe_load, input_shape=task.input_shape)
    names = compressed.built.graph.inputs
    with progress.stage(IMAGES_STAGE):
        images = generate_images(
            model,
            options.images,
            image_size=options.image_size,
            input_range=as_given({name: range_.ends for name, range_ in zip(names, ranges, strict=True)}),
            statistics="set",
            batch_size=_BATCH_SIZE,
            seed=task.seed,
            verbose=0,
        )
    with progress.stage(LAYERS_STAGE):
        steps = options.steps if train is None else 0
        recovered = feature_regression(compressed, model, images, steps=steps, seed=task.seed, verbose=0)
    if recovered.compressed is None:
        return _with_note(compressed, "; ".join(recovered.kept.values()))
    result = recovered.compressed
    if train is not None:
        with progress.stage(TRAINING_STAGES[options.method]):
            result = train(result, model, images)
    before, after = compressed.report, result.report
    policy = after.policy
    if policy is not None and before.bytes <= policy.budget < after.bytes:
        return _with_note(
            compressed, f"its file would take {after.bytes:,} bytes, and policy.size allows {policy.budget:,}"
        )
    reasons = {name: f"not recovered: {why}" for name, why in recovered.kept.items()}
    report = dataclasses.replace(after, kept={**reasons, **after.kept}, call=before.call)
    return dataclasses.replace(result, report=report)


def _with_note(compressed: Compressed, why: str) -> Compressed:
    report = compressed.report
    notes = {**report.notes, "recovery": f"none: {why}"}
    return dataclasses.replace(compressed, report=dataclasses.replace(report, notes=notes))
