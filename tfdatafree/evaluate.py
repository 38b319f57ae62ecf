"""evaluate(): accuracy of a model or a file on the user's labelled data, and how often it agrees with the float model.

What labels are tells what is measured, output by output:

    class numbers, one per output vector      top-1 and top-5 accuracy
    class numbers, one per position of a map  pixel accuracy, mean IoU (keras.metrics.MeanIoU)
    0 and 1 in the shape of the output        binary accuracy; for maps also IoU (keras.metrics.BinaryIoU)
    other numbers in the shape of the output  mean absolute error, root mean squared error

Detectors give out boxes before they are decoded and thinned out, each in a form of its own. So their mAP is not measured here:
decode the outputs of `predict`, and give them to a COCO evaluator.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from scipy import stats

from tfdatafree.inputs.examples import Reading, open_examples
from tfdatafree.limits import require_bool
from tfdatafree.numerics.metrics import in_top_k
from tfdatafree.recipe.check import require_whole
from tfdatafree.report.outputs import OutputForm
from tfdatafree.runnable import forms_of, open_pair, open_runnable, range_of

_CONFIDENCE = 0.95
_TOP = 5
_MAP_HINT = "for detectors (mAP), decode the outputs of predict and give them to a COCO evaluator such as pycocotools"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: What was measured: "top-1", "mean IoU" ...
        value: The figure; accuracies from 0 to 1.
        low, high: The 95 % interval of an accuracy that was counted on single inputs (Wilson); None for others.
        is_part: Whether it is a part of a whole, which is shown in percent.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    is_part: bool = True

    def __str__(self) -> str:
        if not self.is_part:
            return f"{self.name:<20}{self.value:.6g}"
        interval = "" if self.low is None or self.high is None else f"  (95 %: {self.low:.2%} to {self.high:.2%})"
        return f"{self.name:<20}{100 * self.value:.2f} %{interval}"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` measured; `print` it.

    Attributes:
        n: Number of inputs.
        inputs: What they were.
        outputs: Output -> its figures.
    """

    n: int
    inputs: str
    outputs: Mapping[str, tuple[Figure, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """The figure of that name of the first output that has it."""
        return next(figure.value for figures in self.outputs.values() for figure in figures if figure.name == name)

    def __str__(self) -> str:
        lines = [f"{'inputs':<20}{self.n} {self.inputs}"]
        for output, figures in self.outputs.items():
            lines += ["", f"output '{output}'"] if len(self.outputs) > 1 else []
            lines += map(str, figures)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        figures = {
            output: {figure.name: figure.value for figure in measured} for output, measured in self.outputs.items()
        }
        return {"n": self.n, "inputs": self.inputs, "outputs": figures}


def evaluate(
    model: Any,
    data: Any,
    *,
    reference: Any = None,
    n: int | None = None,
    scale: tuple[float, float] | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    ignore_label: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    unsafe_load: bool = False,
) -> Evaluation:
    """Measures a model on labelled data, and how often it chooses the float model's class.

    Args:
        model: A Keras model, a result of `compress`, `.tflite` bytes, or the path of a .keras, .h5 or .tflite file.
        data: Labelled inputs: a pair of arrays (inputs, labels), a tf.data.Dataset of such pairs, or the path of an .npz with `x`
            and `y` (or `images` and `labels`), of a folder with one folder of images per class, or of a folder that TensorFlow
            Datasets has prepared. Without labels (arrays, an .npy, a folder of images) only agreement is measured.
        reference: The float model; None: no agreement.
        n: Number of inputs. Of a file or a folder with more they are taken at equal distances, of other `data` the first. None
            takes all.
        scale: (low, high): the values that the pixels 0 and 255 become, in images and in arrays of 8-bit integers. None: images
            are scaled to the range that the model tells, arrays are taken as they are.
        split: Name of the split of a dataset that TensorFlow Datasets has prepared; None: the only one, or "test".
        classes: Names of the class folders in the order of the model's classes; None: sorted by name, as Keras does.
        ignore_label: Class number of positions of a map that do not count.
        input_shape, unsafe_load: As for `compress`.

    Returns:
        An Evaluation. Inputs are run in batches, so the data may be larger than memory.

    Raises:
        LoadError, UnsupportedModelError, MissingPackageError: As for `compare`.
        ValueError: Data or labels do not fit the model, or there is nothing to measure.
    """
    require_bool("unsafe_load", unsafe_load)
    if n is not None:
        require_whole("n", n, 1)
    scale = None if scale is None else _checked_scale(scale)
    if reference is None:
        subject, teacher = open_runnable(model, input_shape, unsafe_load), None
    else:
        teacher, subject = open_pair(reference, model, input_shape, unsafe_load)
    subjects = [other for other in (teacher, subject) if other is not None]
    if isinstance(data, tuple) and len(data) == 2:
        data = [data]  # one batch of (inputs, labels)
    pixels = scale
    if pixels is None and isinstance(data, (str, os.PathLike)) and os.path.isdir(data):
        known = range_of(0, subjects, 0)
        pixels = None if known is None else known.ends
    how = Reading(scale=pixels, scale_arrays=scale is not None, most=n, labelled=True, classes=classes, split=split)
    examples = open_examples(data, subject.forms, how)
    counts = [_Output(form, ignore_label) for form in forms_of(subjects)]
    total = 0
    for batch in examples.batches:
        total += len(batch.inputs[0])
        results = subject.predict(batch.inputs)
        references = [None] * len(results) if teacher is None else teacher.predict(batch.inputs)
        for at, count in enumerate(counts):
            labels = _labels_of(batch.labels, count.name, len(counts))
            if labels is not None:
                _require_classes(examples.classes, results[at])
            count.update(results[at], references[at], labels)
    outputs = {count.name: figures for count in counts if (figures := tuple(count.figures()))}
    if not outputs:
        raise ValueError(
            "there is nothing to measure: the data have no labels, and there is no reference with classes to agree with; give "
            "labels, or reference (command line: --reference=MODEL)."
        )
    return Evaluation(n=total, inputs=examples.described, outputs=outputs)


class _Output:
    """What one output has given so far, added up batch by batch."""

    def __init__(self, form: OutputForm, ignore_label: int | None):
        self.name = form.name
        self._has_classes = form.has_classes
        self._ignored = ignore_label
        self._counts: dict[str, list[int]] = {}  # name -> [right, all]; of single inputs, or of positions of a map
        self._metrics: dict[str, keras.metrics.Metric] = {}
        self._intervals = True

    def update(self, result: np.ndarray, reference: np.ndarray | None, labels: np.ndarray | None) -> None:
        if reference is not None and self._has_classes:
            self._count("agreement", result.argmax(-1) == reference.argmax(-1))
        if labels is not None:
            self._score(result, labels)

    def figures(self) -> list[Figure]:
        found = []
        for name, (right, total) in self._counts.items():
            low = high = None
            if self._intervals:
                interval = stats.binomtest(right, total).proportion_ci(_CONFIDENCE, "wilson")
                low, high = float(interval.low), float(interval.high)
            found.append(Figure(name=name, value=right / max(total, 1), low=low, high=high))
        for name, metric in self._metrics.items():
            found.append(Figure(name=name, value=float(metric.result()), is_part=name not in _ERRORS))
        return found

    def _count(self, name: str, right: np.ndarray) -> None:
        self._intervals &= right.ndim == 1
        counts = self._counts.setdefault(name, [0, 0])
        counts[0] += int(np.count_nonzero(right))
        counts[1] += right.size

    def _score(self, result: np.ndarray, labels: np.ndarray) -> None:
        labels = _squeezed(labels, result)
        whole = labels.dtype.kind in "iub"
        if whole and labels.shape == result.shape[:-1] and result.shape[-1] > 1:
            self._score_classes(result, labels.astype(np.int64))
        elif labels.shape != result.shape:
            raise ValueError(
                f"labels have shape {labels.shape}, and output '{self.name}' has {result.shape}; give class numbers of shape "
                f"{result.shape[:-1]}, or values of the output's own shape; {_MAP_HINT}."
            )
        elif _one_hot(labels, self._has_classes):
            self._score_classes(result, labels.argmax(-1))
        elif np.isin(labels, (0, 1)).all() and 0 <= result.min() and result.max() <= 1:
            self._count("binary accuracy", (result >= 0.5) == (labels == 1))
            if result.ndim > 2:
                self._metric("IoU", keras.metrics.BinaryIoU, target_class_ids=[1], threshold=0.5)
                self._metrics["IoU"].update_state(labels, result)
        else:
            for name, kind in _ERRORS.items():
                self._metric(name, kind)
                self._metrics[name].update_state(labels, result)

    def _score_classes(self, result: np.ndarray, labels: np.ndarray) -> None:
        classes = result.shape[-1]
        counted = np.ones(labels.shape, bool) if self._ignored is None else labels != self._ignored
        wrong = labels[counted & ((labels < 0) | (labels >= classes))]
        if wrong.size:
            raise ValueError(
                f"a label is {wrong[0]}, but output '{self.name}' has {classes} classes, 0 to {classes - 1}; number the labels "
                "as the model does, or give the label to leave out as ignore_label."
            )
        right = (result.argmax(-1) == labels)[counted]
        if labels.ndim == 1:
            self._count("top-1", right)
            if classes > _TOP:
                self._count(f"top-{_TOP}", in_top_k(result, np.where(counted, labels, 0), _TOP)[counted])
            return
        self._intervals = False
        self._count("pixel accuracy", right)
        self._metric("mean IoU", keras.metrics.MeanIoU, num_classes=classes)
        self._metrics["mean IoU"].update_state(labels[counted], result.argmax(-1)[counted])

    def _metric(self, name: str, kind: Any, **options: Any) -> None:
        if name not in self._metrics:
            self._metrics[name] = kind(**options)


_ERRORS = {
    "mean absolute error": keras.metrics.MeanAbsoluteError,
    "root mean squared error": keras.metrics.RootMeanSquaredError,
}


def _squeezed(labels: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Labels (n, 1) for outputs (n, classes) as (n,), and labels (n,) for outputs (n, 1) as (n, 1); others as they are."""
    labels = np.asarray(labels)
    if labels.ndim == result.ndim and labels.shape[-1] == 1 != result.shape[-1]:
        return labels[..., 0]
    if labels.ndim == result.ndim - 1 and result.shape[-1] == 1:
        return labels[..., None]
    return labels


def _one_hot(labels: np.ndarray, has_classes: bool) -> bool:
    return has_classes and bool(
        ((labels == 1).sum(-1) == 1).all() and ((labels == 0).sum(-1) == labels.shape[-1] - 1).all()
    )


def _labels_of(labels: Any, output: str, outputs: int) -> np.ndarray | None:
    """The labels of an output: those under its name; those that came without a name, if it is the only output."""
    if isinstance(labels, Mapping):
        return labels.get(output)
    if labels is not None and outputs > 1:
        raise ValueError(
            f"the model has {outputs} outputs, and the labels do not say whose they are; give a dataset of (inputs, labels) with "
            f"labels as a dict by output, e.g. '{output}'."
        )
    return labels


def _require_classes(folders: int | None, result: np.ndarray) -> None:
    """Raises ValueError if the numbers of class folders and of classes differ: labels would be numbered otherwise."""
    if folders is not None and result.ndim == 2 and result.shape[-1] > 1 and folders != result.shape[-1]:
        raise ValueError(
            f"the data have {folders} class folders, and the model has {result.shape[-1]} classes; give classes, the names of "
            "all in the model's order (command line: --classes=FILE with a name per line)."
        )


def _checked_scale(scale: tuple[float, float]) -> tuple[float, float]:
    if len(scale) != 2 or not np.isfinite(scale).all() or scale[0] == scale[1]:
        raise ValueError(f"scale is {scale}; give the two values that the pixels 0 and 255 become, e.g. (-1, 1).")
    return float(scale[0]), float(scale[1])
