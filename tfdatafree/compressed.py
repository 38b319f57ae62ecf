"""The result of a compression: the file, the model that simulates it, the recipe and the record."""

import functools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.run import predict_as_written
from tfdatafree.export.settings import Writing
from tfdatafree.export.simulate import simulated_model
from tfdatafree.files import write_atomically
from tfdatafree.inputs.generated_images import GeneratedImages
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recipe.recipe import Recipe
from tfdatafree.report.evidence import Evidence
from tfdatafree.report.page import report_page
from tfdatafree.report.report import Report


class Compressed:
    """What `tfdatafree.compress` returns.

    Attributes:
        tflite: The file's bytes; an ExportError where the recipe is simulated only.
        recipe: The recipe that made it.
        replay: A recipe that makes the same file without a search: what `recipe.policy` found, as rules. `recipe` itself
            where there was nothing to search.
        report: One page about it; `print(compressed.report)`, `compressed.report.to_dict()`.
        weight_grids: Layer of `.model` -> grid that its kernel is on, None where it has no steps along a single axis; empty
            where weights stayed in float.
        channel_scales: First layer of those that write the same channels -> (channels,) what equalization, the scaling of
            outliers and leveling multiplied them by, and the layers that read them divide by again; empty where nothing was.
    """

    def __init__(
        self,
        tflite: bytes | None,
        recipe: Recipe,
        report: Report,
        graph: Graph,
        grids: Mapping[str, Quantizer],
        evidence: Evidence,
        replay: Recipe | None = None,
        weight_grids: Mapping[str, Quantizer | None] | None = None,
        channel_scales: Mapping[str, np.ndarray] | None = None,
        writing: Writing | None = None,
    ):
        self._tflite = tflite
        self.recipe = recipe
        self.replay = replay or recipe
        self.weight_grids = dict(weight_grids or {})
        self.channel_scales = dict(channel_scales or {})
        self.report = report
        self._graph = graph
        self._grids = dict(grids)
        self._evidence = evidence
        self._writing = writing

    @property
    def tflite(self) -> bytes:
        """The file. Raises ExportError where there is none."""
        if self._tflite is None:
            raise ExportError(
                f"there is no integer file: {self.recipe.quantize.simulated}. Use .model or .predict(x), which simulate "
                "it, or a recipe with activation_bits=8 or 16 and symmetric_weights=True."
            )
        return self._tflite

    @functools.cached_property
    def model(self) -> keras.Model:
        """A plain Keras model that simulates the file's arithmetic: `predict` and `save` work on it."""
        return simulated_model(self._graph, self._grids)

    def predict(self, x: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]) -> np.ndarray | list[np.ndarray]:
        """Runs the file through LiteRT on real inputs, one at a time; where there is none, the model that simulates it.

        Args:
            x: Reals of shape (n, *input shape); for several inputs a list in the model's order or a dict by name; or what
                `generate_images` returned.

        Returns:
            Dequantized outputs (n, ...): an array, or a list for several outputs.
        """
        outputs = predict_as_written(self._tflite, self._graph, self._grids, self._as_list(x))
        return outputs[0] if len(outputs) == 1 else outputs

    def _as_list(self, x) -> list[np.ndarray]:
        names = self._graph.inputs
        if isinstance(x, Mapping):
            missing = [name for name in names if name not in x]
            if missing:
                raise ValueError(
                    f"x lacks the input(s) {', '.join(missing)}; the model's inputs are {', '.join(names)}."
                )
            arrays = [np.asarray(x[name]) for name in names]
        elif len(names) == 1:
            alone = (
                isinstance(x, (list, tuple)) and len(x) == 1 and np.ndim(x[0]) == len(self._graph.specs[names[0]].shape)
            )
            arrays = [np.asarray(x[0] if alone else x)]
        elif isinstance(x, GeneratedImages):
            return self._as_list(x.inputs)
        else:
            arrays = [np.asarray(array) for array in x]
        for name, array in zip(names, arrays, strict=True):
            wanted = self._graph.specs[name].shape[1:]
            if array.ndim != len(wanted) + 1 or array.shape[1:] != wanted or not len(array):
                raise ValueError(f"input '{name}' has shape {array.shape}; give (n, {', '.join(map(str, wanted))}).")
        return arrays

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Writes `.tflite` (the file), `.keras` (the simulating model), `.json` (recipe and report) or `.html` (the report
        as a page to look at).

        The file appears whole or not at all.

        Raises:
            FileExistsError: `path` exists and `overwrite` is False.
            ExportError: It should be a file, and the recipe is simulated only.
            MissingPackageError: It should be a page, and Bokeh, which draws it, is not installed.
            ValueError: The ending is none of these.
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
            write_atomically(path, report_page(self.report, self.recipe, self._evidence).encode())
        elif path.suffix == ".keras":
            with tempfile.TemporaryDirectory() as folder:
                whole = Path(folder) / "model.keras"
                self.model.save(whole)
                write_atomically(path, whole.read_bytes())
        else:
            raise ValueError(f"{path} ends in {path.suffix!r}; choose .tflite, .keras, .json or .html.")
        return path
