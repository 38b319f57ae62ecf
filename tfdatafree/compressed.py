"""The result of a compression: the file, the model that simulates it, the recipe and the report."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.build import Built
from tfdatafree.export.run import predict_as_written
from tfdatafree.export.simulate import simulated_model
from tfdatafree.export.write import write
from tfdatafree.files import temporary_folder, write_atomically
from tfdatafree.inputs.examples import Reading, open_examples
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.inputs.probes import Probes
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.integer_kernel import kernel_grids
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.report.assemble import COMPARED_OUTPUTS, Change, rewritten_report
from tfdatafree.report.evidence import Evidence, damages_of, summarize_kernels
from tfdatafree.report.expected import inputs_to_estimate
from tfdatafree.report.page import report_page
from tfdatafree.report.report import Report


@dataclass(frozen=True, kw_only=True, eq=False)
class Compressed:
    """What `tfdatafree.compress` returns.

    Attributes:
        recipe: The recipe that made it.
        replay: A recipe that makes the same file without a search: the bits that `recipe.policy` found, as rules, and the
            sparsity in place of "auto". `recipe` itself if there was nothing to search.
        report: One page about the compression: `print(compressed.report)`, `compressed.report.to_dict()`.
        weight_grids: Layer of `.model` -> grid of its kernel; None if its scales do not run along a single axis. Empty
            if weights stayed in float.
        channel_scales: First of the layers that write the same channels -> factors (channels,) by which equalization, the
            scaling of outliers and leveling multiplied them. The layers that read these channels divide by the factors.
        built: The file with its graph, grids and integers, as it was read back.
        evidence: Distributions of tensors and kernels, for the report page.
        decision: Needed to write the network with other weights; None for a float file.
        probes: Inputs that the file was verified on; None for a float file.
    """

    recipe: Recipe
    replay: Recipe
    report: Report
    weight_grids: Mapping[str, Quantizer | None]
    channel_scales: Mapping[str, np.ndarray]
    built: Built
    evidence: Evidence
    decision: Decision | None = None
    probes: Probes | None = None

    def __repr__(self) -> str:
        what = "simulated only" if self.built.content is None else f"{len(self.built.content):,} bytes"
        return f"<Compressed '{self.report.model}', recipe {self.report.recipe}: {what}; print its .report>"

    @property
    def tflite(self) -> bytes:
        """The file. Raises ExportError if there is none."""
        if self.built.content is None:
            raise ExportError(
                f"there is no integer file: {self.recipe.quantization.simulated}. Use .model or .predict(x), which simulate "
                "it, or a recipe with activation_bits=8 or 16 and symmetric_weights=True."
            )
        return self.built.content

    @functools.cached_property
    def model(self) -> keras.Model:
        """A plain Keras model that simulates the file's arithmetic. `predict` and `save` work on it.

        It has the outputs of the user's model, also where the file gives out branches one by one (`split_outputs`).
        """
        return simulated_model(self.built)

    def rewritten(
        self,
        weights: Graph,
        grids: Mapping[str, Quantizer | None],
        *,
        reference: Graph,
        change: Change,
        ranges: Mapping[str, Range] | None = None,
    ) -> "Compressed":
        """Writes the same network with other weights, and makes a new report.

        Args:
            weights: The graph of `built` with other kernels and biases.
            grids: Layer -> the grid of its kernel; None for layers that have None in `weight_grids`.
            reference: The float network that outputs are compared with, for the report.
            change: What was done to the weights, for the report.
            ranges: Tensor -> the range of its new grid. All others keep theirs.

        Raises:
            ExportError: The file would not be what was decided.
            ValueError: The network is in float.
        """
        if self.decision is None or self.probes is None:
            raise ValueError("this network is in float; only integer networks can be written with other weights.")
        inputs = self.probes.first(COMPARED_OUTPUTS, self.decision.reference)
        decision = self.decision.with_weights(weights, grids)
        if decision.about is not None:
            decision = dataclasses.replace(decision, about=decision.about.after(change.how))
        if ranges:
            decision = dataclasses.replace(decision, ranges={**decision.ranges, **ranges})
        built = write(decision, inputs)
        # Layers that were solved together mend each other's errors. So what counts here is the rounding of values alone.
        damages = damages_of(built, built.graph, inputs)
        evidence = dataclasses.replace(self.evidence, kernels=summarize_kernels(built), damages=damages)
        given = self.probes.user_inputs is not None
        graph, known = self.decision.reference, self.probes.ranges
        report = rewritten_report(
            self.report,
            reference,
            built,
            evidence,
            inputs,
            to_estimate=lambda: inputs if given else inputs_to_estimate(graph, known),
            target=decision.target,
            change=change,
        )
        return dataclasses.replace(
            self,
            report=report,
            weight_grids=kernel_grids(built.graph, {**decision.kernels, **built.kernels}),
            built=built,
            evidence=evidence,
            decision=dataclasses.replace(self.decision, ranges=decision.ranges),
        )

    def predict(self, x: Any) -> np.ndarray | list[np.ndarray]:
        """Runs the file in LiteRT, one input at a time. Without a file, runs the model that simulates it.

        Args:
            x: Float values of shape (n, *input shape); for several inputs a list in the model's order or a dict by name; or
                the result of `generate_images`; or a tf.data.Dataset of inputs, or of (inputs, labels), in batches or not.

        Returns:
            Dequantized outputs (n, ...): an array, or a list for several outputs. They are those of the user's model, and of
            `.model`, also where the file gives out branches one by one (`split_outputs`): these are joined again.
        """
        if hasattr(x, "element_spec"):  # a tf.data.Dataset, which may hold more than memory
            forms = {name: self.built.graph.specs[name] for name in self.built.graph.inputs}
            batches = open_examples(x, forms, Reading(source="x")).batches
            rows = [predict_as_written(self.built, batch.inputs) for batch in batches]
            outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
        else:
            outputs = predict_as_written(self.built, self._as_list(x))
        return outputs[0] if len(outputs) == 1 else outputs

    def _as_list(self, x) -> list[np.ndarray]:
        names = self.built.graph.inputs
        if isinstance(x, Mapping):
            missing = [name for name in names if name not in x]
            if missing:
                raise ValueError(
                    f"x lacks the input(s) {', '.join(missing)}; the model's inputs are {', '.join(names)}."
                )
            arrays = [np.asarray(x[name]) for name in names]
        elif len(names) == 1:
            in_list = (
                isinstance(x, (list, tuple))
                and len(x) == 1
                and np.ndim(x[0]) == len(self.built.graph.specs[names[0]].shape)
            )
            arrays = [np.asarray(x[0] if in_list else x)]
        elif isinstance(x, GeneratedImages):
            return self._as_list(x.inputs)
        else:
            arrays = [np.asarray(array) for array in x]
        for name, array in zip(names, arrays, strict=True):
            shape = self.built.graph.specs[name].shape[1:]
            if array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
                raise ValueError(f"input '{name}' has shape {array.shape}; give (n, {', '.join(map(str, shape))}).")
        return arrays

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Writes `.tflite` (the file), `.keras` (the model that simulates it), `.json` (recipe and report) or `.html` (the
        report as a page).

        The file is written completely or not at all.

        Raises:
            FileExistsError: `path` exists and `overwrite` is False.
            ExportError: `path` ends in .tflite, but the recipe can only be simulated.
            MissingPackageError: `path` ends in .html, but Bokeh, which draws the page, is not installed.
            ValueError: `path` ends in something else.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; pass overwrite=True (command line: --overwrite) to replace it.")
        if path.suffix == ".tflite":
            write_atomically(path, self.tflite)
        elif path.suffix == ".json":
            record = {"recipe": self.recipe.to_dict(), "report": self.report.to_dict()}
            if self.replay != self.recipe:
                record["replay"] = self.replay.to_dict()
            write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
        elif path.suffix == ".html":
            write_atomically(path, report_page(self.report, self.recipe, self.evidence).encode())
        elif path.suffix == ".keras":
            with temporary_folder() as folder:
                temporary = Path(folder) / "model.keras"
                self.model.save(temporary)
                write_atomically(path, temporary.read_bytes())
        else:
            raise ValueError(f"{path} ends in {path.suffix!r}; choose .tflite, .keras, .json or .html.")
        return path
