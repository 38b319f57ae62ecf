"""The inputs that layers are run on: procedural images, or a few inputs that the user gives, in the same form."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdatafree.inputs.examples import Reading, open_examples
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRanges
from tfdatafree.model.node import TensorSpec

# More inputs than this change ranges and means very little.
MOST_INPUTS = 256


@dataclass(frozen=True)
class Inputs:
    """The inputs that layers are run on.

    Attributes:
        arrays: float32 (n, *shape) per graph input.
        described: What the result is made from, for the report.
        in_range: Whether they were made for the model's input range. If not, their own range is the input range.
        real: Whether they are the user's own.
        generated: Whether the user gave inputs that `generate_images` made.
    """

    arrays: list[np.ndarray]
    described: str
    in_range: bool = False
    real: bool = True
    generated: bool = False

    @property
    def measured(self) -> bool:
        """Whether what is counted on them holds for real inputs."""
        return self.real and not self.generated


def generated_inputs(graph: Graph, images: int, ranges: InputRanges, *, seed: int) -> Inputs:
    """Procedural images in these ranges."""
    arrays = make_inputs(graph, images, ranges, seed=seed)
    return Inputs(arrays, f"{images} procedural images and BatchNorm statistics; no data", in_range=True, real=False)


def given_inputs(data: Any, graph: Graph, input_range: tuple[float, float]) -> Inputs:
    """The user's inputs, in any form that `examples.py` lists.

    Args:
        input_range: The values that black and white become in the images of a folder.

    Raises:
        ValueError, LoadError, MissingPackageError: They cannot be used; says why.
    """
    how = Reading(scale=input_range, most=MOST_INPUTS, source="representative_data")
    examples = open_examples(data, _forms(graph), how)
    arrays = examples.arrays()
    what = examples.described
    if what == "inputs given":
        what = "representative inputs given by the user"
    elif isinstance(data, GeneratedImages):
        what = "generated images given by the user"
    else:
        what = f"representative {what.replace('inputs of', 'inputs from')}"
    return Inputs(
        arrays,
        f"{len(arrays[0])} {what}, and BatchNorm statistics",
        in_range=examples.scaled,
        generated=isinstance(data, GeneratedImages),
    )


def take_inputs(
    data: Any, graph: Graph, *, most: int | None = MOST_INPUTS, source: str = "representative_data"
) -> list[np.ndarray]:
    """Up to `most` (None: all) of the user's inputs per graph input, (n, *shape) in its type.

    Args:
        data: What `examples.py` lists, besides files and folders.
        source: Name of the data in error messages.

    Raises:
        ValueError: Nothing came, or a shape does not fit the model's input.
    """
    return open_examples(data, _forms(graph), Reading(most=most, source=source)).arrays()


def _forms(graph: Graph) -> dict[str, TensorSpec]:
    return {name: graph.specs[name] for name in graph.inputs}
