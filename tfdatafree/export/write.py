"""Writes a decision as a verified file, or simulates it if no file can hold it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfdatafree.export.build import Built, build_integer_file
from tfdatafree.export.simulate import simulate
from tfdatafree.model.cost import is_full_image, multiplications
from tfdatafree.quantization.decision import Decision

# Inputs on which a file is verified; one for a full-image network in which a single input takes seconds.
_PROBES, _HEAVY = 2, 2**35


def write(decision: Decision, inputs: Sequence[np.ndarray]) -> Built:
    """The verified integer file of `decision`, or its simulation.

    Args:
        inputs: Generated (or given) inputs, one array (n, *shape) per graph input.

    Raises:
        ExportError: The file would not be what was decided.
    """
    make = simulate if decision.options.simulated else build_integer_file
    heavy = is_full_image(decision.graph) and multiplications(decision.graph) > _HEAVY
    return dataclasses.replace(make(decision, inputs, probes=1 if heavy else _PROBES), tail=decision.tail)
