"""The zoo: a folder of trained models, and of the labelled images that tools measure them on.

Tools take their flags, their models and their images from here. The names of models, labelled sets and calibration sets
stand here and nowhere else: the package never sees them.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import command
import evaluate
import numpy as np
from absl import flags

# Flags that this module defines belong to the tool that asks for them, so that its --help shows them.
flags.disclaim_key_flags()

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "zoo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to measure: `file`, its labelled set `data`, and images for `calibration`, all inside the zoo's folder."""

    name: str
    file: str
    data: str
    preprocess: str
    calibration: str

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Maps images, 0 to 255, to the model's float input."""
        return evaluate.preprocess(x, self.preprocess)

    @property
    def input_range(self) -> tuple[float, float]:
        """Smallest and largest value that an image can have after `prepare`."""
        ends = self.prepare(np.array([[0] * 3, [255] * 3], np.uint8))
        return float(ends.min()), float(ends.max())

    def load_model(self, folder: Path):
        """Reads the Keras model, uncompiled."""
        import keras

        return keras.models.load_model(folder / self.file, compile=False)

    def load_labelled(self, folder: Path, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images, not yet prepared, and the labels; `limit` as in `evaluate.load_labelled`."""
        return evaluate.load_labelled(folder / self.data, limit)

    def load_calibration(self, folder: Path, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the calibration images, prepared, and their labels; `limit` as in `evaluate.load_labelled`."""
        x, y = evaluate.load_labelled(folder / self.calibration, limit)
        return self.prepare(x), y


SUBJECTS = {
    name: Subject(name=name, file=file, data=data, preprocess=preprocess, calibration=calibration)
    for name, file, data, preprocess, calibration in (
        ("resnet8", "resnet8_cifar10.keras", "cifar10_test.npz", "none", "cifar10_train5000.npz"),
        ("resnet20", "resnet20_cifar10.keras", "cifar10_test.npz", "imagenet", "cifar10_train5000.npz"),
        ("mobilenet_v1_025", "mobilenet_v1_025.keras", "imagenet_val.zip", "tf", "imagenet_calibration.zip"),
        ("mobilenet_v2", "mobilenet_v2.keras", "imagenet_val.zip", "tf", "imagenet_calibration.zip"),
    )
}


def define_flags(*, model: str | None = None, models: Sequence[str] | None = None) -> None:
    """Defines --zoo, and --model or --models with this default: one name, or several."""
    flags.DEFINE_string("zoo", str(FOLDER), "Folder with the models and the labelled images.")
    if model is not None:
        flags.DEFINE_enum("model", model, list(SUBJECTS), "The model.")
    if models is not None:
        flags.DEFINE_list("models", list(models), f"Of {', '.join(SUBJECTS)}.")


def find_folder(path: str) -> Path:
    """Returns the folder that --zoo names. Raises ValueError where there is none."""
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}; give --zoo.")
    return folder


def choose_subjects(names: Sequence[str]) -> list[Subject]:
    """Returns the subjects that --models names, in the order of `SUBJECTS`. Raises ValueError as `command.choose` does."""
    return [SUBJECTS[name] for name in command.choose("models", names, SUBJECTS)]
