"""How similar the outputs of two models are, on inputs that need no labels."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfdatafree.inputs.examples import Reading, open_examples
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.inputs.input_range import given_by_input
from tfdatafree.inputs.procedural import procedural_images
from tfdatafree.limits import require_inputs_fit, require_seed
from tfdatafree.model.network import GivenRange, InputRange
from tfdatafree.numerics import metrics
from tfdatafree.numerics.expected_agreement import ESTIMATE_INPUTS
from tfdatafree.report.comparison import Comparison
from tfdatafree.report.expected import ESTIMATE_SEED, chooses, count, estimate
from tfdatafree.report.outputs import compare_outputs
from tfdatafree.runnable import Runnable, forms_of, open_pair, range_of


def compare(
    a: str | os.PathLike,
    b: str | os.PathLike,
    *,
    data: Any = None,
    n: int | None = None,
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    input_shape: tuple[int, ...] | None = None,
    unsafe_load: bool = False,
    seed: int = 0,
) -> Comparison:
    """Runs two models on the same inputs.

    Args:
        a, b: Paths of .keras, .h5 or .tflite files; `a` is the reference.
        data: Inputs to run both models on, preprocessed as the models expect them: whatever `compress` takes as
            `representative_data`. The images of a folder are scaled to the input range. None: procedural images.
        n: Number of inputs. Of a file or a folder with more they are taken at equal distances, of other `data` the first. None
            takes all. Of procedural images None stands for 32.
        input_range: (low, high) of the procedural images, and of images in a folder, as for `compress`; the names of inputs are
            those of `a`. What is not given is the range of an integer file's input, else the range that the Keras model tells.
        input_shape, unsafe_load: As for `compress`.
        seed: Seed of the procedural images.

    Raises:
        LoadError: A file is missing, damaged or of another kind.
        UnsupportedModelError: As for `compress`.
        ValueError: The models do not fit each other or the data, or an option is wrong.
    """
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; compare on at least 1 input.")
    seed = require_seed(seed)
    given = None if input_range is None else check_input_range(input_range)
    first, second = open_pair(a, b, input_shape, unsafe_load)
    forms = forms_of([first, second])
    if data is None:
        ranges = _ranges(given, first, second, seed)
        kinds = list(enumerate(zip(first.shapes, first.dtypes, ranges, strict=True)))
        inputs = [_drawn(n or 32, *of, seed + at) for at, of in kinds]
        described = f"procedural images in {_described(first.names, ranges)}"
    else:
        scale = _ranges(given, first, second, seed)[0].ends if _is_folder(data) else None
        examples = open_examples(data, first.forms, Reading(scale=scale, most=n))
        inputs, described = examples.arrays(), examples.described
    references, results = first.predict(inputs), second.predict(inputs)
    decides = chooses(forms, references)

    def draw() -> Sequence[np.ndarray]:
        return inputs if data is not None else [_drawn(ESTIMATE_INPUTS, *of, ESTIMATE_SEED + at) for at, of in kinds]

    if data is None or isinstance(data, GeneratedImages):
        expected = estimate(decides, first.scores, second.scores, draw)
    else:
        expected = count(decides, references, results)
    outputs = compare_outputs(forms, references, results, expected)
    return Comparison(n=len(inputs[0]), inputs=described, outputs=outputs)


def output_discrepancy(a: Any, b: Any, images: Any, *, unsafe_load: bool = False) -> float:
    """Distance between the directions of two models' outputs: mean || F/|F| - F'/|F'| || over the inputs, in [0, 2].

    Lower is better. It needs no labels, and ranks compressed models much as their accuracy does. For several outputs it is
    their mean.

    Args:
        a, b: Keras models, results of `compress` (their file runs if there is one), `.tflite` bytes, or paths of
            .keras, .h5 or .tflite files.
        images: Real values (n, *shape), as the models expect them. For several inputs a list in the models' order, or a
            dict by the input names of `a`. Or the result of `generate_images`, by these names where `a` has them, else in
            order.
        unsafe_load: As for `compress`.

    Raises:
        ValueError: The models do not fit each other or the images.
        LoadError, UnsupportedModelError: As for `compare`.
    Source: Sobolev et al., FRanDI, eq. 3.
    """
    return float(np.mean([metrics.output_discrepancy(x, y) for x, y in _both(a, b, images, unsafe_load)]))


def response_discrepancy(a: Any, b: Any, images: Any, *, unsafe_load: bool = False) -> float:
    """Distance between two models' responses, in [0, 2]: `output_discrepancy` of centred outputs.

    Outputs are centred by subtracting their mean over the inputs and over the classes. Generated inputs have much in common,
    which moves all outputs of a compressed model in the same way; real inputs do not share it. Without this common part
    procedural images rank models more as real images do. On images of `generate_images` both figures rank about equally
    well. An error that is the same for every input does not count here; `output_discrepancy` counts it.
    `numerics/metrics.py` has the formula and its bounds. For several outputs the result is their mean.

    Args:
        a, b, images, unsafe_load: As for `output_discrepancy`; at least 2 inputs, better dozens.

    Raises:
        ValueError: The models do not fit each other or the images, or there is one input only.
        LoadError, UnsupportedModelError: As for `compare`.
    """
    return float(np.mean([metrics.response_discrepancy(x, y) for x, y in _both(a, b, images, unsafe_load)]))


def _both(a: Any, b: Any, images: Any, unsafe: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Both models' outputs (n, ...), in pairs."""
    first, second = open_pair(a, b, None, unsafe)
    inputs = open_examples(images, first.forms, Reading(source="images")).arrays()
    return list(zip(first.predict(inputs), second.predict(inputs), strict=True))


def _is_folder(data: Any) -> bool:
    return isinstance(data, (str, os.PathLike)) and os.path.isdir(data)


def _ranges(given: GivenRange | None, first: Runnable, second: Runnable, seed: int) -> list[InputRange]:
    """The range of each input: as given, else as the models tell."""
    ranges = [
        known or range_of(at, (first, second), seed) for at, known in enumerate(given_by_input(given, first.names))
    ]
    if None in ranges:
        raise ValueError(
            "neither model tells the range of its inputs; give input_range (command line: --input_range=-1,1)."
        )
    return [found for found in ranges if found is not None]


def _described(names: Sequence[str], ranges: Sequence[InputRange]) -> str:
    texts = [f"[{found.low:g}, {found.high:g}] ({found.origin})" for found in ranges]
    return texts[0] if len(names) == 1 else ", ".join(map("{}: {}".format, names, texts))


def _drawn(n: int, shape: tuple[int, ...], dtype: str, found: InputRange, seed: int) -> np.ndarray:
    require_inputs_fit(n, shape)
    values = procedural_images(n, shape, found.low, found.high, seed=seed)
    return np.round(values).astype(dtype) if "int" in dtype else values
