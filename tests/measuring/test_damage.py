"""What single layers and quantizers cost the results, measured for all of them in one walk."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import every_kind, exported, folded

from tfdatafree.diagnosis.quantizer_damage import Effect, ResultForm, measure_damage
from tfdatafree.export.simulate import insert_quantizers
from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring import variants
from tfdatafree.measuring.damage import single_layer_damages, single_layer_divergences
from tfdatafree.model.decisions import decision_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import layout_of
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.placement import Placement
from tfdatafree.quantization.rounding import Rounding, round_graph

SOME = ["plain", "branch_add", "shared_layer_with_activation", "two_inputs", "two_outputs", "poolings", "softmax",
        "nested_called_twice", "concatenate", "squeeze_excite"]  # fmt: skip


def graphs(name: str) -> tuple[Graph, Graph, list[str], list[np.ndarray]]:
    """(float graph, the same with 3-bit weights, layers with a kernel, four inputs)."""
    teacher = folded(name)
    rounded = round_graph(teacher, Rounding(bits=3))
    return teacher, rounded.graph, list(rounded.kernels), make_inputs(teacher, 4, (-1.0, 1.0), seed=0)


def one_by_one(teacher: Graph, student: Graph, key: str, inputs: list[np.ndarray]) -> float:
    """The damage of one layer by the definition: two whole passes."""
    mixed = teacher.copy()
    mixed.layers[key] = student.layers[key]
    total = 0.0
    for tensor in decision_tensors(teacher) or teacher.outputs:
        y, y0 = (
            dataclasses.replace(graph, outputs=[tensor]).predict([tf.constant(array) for array in inputs])[0]
            for graph in (mixed, teacher)
        )
        total += relative_error(y, y0) ** 2
    return total


@every_kind
def test_each_layer_does_the_damage_that_it_does_by_itself(name):
    teacher, student, layers, inputs = graphs(name)
    found = single_layer_damages(teacher, student, layers, inputs)
    assert found.keys() == set(layers)
    for key in layers:
        assert found[key] == pytest.approx(one_by_one(teacher, student, key, inputs), rel=1e-3, abs=1e-9)


@every_kind
def test_divergences_are_those_of_the_softmax_by_the_definition(name, monkeypatch):
    teacher, student, layers, inputs = graphs(name)
    whole = single_layer_divergences(teacher, student, layers, inputs)
    for key in layers:
        mixed = teacher.copy()
        mixed.layers[key] = student.layers[key]
        wanted = 0.0
        for tensor in decision_tensors(teacher) or teacher.outputs:
            p, q = (
                tf.nn.softmax(dataclasses.replace(graph, outputs=[tensor]).predict(list(map(tf.constant, inputs)))[0])
                for graph in (teacher, mixed)
            )
            wanted += float(tf.reduce_mean(keras.losses.kl_divergence(p, q) + keras.losses.kl_divergence(q, p))) / 2
        assert whole[key] == pytest.approx(wanted, rel=1e-2, abs=1e-6)
    monkeypatch.setattr(variants, "_WALK_BYTES", 1)
    in_parts = single_layer_divergences(teacher, student, layers, inputs)
    assert in_parts == pytest.approx(whole, rel=1e-3, abs=1e-9)


def test_few_examples_at_once_find_the_same(monkeypatch):
    teacher, student, layers, inputs = graphs("shared_separable")
    whole = single_layer_damages(teacher, student, layers, inputs)
    assert sum(value > 1e-6 for value in whole.values()) > 2
    monkeypatch.setattr(variants, "_WALK_BYTES", 1)
    in_parts = single_layer_damages(teacher, student, layers, inputs)
    assert in_parts == pytest.approx(whole, rel=1e-4)


def test_only_the_layers_asked_for_and_nothing_for_one_that_did_not_change():
    teacher, student, layers, inputs = graphs("plain")
    found = single_layer_damages(teacher, student, layers[1:2], inputs)
    assert list(found) == layers[1:2] and found[layers[1]] > 0
    assert set(single_layer_damages(teacher, teacher, layers, inputs).values()) == {0.0}


def test_what_is_no_number_counts_as_ruin():
    teacher, student, layers, inputs = graphs("plain")
    layer = student.layers[layers[0]]
    student.layers[layers[0]] = layer.with_weights(kernel=np.full_like(layer.weight("kernel"), np.nan))
    found = single_layer_damages(teacher, student, layers, inputs)
    assert found[layers[0]] > 1e3 and all(value < 10 for key, value in found.items() if key != layers[0])
    assert layout_of(layer)


# Quantizers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
@pytest.mark.slow
def test_each_effect_is_that_of_a_network_with_this_quantizer_alone(name):
    made = exported(name)
    teacher, student = made.reference, made.rounded
    grids = Placement(teacher).grids(made.ranges, 6)
    bits = {key: kernel.grid.bits for key, kernel in made.kernels.items()}
    damages, together = measure_damage(teacher, student, bits, grids, made.inputs)
    assert {d.name for d in damages if d.kind == "weights"} == bits.keys()
    # What a softmax makes of the results is left out of both.
    unbounded = name not in ("softmax",)
    wanted = teacher.predict(made.inputs)
    for d in damages if unbounded else ():
        if d.kind == "weights":
            alone = teacher.copy()
            alone.layers[d.name] = student.layers[d.name]
        else:
            alone = insert_quantizers(teacher, {d.name: grids[d.name]})
        found = alone.predict(made.inputs)
        worst = max(relative_error(x, y) for x, y in zip(found, wanted, strict=True))
        assert d.effect.error == pytest.approx(worst, rel=1e-3, abs=1e-6), d.name
    whole = insert_quantizers(student, grids).predict(made.inputs)
    if unbounded:
        assert together.error == pytest.approx(max(map(relative_error, whole, wanted)), rel=1e-3, abs=1e-6)


def test_a_tensor_whose_values_only_moved_is_not_measured_twice():
    teacher = exported("poolings").reference
    grids = Placement(teacher).grids(exported("poolings").ranges, 8)
    damages, _ = measure_damage(teacher, exported("poolings").rounded, {}, grids, exported("poolings").inputs)
    kinds = {d.name: type(teacher.operation_of(teacher.node(d.node))).__name__ for d in damages if d.node}
    assert "MaxPooling2D" not in kinds.values() and "AveragePooling2D" in kinds.values()


def test_clipping_and_rounding_are_told_apart():
    made = exported("plain")
    low = {tensor: Range(0.3 * r.low, 0.3 * r.high) for tensor, r in made.ranges.items()}
    grids = Placement(made.reference).grids(low, 8)
    damages, _ = measure_damage(made.reference, made.rounded, {}, grids, made.inputs)
    found = {(d.kind, d.name): d for d in damages}
    clipped = [name for kind, name in found if kind == "range"]
    assert clipped and all(0 < found["range", name].clipped < 1 for name in clipped)
    assert all(found["range", name].effect.error > 2 * found["values", name].effect.error for name in clipped)
    fine = measure_damage(
        made.reference, made.rounded, {}, Placement(made.reference).grids(made.ranges, 8), made.inputs
    )[0]
    assert "range" not in {d.kind for d in fine}, "these ranges come from these inputs"


@pytest.mark.parametrize("name", ["two_outputs", "shared_layer_with_activation"])
@pytest.mark.slow
def test_few_examples_and_few_quantizers_at_once_find_the_same(monkeypatch, name):
    made = exported(name)
    grids = Placement(made.reference).grids(made.ranges, 6)
    bits = dict.fromkeys(made.kernels, 8)
    whole, together = measure_damage(made.reference, made.rounded, bits, grids, made.inputs)
    monkeypatch.setattr(variants, "_WALK_BYTES", 1)
    in_parts, again = measure_damage(made.reference, made.rounded, bits, grids, made.inputs)
    assert [(d.kind, d.name, d.node, d.bits) for d in in_parts] == [(d.kind, d.name, d.node, d.bits) for d in whole]
    assert len({d.effect.error for d in whole}) > 5, "they differ"
    for found, wanted in zip(in_parts, whole, strict=True):
        assert found.effect.error == pytest.approx(wanted.effect.error, rel=1e-3, abs=1e-6), found.name
        assert found.effect.output_discrepancy == pytest.approx(wanted.effect.output_discrepancy, rel=1e-3, abs=1e-6)
        assert found.effect.agreement == pytest.approx(wanted.effect.agreement)
    assert again.error == pytest.approx(together.error, rel=1e-3)


def test_of_several_results_the_furthest_counts():
    a, b = np.eye(3, dtype=np.float32), np.ones((3, 1), np.float32)
    effect = Effect.of([a, 2 * b], [a, b], [ResultForm("a", has_classes=True), ResultForm("b")])
    assert (effect.error, effect.output_discrepancy, effect.agreement) == (1.0, 0.0, 1.0)
    assert Effect.of([b], [b]).agreement is None
    assert Effect.of([a * np.nan], [a]).error == 1.0
