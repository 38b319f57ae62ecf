"""Measures the damage of each quantizer alone: of every layer's weights, and every tensor's rounding and clipping."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfdatafree.activity import report_layer
from tfdatafree.measuring.variants import Variant, passes, up_to_decisions
from tfdatafree.model.graph import Graph
from tfdatafree.model.joins import Part, parts_of
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.metrics import agreement, output_discrepancy
from tfdatafree.quantization.placement import only_moved
from tfdatafree.report.outputs import channel_parts

# If a tensor clips a larger fraction of its values, clipping and rounding are measured separately.
_CLIPPED = 1e-4


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Difference between results and those of the float network; the largest one, if there are several results or branches.

    Attributes:
        error: ||y - y0|| / ||y0||.
        output_discrepancy: 0 (same direction) to 2 (opposite).
        agreement: Fraction of inputs with the same argmax; None if no result has classes.
        errors: Result, or part of a result -> its error.
    """

    error: float
    output_discrepancy: float
    agreement: float | None
    errors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        results: Sequence[np.ndarray],
        references: Sequence[np.ndarray],
        forms: "Sequence[ResultForm] | None" = None,
    ) -> "Effect":
        tally = _Tally(forms or [ResultForm(str(at)) for at in range(len(references))])
        tally.add(results, references)
        return tally.effect()


@dataclass(frozen=True)
class ResultForm:
    """What a result holds.

    Attributes:
        name: Its tensor.
        has_classes: Whether its largest entry chooses a class.
        parts: The branches that it joins, or its narrow and its wide channels, which are measured apart; () if it is of one
            piece.
    """

    name: str
    has_classes: bool = False
    parts: tuple[Part, ...] = ()

    def with_channels(self, values: np.ndarray) -> "ResultForm":
        """The form of a result of one piece, without classes, which has these values."""
        whole = self.has_classes or self.parts
        return self if whole else dataclasses.replace(self, parts=channel_parts(values, self.name))

    @property
    def names(self) -> list[str]:
        return [f"{self.name}: {part.name}" for part in self.parts] or [self.name]

    def pieces(self, values: np.ndarray) -> list[np.ndarray]:
        return [part.of(values) for part in self.parts] or [values]


@dataclass(frozen=True)
class Damage:
    """One quantizer, and its effect when no other is on.

    Attributes:
        kind: "weights": those of the layer `name`, with its corrected bias. "values": the tensor `name` is rounded but not
            clipped. "range": the tensor is clipped but not rounded.
        node: Graph node that calls the layer or writes the tensor; None for a model input.
        clipped: Fraction of the tensor's values that its integers clip; 0 for weights.
        spread: Largest over median standard deviation of the tensor's channels; 1 for weights.
    """

    kind: Literal["weights", "values", "range"]
    name: str
    node: str | None
    bits: int
    effect: Effect
    clipped: float = 0.0
    spread: float = 1.0


def measure_damage(
    reference: Graph,
    rounded: Graph,
    weight_bits: Mapping[str, int],
    grids: Mapping[str, Quantizer],
    inputs: Sequence[np.ndarray],
    classes: Collection[str] = (),
) -> tuple[list[Damage], Effect]:
    """(each quantizer alone in order of execution, effect of all quantizers together).

    Args:
        reference: The folded float graph.
        rounded: The same graph with its kernels on their grids and its biases corrected.
        weight_bits: Layer -> bits of its kernel, for layers that have integers.
        grids: Tensor -> its grid.
        inputs: A few inputs, one array (n, *shape) per graph input.
        classes: Decision tensors whose largest entry chooses a class.
    """
    reference, rounded = up_to_decisions(reference), up_to_decisions(rounded)
    grids = {tensor: grid for tensor, grid in grids.items() if tensor not in only_moved(reference)}
    clipping = _measure_clipping(reference, grids, inputs)
    variants = list(_variants(reference, rounded, weight_bits, grids, clipping))
    forms = [ResultForm(tensor, tensor in classes, parts_of(reference, tensor)) for tensor in reference.outputs]
    tallies = [_Tally(forms) for _ in variants]
    for rows, results in passes(reference, variants, inputs, report_layer):
        for row, tally in enumerate(tallies[rows], start=1):
            tally.add([values[row] for values in results], [values[0] for values in results])
    writers = {tensor: node.name for node in reference.nodes for tensor in node.outputs}
    callers = {node.layer: node.name for node in reversed(reference.nodes)}
    damages = []
    for variant, tally in zip(variants, tallies, strict=True):
        name, effect = variant.name, tally.effect()
        if variant.layer is not None:
            damages.append(Damage("weights", name, callers[name], weight_bits[name], effect))
        else:
            kind: Any = "range" if variant.change is _clip_only else "values"
            damages.append(Damage(kind, name, writers.get(name), grids[name].bits, effect, *clipping[name]))
    results_together = _predict_rounded(rounded, grids, inputs)
    expected = reference.predict(list(map(tf.convert_to_tensor, inputs)))
    finer = [form.with_channels(values) for form, values in zip(forms, expected, strict=True)]
    together = Effect.of(results_together, expected, forms)
    return damages, dataclasses.replace(together, errors=Effect.of(results_together, expected, finer).errors)


