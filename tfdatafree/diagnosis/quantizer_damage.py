"""What each quantizer alone costs a network's results: every layer's weights, every tensor's rounding and clipping."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfdatafree.activity import report_layer
from tfdatafree.measuring.variants import Variant, passes, up_to_decisions
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.metrics import agreement, output_discrepancy
from tfdatafree.quantization.placement import only_moved

# Share of a tensor's values from which on its clipping is measured apart from its rounding.
_CLIPPED = 1e-4


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far results lie from the float network's; of several results the furthest.

    Attributes:
        error: ||y - y0|| / ||y0||.
        output_discrepancy: 0 (same direction) to 2 (opposite).
        agreement: Share of inputs with the same argmax; None where no result has several entries.
    """

    error: float
    output_discrepancy: float
    agreement: float | None

    @classmethod
    def of(cls, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> "Effect":
        tally = _Tally()
        tally.add(found, wanted)
        return tally.effect()


@dataclass(frozen=True)
class Damage:
    """One quantizer, and what it does alone.

    Attributes:
        kind: "weights" of the layer `name` (its corrected bias included); "values" of the tensor `name`, rounded but not
            clipped; its "range", which clips and does not round.
        node: The graph node at which it acts; None for a model input.
        clipped: Share of the tensor's values that its integers cannot reach; 0 for weights.
        spread: Widest over usual (median) standard deviation of the tensor's channels; 1 for weights.
    """

    kind: Literal["weights", "values", "range"]
    name: str
    node: str | None
    bits: int
    effect: Effect
    clipped: float = 0.0
    spread: float = 1.0


def measure_damage(
    teacher: Graph,
    student: Graph,
    weight_bits: Mapping[str, int],
    grids: Mapping[str, Quantizer],
    inputs: Sequence[np.ndarray],
) -> tuple[list[Damage], Effect]:
    """(each quantizer alone, all of them together), in order of execution.

    Args:
        teacher: The folded float graph.
        student: The same with its kernels on their grids and its biases corrected.
        weight_bits: Layer key -> bits of its kernel, for layers that have integers.
        grids: Tensor -> its grid.
        inputs: A few inputs, one array (n, *shape) each.
    """
    teacher, student = up_to_decisions(teacher), up_to_decisions(student)
    grids = {tensor: grid for tensor, grid in grids.items() if tensor not in only_moved(teacher)}
    seen = _seen(teacher, grids, inputs)
    variants = list(_quantizers(teacher, student, weight_bits, grids, seen))
    tallies = [_Tally() for _ in variants]
    for some, results in passes(teacher, variants, inputs, report_layer):
        for row, tally in enumerate(tallies[some], start=1):
            tally.add([values[row] for values in results], [values[0] for values in results])
    writers = {tensor: node.name for node in teacher.nodes for tensor in node.outputs}
    callers = {node.layer: node.name for node in reversed(teacher.nodes)}
    damages = []
    for variant, tally in zip(variants, tallies, strict=True):
        name, effect = variant.name, tally.effect()
        if variant.layer is not None:
            damages.append(Damage("weights", name, callers[name], weight_bits[name], effect))
        else:
            kind: Any = "range" if variant.change is _unrounded else "values"
            damages.append(Damage(kind, name, writers.get(name), grids[name].bits, effect, *seen[name]))
    together = _rounded_results(student, grids, inputs)
    return damages, Effect.of(together, teacher.predict(list(map(tf.convert_to_tensor, inputs))))


def _quantizers(
    teacher: Graph,
    student: Graph,
    weight_bits: Mapping[str, int],
    grids: Mapping[str, Quantizer],
    seen: Mapping[str, tuple[float, float]],
) -> Iterator["Variant"]:
    """Each quantizer alone, in the order in which they come into play."""

    def of_values(tensor: str) -> Iterator[Variant]:
        if tensor in grids:
            apart = seen[tensor][0] > _CLIPPED
            for change in (_unclipped, _unrounded) if apart else (_on_grid,):
                yield Variant(tensor, change=change, grid=grids[tensor])

    for tensor in teacher.inputs:
        yield from of_values(tensor)
    called = set()
    for node in teacher.nodes:
        if node.layer in weight_bits and node.layer not in called:
            called.add(node.layer)
            yield Variant(node.layer, layer=student.layers[node.layer])
        for tensor in node.outputs:
            yield from of_values(tensor)


def _on_grid(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    return grid(values)


def _unclipped(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    """Rounded, as far as the grid reaches."""
    return np.where(_beyond(values, grid), values, grid(values))


def _unrounded(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    """Clipped to where the grid reaches."""
    return np.where(_beyond(values, grid), grid(values), values)


def _beyond(values: np.ndarray, grid: Quantizer) -> np.ndarray:
    half = float(grid.scale) / 2
    return (values < grid.low - half) | (values > grid.high + half)


def _seen(graph: Graph, grids: Mapping[str, Quantizer], inputs: Sequence[np.ndarray]) -> dict[str, tuple[float, float]]:
    """Tensor -> (share of its values beyond its grid, spread of its channels)."""
    found = {}

    def note(tensor: str, values: np.ndarray) -> None:
        if tensor in grids:
            found[tensor] = float(_beyond(values, grids[tensor]).mean()), _spread(values)

    for tensor, array in zip(graph.inputs, inputs, strict=True):
        note(tensor, np.asarray(array))
    for node, live in graph.walk([tf.convert_to_tensor(array) for array in inputs]):
        for tensor in node.outputs:
            note(tensor, np.asarray(live[tensor]))
    return found


def _spread(values: np.ndarray) -> float:
    """Widest over median standard deviation of the channels; 1 where there is one value per channel."""
    if values.ndim < 3 or values.shape[-1] < 2:
        return 1.0
    sd = values.reshape(-1, values.shape[-1]).std(axis=0, dtype=np.float64)
    return float(sd.max() / max(np.median(sd), 1e-3 * sd.max(), 1e-30))


def _rounded_results(graph: Graph, grids: Mapping[str, Quantizer], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs, every tensor that has a grid on it."""

    def on_grid(tensor: str, values: Any) -> Any:
        return tf.convert_to_tensor(grids[tensor](np.asarray(values))) if tensor in grids else values

    rounded = [on_grid(tensor, tf.convert_to_tensor(array)) for tensor, array in zip(graph.inputs, inputs, strict=True)]
    live = dict(zip(graph.inputs, rounded, strict=True))
    for node, live in graph.walk(rounded):
        live |= {tensor: on_grid(tensor, live[tensor]) for tensor in node.outputs}
    return [np.asarray(live[tensor]) for tensor in graph.outputs]


class _Tally:
    """Sums over inputs, which come in parts, from which their Effect follows."""

    def __init__(self):
        self._inputs = 0
        self._sums: np.ndarray | float = 0.0  # (results, 4): error^2, energy, discrepancies, agreements (NaN: none)

    def add(self, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
        """Results of some inputs, (n, ...) each."""
        n = len(wanted[0])
        rows = []
        for x, y in zip(map(np.nan_to_num, found), wanted, strict=True):
            error, energy = (np.square(values, dtype=np.float64).sum() for values in (x.astype(np.float64) - y, y))
            same = agreement(x, y) if y.ndim > 1 and y.shape[-1] > 1 else np.nan
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
        )
