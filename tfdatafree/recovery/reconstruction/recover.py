"""The reconstruction that a recipe asks for: `reconstruct` with the compression's own seed and images.

reconstructing(task)(compressed, model, images) gives the bytes of reconstruct(compressed, model, images)
"""

import dataclasses

import keras

from tfdatafree.compressed import Compressed
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.recovery.reconstruction.reconstruct import STEPS, reconstruct
from tfdatafree.recovery.recover import Train
from tfdatafree.task import Task


def reconstructing(task: Task) -> Train | None:
    """What reconstructs a network as the task's recipe says; None where it does not ask for it."""
    options = task.recipe.recover
    if options is None or options.method != "reconstruct":
        return None
    steps = options.steps or STEPS

    def train(compressed: Compressed, model: keras.Model, images: GeneratedImages) -> Compressed:
        result = reconstruct(compressed, model, images, steps=steps, seed=task.seed, verbose=0)
        if result.compressed is not None and result.after < result.before:
            return result.compressed
        notes = {**compressed.report.notes, "reconstruction": f"none: {'; '.join(result.kept.values())}"}
        return dataclasses.replace(compressed, report=dataclasses.replace(compressed.report, notes=notes))

    return train
