"""Data-free methods of compression, ours and published ones, each as one function of a model: the tools compare these.

Every method rounds all weights and all activations: one grid per output channel of a kernel, one per activation tensor.
    ours, dfq, aciq       recipes of reproduce_frandi_tables.py; ours is its "rounded", and dfq has one grid per kernel
    ar                    ours with learned rounding (AdaRound, Nagel et al. 2020), on generated layer inputs
    zq                    ZeroQ (Cai et al. 2020): ranges from images that have the stored statistics each by itself
    solved                ours, then every layer solved by least squares (feature_regression with no steps)
    matched, akd, di, gdfq, zaq, ours+akd, ours+di    ours, then distill() with the settings of METHODS for two cores
Methods that train start from ours, not from nearest rounding as their papers do: some hundred steps would not leave that start.
So a figure says what a method adds, and what it takes away. Pruning starts from `obs` in place of ours.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import reproduce_frandi_tables

DISTILLED = {
    "matched": "matched",
    "akd": "akd",
    "di": "deep_inversion",
    "gdfq": "gdfq",
    "zaq": "zaq",
    "ours+akd": "ours+akd",
    "ours+di": "ours+deep_inversion",
}
QUANTIZING = ("ours", "dfq", "aciq", "ar", "zq", "solved", *DISTILLED)
PRUNING = ("obs", "solved", *DISTILLED)
# Channels of a generator's widest convolution: half of what METHODS says, a quarter of its multiplications.
_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What each method may use.

    Attributes:
        images: Images of the methods that make them once.
        image_steps: Steps for each of these images.
        steps: Training steps of the student; a generator warms up for a quarter as many.
        batch_size: Images per step.
    """

    images: int = 256
    image_steps: int = 100
    steps: int = 500
    batch_size: int = 32


@dataclass(frozen=True, kw_only=True)
class Task:
    """One compression: a model that ends in logits, the range of its input, and what a method may use."""

    model: object
    input_range: tuple[float, float]
    effort: Effort
    seed: int

    def quantized(self, method: str, bits: int):
        """The Keras model that simulates what the method makes, weights and activations at `bits`."""
        found = reproduce_frandi_tables.recipes(bits, bits)
        learned = dataclasses.replace(found["rounded"].quantize, rounding="adaround")
        found |= {
            "ours": found["rounded"],
            "ar": dataclasses.replace(found["rounded"], quantize=learned),
            "zq": found["zeroq"],
        }
        trains = method in ("solved", *DISTILLED)
        given = {"representative_data": self._images("image").images} if method == "zq" else {}
        compressed = self._compressed(found["ours" if trains else method], **given)
        return self._recovered(method, compressed) if trains else compressed.model

    def pruned(self, method: str, sparsity: float):
        """The float model with this part of zeros that the method makes."""
        import tfdatafree

        recipe = tfdatafree.Recipe(quantize=None, prune=tfdatafree.Prune(sparsity=sparsity, method="obs"))
        model = self._compressed(recipe).model
        return model if method == "obs" else self._recovered(method, model)

    def _recovered(self, method: str, student):
        import tfdatafree

        if method == "solved":
            images = self._images("set")
            return tfdatafree.feature_regression(student, self.model, images, steps=0, seed=self.seed, verbose=0).model
        settings = self.settings(method)
        return tfdatafree.distill(
            student, self.model, settings, input_range=self.input_range, seed=self.seed, verbose=0
        ).model

    def settings(self, method: str):
        """The method's settings for two cores, as far as the effort allows."""
        from tfdatafree import METHODS, ImageGenerator

        effort, found = self.effort, METHODS[DISTILLED[method]].cpu
        if isinstance(found.images, ImageGenerator):
            images = dataclasses.replace(found.images, width=_WIDTH, warm_up=effort.steps // 4)
        else:
            group = min(found.images.group, effort.images)
            images = dataclasses.replace(found.images, images=effort.images, steps=effort.image_steps, group=group)
        return dataclasses.replace(found, images=images, steps=effort.steps, batch_size=effort.batch_size)

    def _images(self, statistics: str):
        import tfdatafree

        return tfdatafree.generate_images(
            self.model, self.effort.images, input_range=self.input_range, steps=self.effort.image_steps,
            statistics=statistics, batch_size=min(32, self.effort.images), seed=self.seed, verbose=0,
        )  # fmt: skip

    def _compressed(self, recipe, **given):
        import tfdatafree

        return tfdatafree.compress(self.model, recipe, input_range=self.input_range, seed=self.seed, verbose=0, **given)
