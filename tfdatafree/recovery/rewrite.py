"""The integer file of a compressed network with other weights; its activations keep their grids."""

import dataclasses
from collections.abc import Mapping

from tfdatafree.compressed import Compressed
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.quantization.integer_kernel import kernel_grids
from tfdatafree.report.assemble import COMPARED_OUTPUTS, compared_on, rewritten_report, targeted_on
from tfdatafree.report.evidence import kernels_of


def rewrite(
    student: Compressed,
    weights: Graph,
    grids: Mapping[str, Quantizer | None],
    float_model: Graph,
    *,
    note: str,
    seconds: float,
) -> Compressed | None:
    """`student` with other weights: its file, report and model made anew. None where it has none.

    Args:
        weights: Its graph with other kernels and biases.
        grids: Layer -> the grid that its kernel is on; None for those of `student.weight_grids` that have none.
        float_model: What the outputs are compared with, for the report.
        note: What was done to them, for the report.
        seconds: How long that took.

    Raises:
        ExportError: The file would not be what was decided.
    """
    writing = student._writing
    if writing is None:
        return None
    inputs, kernels = writing.inputs(COMPARED_OUTPUTS), writing.integers(weights, grids)
    built = writing.write(weights, kernels, inputs)
    evidence = dataclasses.replace(student._evidence, kernels=kernels_of(built))
    outputs = compared_on(float_model, built.content, built.graph, built.grids, inputs)
    report = rewritten_report(
        student.report,
        built,
        evidence,
        measured=outputs | targeted_on(built.content, writing.target),
        note=note,
        seconds=seconds,
    )
    return Compressed(
        built.content,
        student.recipe,
        report,
        built.graph,
        built.grids,
        evidence,
        student.replay,
        kernel_grids(built.graph, kernels, built.kernels),
        student.channel_scales,
        writing,
    )
