"""The distillation that a recipe asks for: `distill` after the layers are solved, with the compression's own seed and images.

distilling(task)(compressed, model, images) gives the bytes of distill(compressed, model, recover.distillation, images=images)
"""

import dataclasses

import keras

from tfdatafree.compressed import Compressed
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.recipe.distillation import MatchedImages, get_method
from tfdatafree.recovery.distillation.distill import distill
from tfdatafree.recovery.recover import Train
from tfdatafree.task import Task


def distilling(task: Task) -> Train | None:
    """What trains a solved network as the task's recipe says; None where it does not ask for it."""
    options = task.recipe.recover
    if options is None or options.method != "distill":
        return None
    method, steps = get_method(options.distillation), options.steps or None

    def train(compressed: Compressed, model: keras.Model, images: GeneratedImages) -> Compressed:
        own = None if not isinstance(method.images, MatchedImages) else images
        result = distill(compressed, model, method, images=own, steps=steps, seed=task.seed, verbose=0)
        if result.compressed is not None:
            return result.compressed
        notes = {**compressed.report.notes, "distillation": f"none: {'; '.join(result.kept.values())}"}
        return dataclasses.replace(compressed, report=dataclasses.replace(compressed.report, notes=notes))

    return train
