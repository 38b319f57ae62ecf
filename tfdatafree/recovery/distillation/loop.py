"""The training loop: steps, a judge between them, the best student kept, and a checkpoint from which a killed run continues.

    warm-up of the generator -> [steps -> judge -> keep the best -> checkpoint] ... -> the best student

Steps grow during a warm-up, and then decay by a cosine. Where checks do not get better any more, training returns to the
best student and continues with smaller steps: how small they must be for a student that is nearly right, only trying tells.

All that a step depends on is in the checkpoint, or follows from the seed and the step's number. So a run that was interrupted
gives the bytes of one that was not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfdatafree.files import write_atomically
from tfdatafree.inputs.checkpoint import read_checkpoint
from tfdatafree.inputs.generated_images import npz_bytes
from tfdatafree.recovery.distillation.held_out import Distances, discrepancy, is_better
from tfdatafree.recovery.distillation.trainer import Trainer, assign

# Number of times that the held-out images judge the student.
_CHECKS = 20
# If no check in this part of the steps is better than the best before, training restarts with steps smaller by this factor.
_PATIENCE, _SLOWER = 0.25, 4.0
# Part of the steps during which their length grows to its full value.
_WARM_UP = 0.05


@dataclass
class Course:
    """How far training has come.

    Attributes:
        done: Steps taken, those of the generator's warm-up first.
        loss: Loss of each step of the student.
        judged: (step of the student, discrepancy) of each check; step 0 is the student before training.
        best: Values of the student's variables at the best check.
        best_step: Its step.
        best_distances: Its distances for the held-out inputs.
        start: The step at which training began, or began again.
        rate: Length of the longest step since then.
    """

    done: int = 0
    loss: list[float] = field(default_factory=list)
    judged: list[tuple[int, float]] = field(default_factory=list)
    best: list[np.ndarray] = field(default_factory=list)
    best_step: int = 0
    best_distances: Distances = field(default_factory=list)
    start: int = 0
    rate: float = 1.0

    @property
    def least(self) -> float:
        """Discrepancy of the best check."""
        return discrepancy(self.best_distances)


class Checkpoint:
    """A file that holds an unfinished run, or nothing where `path` is None.

    Args:
        identity: A text that is the same only for runs that go the same way.
    """

    def __init__(self, path: Path | None, identity: str):
        self._path, self._identity = path, identity

    def read(self, trainer: Trainer, rate: float) -> Course:
        """The course in the file, with the trainer's variables set; without a file a new one, whose longest step is `rate`."""
        arrays = None if self._path is None else read_checkpoint(self._path, self._identity)
        if arrays is None:
            return Course(rate=rate)
        assign(trainer.variables, [arrays[f"variable_{at}"] for at in range(len(trainer.variables))])
        best = [arrays[f"best_{at}"] for at in range(len(trainer.student.variables))]
        judged = [(int(step), float(value)) for step, value in arrays["judged"]]
        return Course(
            int(arrays["done"]),
            arrays["loss"].tolist(),
            judged,
            best,
            int(arrays["best_step"]),
            [arrays[f"distances_{at}"] for at in range(int(arrays["kinds"]))],
            int(arrays["start"]),
            float(arrays["rate"]),
        )

    def write(self, trainer: Trainer, course: Course) -> None:
        """Writes the file completely or not at all."""
        if self._path is None:
            return
        arrays = {
            "identity": np.array(self._identity),
            "done": np.array(course.done),
            "loss": np.array(course.loss, np.float64),
            "judged": np.array(course.judged, np.float64).reshape(-1, 2),
            "best_step": np.array(course.best_step),
            "kinds": np.array(len(course.best_distances)),
            "start": np.array(course.start),
            "rate": np.array(course.rate),
        }
        arrays |= {f"variable_{at}": np.asarray(variable) for at, variable in enumerate(trainer.variables)}
        arrays |= {f"distances_{at}": value for at, value in enumerate(course.best_distances)}
        arrays |= {f"best_{at}": value for at, value in enumerate(course.best)}
        write_atomically(self._path, npz_bytes(arrays))


def run(
    trainer: Trainer,
    judge: Callable[[], Distances],
    checkpoint: Checkpoint,
    course: Course,
    *,
    warm_up: int,
    steps: int,
    settled: int = 0,
    on_step: Callable[[str], None],
) -> None:
    """Trains the student, and leaves it as it was at the best check.

    Args:
        judge: The present student's distances for the held-out inputs.
        course: What `checkpoint` held; moves on.
        warm_up: Steps of the generator alone.
        steps: Steps of the student.
        settled: The step from which students are judged. Before it their zeros are still to come; the first one after it is the
            best, whatever came before.
        on_step: Called after each step with a line about it.
    """
    if not course.judged:
        _check(trainer, judge, course, 0)
    interval = max(1, steps // _CHECKS)
    while course.done < warm_up + steps:
        step = course.done - warm_up
        if step < 0:
            loss = trainer.warm_up(course.done)
            course.done += 1
            on_step(f"warm up the generator, loss {loss:.3f}")
            saves = course.done == warm_up
        else:
            course.loss.append(trainer.step(step, _rate(course, step, steps)))
            course.done += 1
            on_step(f"distill, loss {course.loss[-1]:.4f}, discrepancy {course.judged[-1][1]:.4f}")
            saves = (step + 1) % interval == 0 or step + 1 == steps
            if saves and step + 1 > settled:
                _check(trainer, judge, course, step + 1, is_first=course.best_step < settled)
                if step + 1 - max(course.best_step, course.start) >= _PATIENCE * (steps - course.start):
                    course.rate, course.start = course.rate / _SLOWER, step + 1
                    trainer.restart(course.best)
        if saves:
            checkpoint.write(trainer, course)
    assign(trainer.student.variables, course.best)


def _check(trainer: Trainer, judge: Callable[[], Distances], course: Course, step: int, is_first: bool = True) -> None:
    distances = judge()
    if is_first or is_better(distances, course.best_distances):
        course.best, course.best_step = [variable.numpy() for variable in trainer.student.variables], step
        course.best_distances = distances
    course.judged.append((step, discrepancy(distances)))


def _rate(course: Course, step: int, steps: int) -> float:
    """Length of a step."""
    part = (step - course.start) / (steps - course.start)
    return course.rate * min(1.0, part / _WARM_UP + 1 / steps) * 0.5 * (1 + math.cos(math.pi * part))
