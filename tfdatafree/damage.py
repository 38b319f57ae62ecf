"""What single parts of a network cost its results: one layer or tensor at a time is changed, all of them in one walk.

    damage = || y' - y || / || y ||,     y the results of the network, y' those with one part alone changed

for the results before softmax and the like, where errors are seen best. Errors of different parts are hardly correlated:
the square of what several do together is about the sum of their squares. (Output Discrepancy, FRanDI eq. 3, is the same for
results of equal length; unlike it the damage exists for a network with a single output, too.)

Nothing before a change is computed twice: the inputs pass once, and where a part changes its variant joins them as further
rows of the batch, so that at the end all variants have come through together. Tensors that were there before a variant joined
lack its rows; where one meets a tensor that has them, the rows of the original stand in, which is what the variant has there.
No operation may mix the examples of a batch. Where a tensor with the rows of all variants would be too large, fewer examples
walk at once, and then fewer variants.

A tensor's grid does two things, rounding and clipping, which are two parts here: clipping is seen on generated inputs only as
far as these are like real ones.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfdatafree.at_work import report_layer
from tfdatafree.graph import Graph, Layer, Node
from tfdatafree.linear import layout_of
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.numerics.metrics import agreement, output_discrepancy
from tfdatafree.optimizers.headroom import decision_tensors
from tfdatafree.placement import only_moved

# Bytes that the largest tensor of one walk, with all its variants, may take.
_WALK_BYTES = 2**27
# What stands for a damage that is no number: more than any that is.
_RUINED = 1e6
# Share of a tensor's values from which on its clipping is measured apart from its rounding.
_CLIPPED = 1e-4


# Layers ---------------------------------------------------------------------------------------------------------------


def single_layer_damages(
    teacher: Graph, student: Graph, layers: Collection[str], inputs: Sequence[np.ndarray]
) -> dict[str, float]:
    """Layer -> damage^2 of the teacher with that layer taken from the student; of several results the sum.

    Args:
        teacher, student: Graphs with the same nodes.
        layers: Keys of layers to try, one at a time.
        inputs: Arrays (n, ...), one per graph input.
    """
    graph = _shortened(teacher)
    called = dict.fromkeys(node.layer for node in graph.nodes)
    variants = [_Variant(key, layer=student.layers[key]) for key in called if key in layers]
    errors, energies = np.zeros((2, len(graph.outputs), len(variants)))
    for some, results in _passes(graph, variants, inputs):
        for at, values in enumerate(results):
            rows = values.reshape(len(values), -1).astype(np.float64)
            errors[at, some] += np.square(rows[1:] - rows[0]).sum(axis=1)
            energies[at, some] += np.square(rows[0]).sum()
    found = (errors / np.maximum(energies, 1e-30)).sum(axis=0)
    found = np.minimum(np.nan_to_num(found, nan=_RUINED), _RUINED)
    # A layer that no result depends on can do no harm.
    names = [variant.name for variant in variants]
    return dict.fromkeys(layers, 0.0) | dict(zip(names, found.tolist(), strict=True))


# Quantizers -----------------------------------------------------------------------------------------------------------


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
    teacher, student = _shortened(teacher), _shortened(student)
    grids = {tensor: grid for tensor, grid in grids.items() if tensor not in only_moved(teacher)}
    seen = _seen(teacher, grids, inputs)
    variants = list(_quantizers(teacher, student, weight_bits, grids, seen))
    tallies = [_Tally() for _ in variants]
    for some, results in _passes(teacher, variants, inputs, report_layer):
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
) -> Iterator["_Variant"]:
    """Each quantizer alone, in the order in which they come into play."""

    def of_values(tensor: str) -> Iterator[_Variant]:
        if tensor in grids:
            apart = seen[tensor][0] > _CLIPPED
            for change in (_unclipped, _unrounded) if apart else (_on_grid,):
                yield _Variant(tensor, change=change, grid=grids[tensor])

    for tensor in teacher.inputs:
        yield from of_values(tensor)
    called = set()
    for node in teacher.nodes:
        if node.layer in weight_bits and node.layer not in called:
            called.add(node.layer)
            yield _Variant(node.layer, layer=student.layers[node.layer])
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


# Walking --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variant:
    """The network with one part changed: the layer `name` is `layer`, or the tensor `name` is `change(values, grid)`."""

    name: str
    layer: Layer | None = None
    change: Callable[[np.ndarray, Quantizer], np.ndarray] | None = None
    grid: Quantizer | None = None


def _shortened(graph: Graph) -> Graph:
    """The graph up to its results before softmax; kernels as tensors, which are otherwise made of arrays at each call."""
    graph = dataclasses.replace(graph.copy(), outputs=decision_tensors(graph) or list(graph.outputs))
    graph.drop_unread()
    graph.layers = {
        key: Layer(layer.operation, tuple(map(tf.convert_to_tensor, layer.weights)))
        if layout_of(layer) is not None
        else layer
        for key, layer in graph.layers.items()
    }
    return graph


def _passes(
    graph: Graph,
    variants: Sequence[_Variant],
    inputs: Sequence[np.ndarray],
    report: Callable[[str, float], None] = lambda name, part: None,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Yields (which variants, the graph's outputs (1 + these variants, some of the examples, ...), the original's first).

    Args:
        variants: In the order in which they join.
        report: Called with the node at work and the part of all the work that is done.
    """
    groups = list(_groups(graph, variants, 0))
    n = len(inputs[0])
    at_once = max(1, min(_WALK_BYTES // max(_largest(graph, variants[some]) for some in groups), n))
    walks = len(groups) * -(-n // at_once)
    done = 0
    for start in range(0, n, at_once):
        arrays = [tf.convert_to_tensor(array[start : start + at_once]) for array in inputs]
        for some in groups:
            walk = _Walk(graph, variants[some], len(arrays[0]), functools.partial(_report_of_all, report, done, walks))
            yield (
                some,
                [
                    values.reshape(1 + len(variants[some]), len(arrays[0]), *values.shape[1:])
                    for values in walk.results(arrays)
                ],
            )
            done += 1


def _report_of_all(report: Callable[[str, float], None], done: int, walks: int, name: str, part: float) -> None:
    """Part of all walks, of which `done` are done: with each layer more variants walk along."""
    report(name, (done + part**2) / walks)


def _groups(graph: Graph, variants: Sequence[_Variant], start: int) -> Iterator[slice]:
    """Parts of the variants of which one example can walk within the memory that a walk may take."""
    if len(variants) > 1 and _largest(graph, variants) > _WALK_BYTES:
        middle = len(variants) // 2
        yield from _groups(graph, variants[:middle], start)
        yield from _groups(graph, variants[middle:], start + middle)
    else:
        yield slice(start, start + len(variants))


def _largest(graph: Graph, variants: Sequence[_Variant]) -> int:
    """Bytes of the largest tensor of one example, with the rows of the variants that have joined by then."""
    joining: dict[str, int] = {}
    for variant in variants:
        joining[variant.name] = joining.get(variant.name, 0) + 1
    rows, largest = 1 + sum(joining.pop(tensor, 0) for tensor in graph.inputs), 4
    for node in graph.nodes:
        rows += joining.pop(node.layer, 0) + sum(joining.pop(tensor, 0) for tensor in node.outputs)
        for tensor in node.outputs:
            largest = max(largest, 4 * rows * math.prod(length or 1 for length in graph.specs[tensor].shape[1:]))
    return largest


class _Walk:
    """One pass of `count` examples; tensors have (1 + variants) * count rows, the original's first."""

    def __init__(self, graph: Graph, variants: Sequence[_Variant], count: int, report: Callable[[str, float], None]):
        self.graph, self.count, self.report = graph, count, report
        self.layers = {variant.name: variant.layer for variant in variants if variant.layer is not None}
        self.tensors: dict[str, list[_Variant]] = {}
        for variant in variants:
            if variant.layer is None:
                self.tensors.setdefault(variant.name, []).append(variant)
        self.student = graph.copy()
        self.student.layers |= self.layers
        self.joined = 0
        self.row_of: dict[str, int] = {}  # layer -> place of its variant, counted from 1
        self.variants: dict[str, int] = {}  # tensor -> variants it has rows of
        self.done = 0  # nodes

    def results(self, inputs: Sequence[tf.Tensor]) -> list[np.ndarray]:
        """The graph's outputs, each with the rows of all variants."""
        self.variants.update(dict.fromkeys(self.graph.inputs, 0))
        changed = [self.with_changes(*pair) for pair in zip(self.graph.inputs, inputs, strict=True)]
        live: Mapping[str, Any] = dict(zip(self.graph.inputs, changed, strict=True))
        for _, live in self.graph.walk(changed, self.call):
            pass
        return [np.asarray(self.padded(live[t], self.variants[t], self.joined)) for t in self.graph.outputs]

    def call(self, node: Node, live: Mapping[str, Any]) -> tuple:
        """The node on all rows, those of its own layer's variant by that layer; then variants of its outputs join."""
        self.report(node.name, self.done / len(self.graph.nodes))
        self.done += 1
        most = max((self.variants[tensor] for tensor in node.inputs), default=0)
        if node.layer in self.layers and node.layer not in self.row_of:
            self.joined += 1
            self.row_of[node.layer] = self.joined
        row = self.row_of.get(node.layer)
        here = {tensor: self.padded(live[tensor], self.variants[tensor], most) for tensor in node.inputs}
        outputs = self.graph.call(node, here)
        if row is not None:
            start = row * self.count if row <= most else 0
            own = {tensor: value[start : start + self.count] for tensor, value in here.items()}
            changed = self.student.call(node, own)
            outputs = tuple(self.put(o, c, row, most) for o, c in zip(outputs, changed, strict=True))
            most = max(most, row)
        self.variants.update(dict.fromkeys(node.outputs, most))
        return tuple(self.with_changes(*pair) for pair in zip(node.outputs, outputs, strict=True))

    def with_changes(self, tensor: str, values: tf.Tensor) -> tf.Tensor:
        """The tensor with the rows of its own variants, which join here."""
        for variant in self.tensors.get(tensor, ()):
            changed = variant.change(np.asarray(values[: self.count]), variant.grid)
            self.joined += 1
            values = self.put(values, tf.cast(changed, values.dtype), self.joined, self.variants[tensor])
            self.variants[tensor] = self.joined
        return values

    def padded(self, values: tf.Tensor, present: int, wanted: int) -> tf.Tensor:
        """The tensor with rows of the original for the variants that it lacks."""
        if present == wanted:
            return values
        return tf.concat([values, *[values[: self.count]] * (wanted - present)], axis=0)

    def put(self, values: tf.Tensor, changed: tf.Tensor, row: int, most: int) -> tf.Tensor:
        """`values` with `changed` as the rows of variant `row`."""
        if row > most:
            return tf.concat([self.padded(values, most, row - 1), changed], axis=0)
        return tf.concat([values[: row * self.count], changed, values[(row + 1) * self.count :]], axis=0)