def _variants(
    reference: Graph,
    rounded: Graph,
    weight_bits: Mapping[str, int],
    grids: Mapping[str, Quantizer],
    clipping: Mapping[str, tuple[float, float]],
) -> Iterator["Variant"]:
    """One variant of the network per quantizer, in order of execution."""

    def of_values(tensor: str) -> Iterator[Variant]:
        if tensor in grids:
            clips = clipping[tensor][0] > _CLIPPED
            for change in (_round_only, _clip_only) if clips else (_on_grid,):
                yield Variant(tensor, change=change, grid=grids[tensor])

    for tensor in reference.inputs:
        yield from of_values(tensor)
    called = set()
    for node in reference.nodes:
        if node.layer in weight_bits and node.layer not in called:
            called.add(node.layer)
            yield Variant(node.layer, layer=rounded.layers[node.layer])
        for tensor in node.outputs:
            yield from of_values(tensor)


def _on_grid(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    return grid(values)


def _round_only(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    """Rounds the values inside of the grid's range, and leaves the others."""
    return np.where(_beyond(values, grid), values, grid(values))


def _clip_only(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    """Clips the values outside of the grid's range, and leaves the others."""
    return np.where(_beyond(values, grid), grid(values), values)


def _beyond(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    half = float(grid.scale) / 2
    return (values < grid.low - half) | (values > grid.high + half)


def _measure_clipping(
    graph: Graph, grids: Mapping[str, Quantizer], inputs: Sequence[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Tensor -> (fraction of its values beyond its grid, spread of its channels)."""
    clipping = {}

    def note(tensor: str, values: np.ndarray) -> None:
        if tensor in grids:
            clipping[tensor] = float(_beyond(values, grids[tensor]).mean()), _spread(values)

    for tensor, array in zip(graph.inputs, inputs, strict=True):
        note(tensor, np.asarray(array))
    for node, live in graph.walk([tf.convert_to_tensor(array) for array in inputs]):
        for tensor in node.outputs:
            note(tensor, np.asarray(live[tensor]))
    return clipping


def _spread(values: np.ndarray) -> float:
    """Largest over median standard deviation of the channels; 1 if there is only one value per channel."""
    if values.ndim < 3 or values.shape[-1] < 2:
        return 1.0
    sd = values.reshape(-1, values.shape[-1]).std(axis=0, dtype=np.float64)
    return float(sd.max() / max(np.median(sd), 1e-3 * sd.max(), 1e-30))


def _predict_rounded(graph: Graph, grids: Mapping[str, Quantizer], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs, with every tensor rounded to its grid."""

    def on_grid(tensor: str, values: Any) -> Any:
        return tf.convert_to_tensor(grids[tensor](np.asarray(values))) if tensor in grids else values

    on_grids = [
        on_grid(tensor, tf.convert_to_tensor(array)) for tensor, array in zip(graph.inputs, inputs, strict=True)
    ]
    live = dict(zip(graph.inputs, on_grids, strict=True))
    for node, live in graph.walk(on_grids):
        live |= {tensor: on_grid(tensor, live[tensor]) for tensor in node.outputs}
    return [np.asarray(live[tensor]) for tensor in graph.outputs]


class _Tally:
    """Sums over parts of the inputs, from which the Effect of all inputs follows."""

    def __init__(self, forms: Sequence[ResultForm]):
        self._forms = forms
        self._inputs = 0
        self._sums: np.ndarray | float = 0.0  # (results, 4): error^2, energy, discrepancies, agreements (NaN: none)

    def add(self, results: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> None:
        """Adds the results of some of the inputs, (n, ...) each."""
        n = len(references[0])
        rows = []
        for form, result, reference in zip(self._forms, map(np.nan_to_num, results), references, strict=True):
            for x, y in zip(form.pieces(result), form.pieces(reference), strict=True):
                error, energy = (np.square(values, dtype=np.float64).sum() for values in (x.astype(np.float64) - y, y))
                same = agreement(x, y) if form.has_classes else np.nan
                rows.append((error, energy, n * output_discrepancy(x, y), n * same))
        self._sums = self._sums + np.array(rows)
        self._inputs += n

    def effect(self) -> Effect:
        error, energy, discrepancies, same = np.asarray(self._sums).T
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.where(error == 0, 0.0, np.sqrt(error / energy))
        return Effect(
            error=float(errors.max()),
            output_discrepancy=float(discrepancies.max() / self._inputs),
            agreement=None if np.isnan(same).all() else float(np.nanmin(same) / self._inputs),
            errors=dict(zip([name for form in self._forms for name in form.names], errors.tolist(), strict=True)),
        )
