"""Per-layer rules: which layer follows which, and what of them is found in the file."""

import dataclasses
import functools
import re

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import Exported, build, each, exported, image, outputs_of, randomized, relative_difference, separated

from tfdatafree import ExportError, Generate, Prune, Quantize, Recipe, Rule, compress
from tfdatafree.compressed import Compressed
from tfdatafree.export.build import Built, build_integer_file
from tfdatafree.export.plan import widen_grid
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.pruning.sparsity import share_rest
from tfdatafree.quantization.placement import Placement
from tfdatafree.quantization.rounding import Rounding, round_graph
from tfdatafree.recipe.rules import LayerRules, match_rules
from tfdatafree.tflite.flatbuffer import File

LAYERS = {name: [name, kind] for name, kind in [("stem", "Conv2D"), ("block_1", "Conv2D"), ("block_10", "DepthwiseConv2D"),
                                                ("logits", "Dense")]}  # fmt: skip
QUICK = Generate(images=4, samples=200, effort="fast")
UNIFORM = Prune(sparsity=0.5, method="uniform", images=8)


@functools.cache
def compressed(model, *rules: Rule, quantize: Quantize | None = Quantize(), prune: Prune | None = None) -> Compressed:
    recipe = Recipe(quantize=quantize, prune=prune, generate=QUICK, rules=rules)
    return compress(build(model) if isinstance(model, str) else model, recipe, input_range=(-1, 1), verbose=0)


# Matching ---------------------------------------------------------------------------------------------------------------


def test_a_pattern_is_held_against_name_and_type_and_the_first_rule_wins():
    fine, coarse, rest = Rule("block_1", weight_bits=8), Rule("block_*", weight_bits=4), Rule("Dense", keep_float=True)
    found = match_rules([fine, coarse, rest], LAYERS)
    assert found.of == {"block_1": fine, "block_10": coarse, "logits": rest}
    assert match_rules([coarse, fine, rest], LAYERS).of["block_1"] is coarse
    assert match_rules([Rule("*Conv2D", weight_bits=4)], LAYERS).of.keys() == {"stem", "block_1", "block_10"}


def test_a_rule_that_sets_nothing_exempts_layers_from_later_ones():
    found = match_rules([Rule("stem"), Rule("*", weight_bits=4)], LAYERS)
    assert found.setting("weight_bits") == {"block_1": 4, "block_10": 4, "logits": 4}


def test_what_computes_several_layers_follows_the_rule_that_stands_first():
    first, second = Rule("logits", keep_float=True), Rule("stem", activation_bits=16)
    found = match_rules([first, second], LAYERS)
    assert found.first(["stem", "logits"]) is found.first(["logits", "stem"]) is first
    assert found.first(["stem", "block_1"]) is second and found.first(["block_1"]) is None


@pytest.mark.parametrize(
    "pattern, hint",
    [
        ("blok_1", "did you mean 'block_1'"),
        ("conv2d*", "did you mean 'Conv2D'"),
        ("zzz", "its layers are stem, block_1"),
    ],
)
def test_a_rule_without_a_layer_is_an_error_that_names_the_nearest(pattern, hint):
    with pytest.raises(ValueError, match=rf"no layer .* that rule '{re.escape(pattern)}' matches; {hint}"):
        match_rules([Rule(pattern, weight_bits=4)], LAYERS)


@pytest.mark.slow
def test_a_rule_in_the_shadow_of_others_is_told():
    found = match_rules([Rule("block*"), Rule("block_1", weight_bits=4)], LAYERS)
    assert found.shadowed == {"block_1": ("block_1",)}
    notes = compressed("plain", Rule("*"), Rule("head", weight_bits=4)).report.notes
    assert "earlier rules decide for head" in notes["rule 'head'"]
    zeros = (Rule("*", sparsity=0.5), Rule("head", sparsity=0))
    floats = compressed("plain", *zeros, quantize=None, prune=UNIFORM)
    assert "earlier rules decide for head" in floats.report.notes["rule 'head'"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight_bits": 3}, "weight_bits of rule 'x' is 3; choose one of None, 4, 5, 6, 7, 8"),
        ({"weight_bits": True}, "weight_bits of rule 'x' is True"),
        ({"activation_bits": 4}, "activation_bits of rule 'x' is 4; choose one of None, 8, 16"),
        ({"keep_float": 1}, "keep_float of rule 'x' is 1; choose one of False, True"),
        ({"sparsity": 1.0}, "sparsity of rule 'x' is 1.0; give the part of zeros"),
        ({"keep_float": True, "weight_bits": 4}, "has both keep_float=True and weight_bits=4"),
    ],
)
def test_a_wrong_setting_says_what_came_and_what_was_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        Rule("x", **options)


@pytest.mark.parametrize(
    "rule, options, message",
    [
        (Rule("x", weight_bits=4), {"quantize": None}, "rule 'x' sets weight_bits, but quantize is None"),
        (Rule("x", sparsity=0.5), {}, "rule 'x' sets sparsity, but the recipe does not prune"),
        (Rule("x", sparsity=0.5), {"prune": Prune(sparsity=0.5, method="channel")}, "prune.method is 'channel'"),
        (Rule("x", sparsity=0.3), {"prune": Prune(pattern="2:4")}, "sparsity=0.3, but pattern '2:4' gives 0.5"),
        ("x", {}, r"rules are \('x',\); give Rule objects"),
    ],
)
def test_a_rule_about_what_the_recipe_does_not_do_is_an_error(rule, options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(rules=(rule,), **options)


@pytest.mark.slow
def test_layers_are_known_by_the_names_of_the_users_model():
    model = build("separable")
    source = Graph.from_keras(model)
    (key,) = [key for key, layer in source.layers.items() if layer.class_name == "SeparableConv2D"][:1]
    found = exported("separable")
    for pattern in (key, "SeparableConv2D"):
        rules = apply_rules([Rule(pattern, weight_bits=4)], source, found.reference)
        assert {key, f"{key}_depthwise"} <= rules.of.keys()


def test_a_layer_that_was_merged_away_is_named():
    with pytest.raises(ValueError, match=r"rule 'a_bn' matches only a_bn, which no operator computes by itself"):
        compressed("plain", Rule("a_bn", keep_float=True))
    with pytest.raises(ValueError, match=r"rule '\*relu\*' sets weight_bits, .* has no convolution or dense kernel"):
        compressed("plain", Rule("*relu*", weight_bits=4))


# Weights ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weight_bits_reach_the_kernel_and_no_other():
    rows = {row.layer: row.weight_bits for row in compressed("plain", Rule("b_conv", weight_bits=4)).report.layers}
    assert rows["b_conv"] == 4 and {bits for layer, bits in rows.items() if layer not in ("b_conv", None)} == {8}


# Activations and floats -------------------------------------------------------------------------------------------------


@functools.cache
def ruled(name: str, seed: int) -> tuple[Exported, LayerRules, Built | str]:
    """A tiny model's file with a third of its layers at 16 bits and a seventh in float; or the error that came."""
    made, random = exported(name), np.random.default_rng(seed)
    rules = []
    for key in made.reference.layers:
        chance = random.random()
        if chance < 0.33:
            rules.append(Rule(key, activation_bits=16))
        elif chance < 0.47:
            rules.append(Rule(key, keep_float=True))
    matched = match_rules(rules, {key: [key] for key in made.reference.layers})
    rounded = round_graph(made.reference, Rounding(in_float=Placement(made.reference, matched).float_layers))
    decision = dataclasses.replace(made.decision, graph=rounded.graph, kernels=rounded.kernels, rules=matched)
    try:
        built = build_integer_file(decision, made.inputs)
    except ExportError as error:
        return made, matched, str(error)
    return made, matched, built


# Every kind of operator, sharing of grids and of layers, and edge.
MIXED = ["branch_add", "shared_layer_with_activation", "ops_nodes", "sine", "two_inputs", "prelu", "swish", "squeeze_excite",
         "concatenate", "merges", "conv1d", "softmax", "uint8_input", "input_is_an_output", "dead_channels"]  # fmt: skip
# What has no 16-bit kernel.
REFUSED = {"prelu": "PRELU"}


@each(MIXED)
@pytest.mark.slow
def test_a_file_of_mixed_widths_computes_what_is_simulated(name):
    # build_integer_file raises where a tensor is further from its simulation than one step.
    made, rules, built = ruled(name, seed=0)
    if isinstance(built, str):
        assert name in REFUSED and re.search(rf"16 bits.*{REFUSED[name]}.*no 16-bit kernel.*keep_float=True", built)
        return
    file = File.parse(built.content)
    assert all(file.dtype(index) == "int8" for index in (*file.inputs, *file.outputs))
    wanted = Placement(built.graph, rules).grids(made.ranges, 8)
    for tensor, grid in built.grids.items():
        if tensor in wanted and name not in ("uint8_input", "ops_nodes"):
            assert grid.bits == wanted[tensor].bits, tensor


@pytest.mark.slow
def test_a_rule_widens_the_tensor_its_layer_writes_and_only_that():
    plain, wide = compressed("branch_add"), compressed("branch_add", Rule("Add", activation_bits=16))
    added = [row.name for row in plain.report.layers if row.operation.startswith("Add")]
    bits = {row.name: row.activation_bits for row in wide.report.layers}
    assert added and {name for name, width in bits.items() if width == 16} == set(added)
    before = {row.name: row.sqnr_db for row in plain.report.layers}
    after = {row.name: row.sqnr_db for row in wide.report.layers}
    assert all(after[name] > before[name] for name in added), "the finer grid has less noise"
    assert wide.report.integer_only and "int16" in _dtypes(wide.tflite)


@pytest.mark.slow
def test_sixteen_bits_everywhere_by_rule_are_as_near_as_the_preset():
    model, inputs = build("branch_add"), make_inputs(separated("branch_add"), 8, (-1, 1), seed=9)
    wanted = outputs_of(model, inputs)
    error = {}
    for name, options, rules in (
        ("int8", Quantize(edge_dtype="float32"), ()),
        ("rule", Quantize(edge_dtype="float32"), (Rule("*", activation_bits=16),)),
        ("preset", Quantize(activation_bits=16, edge_dtype="float32"), ()),
    ):
        error[name] = relative_difference(
            [compressed("branch_add", *rules, quantize=options).predict(inputs[0])], wanted
        )
    # The model's input keeps 8 bits. What they alone cost comes on top.
    grid = compressed("branch_add", Rule("*", activation_bits=16)).built.grids["image"]
    rounding = relative_difference(outputs_of(model, [grid(inputs[0])]), wanted)
    assert error["rule"] < 1.2 * (error["preset"] + rounding) and error["rule"] < error["int8"] / 1.5, (error, rounding)


@pytest.mark.slow
def test_eight_bits_by_rule_in_a_file_of_sixteen():
    result = compressed("plain", Rule("b_conv", activation_bits=8), quantize=Quantize(activation_bits=16))
    bits = {row.layer: row.activation_bits for row in result.report.layers}
    assert bits["b_conv"] == 8 and bits["a_conv"] == 16
    assert {File.parse(result.tflite).dtype(index) for index in File.parse(result.tflite).outputs} == {"int16"}


@pytest.mark.slow
def test_an_output_of_sixteen_bits_behind_an_edge_of_eight_is_told():
    result = compressed("plain", Rule("head", activation_bits=16))
    assert "gives it out as int8" in result.report.notes["head"]
    softmax = compressed("softmax", Rule("*", activation_bits=16))
    plain, wide = (File.parse(result.tflite) for result in (compressed("softmax"), softmax))
    for a, b in zip(plain.outputs, wide.outputs, strict=True):
        assert plain.quantizer(a) == wide.quantizer(b), "the edge is what it was: 1/256 for a softmax"
    floats = compressed("plain", Rule("head", activation_bits=16), quantize=Quantize(edge_dtype="float32"))
    assert "head" not in floats.report.notes


@pytest.mark.slow
def test_a_tensor_of_sixteen_bits_among_eight_has_room():
    plain, wide = compressed("plain"), compressed("plain", Rule("b_conv", activation_bits=16))
    (before,), (after,) = ([row for row in c.report.layers if row.layer == "b_conv"] for c in (plain, wide))
    assert after.high >= 1.9 * max(before.high, -before.low) and after.sqnr_db > before.sqnr_db


def test_every_value_of_eight_bits_is_one_of_sixteen():
    for zero_point in (-128, -3, 127):
        grid = Quantizer(0.037, zero_point, 8)
        values = grid.dequantize(np.arange(-128, 128))
        np.testing.assert_array_equal(widen_grid(grid)(values), values)


@pytest.mark.slow
def test_a_layer_kept_in_float_keeps_its_weights_and_is_reported():
    model = build("plain")
    result = compressed(model, Rule("b_conv", keep_float=True))
    assert not result.report.integer_only
    assert [reason for key, reason in result.report.kept.items() if "CONV_2D" in key] == [
        "kept in float by rule 'b_conv'"
    ]
    file = File.parse(result.tflite)
    floats = [op for op in file.operators if file.dtype(op.outputs[0]) == "float32"]
    assert sorted(file.operator_name(op) for op in floats) == ["CONV_2D", "DEQUANTIZE"]
    (kernel,) = [file.constant(op.inputs[1]) for op in floats if file.operator_name(op) == "CONV_2D"]
    folded = result.built.graph.layers["b_conv"].weight("kernel")
    np.testing.assert_array_equal(np.moveaxis(kernel, 0, -1), folded)
    assert len(np.unique(folded)) == folded.size, "on a grid many would be equal"


def test_what_is_read_in_float_and_as_integers_has_one_value_for_both():
    x = image()
    first = L.Conv2D(4, 3, padding="same", name="first")(x)
    model = randomized(keras.Model(x, L.Add(name="sum")([first, L.Conv2D(4, 1, name="second")(first)])))
    result = compressed(model, Rule("Conv2D", keep_float=True))
    file = File.parse(result.tflite)
    writers = {index: file.operator_name(op) for op in file.operators for index in op.outputs}
    (second,) = [op for op in file.operators if file.name(op.outputs[0]) == "second"]
    assert file.dtype(second.outputs[0]) == "float32" and writers[second.inputs[0]] == "DEQUANTIZE"
    assert {row.name for row in result.report.layers} == {"image", "first", "second", "sum"}


@pytest.mark.slow
def test_a_whole_model_in_float_computes_what_it_did():
    model, inputs = build("branch_add"), make_inputs(separated("branch_add"), 8, (-1, 1), seed=9)
    quantize = Quantize(edge_dtype="float32")
    found = compressed("branch_add", Rule("*", keep_float=True), quantize=quantize).predict(inputs[0])
    # Only the input is still rounded.
    integer = relative_difference(
        [compressed("branch_add", quantize=quantize).predict(inputs[0])], outputs_of(model, inputs)
    )
    assert relative_difference([found], outputs_of(model, inputs)) < integer / 2


@pytest.mark.slow
def test_the_simulating_model_knows_the_rules():
    rules = (Rule("Add", activation_bits=16), Rule("head", keep_float=True))
    result, inputs = compressed("branch_add", *rules), make_inputs(separated("branch_add"), 8, (-1, 1), seed=9)
    (simulated,) = outputs_of(result.model, inputs)
    file = File.parse(result.tflite)
    assert np.abs(result.predict(inputs[0]) - simulated).max() <= 4 * file.quantizer(file.outputs[0]).scale


@pytest.mark.slow
def test_widths_that_no_file_holds_take_rules_too():
    result = compressed("branch_add", Rule("Add", activation_bits=16), quantize=Quantize(activation_bits=6))
    assert {row.activation_bits for row in result.report.layers} == {6, 16}
    floats = compressed("plain", Rule("*conv", keep_float=True), quantize=Quantize(activation_bits=6))
    # Between layers in float nothing is rounded; what others read, or the model gives out, is.
    assert {row.name for row in floats.report.layers} == {"image", "b_relu", "pool", "head"}
    everything = compressed("plain", Rule("*", keep_float=True), quantize=Quantize(activation_bits=6))
    assert {row.name for row in everything.report.layers} == {"image", "head"}


@pytest.mark.slow
def test_what_has_no_kernel_of_that_width_is_named():
    with pytest.raises(ExportError, match=r"a rule gives 'prelu\w*' 16 bits, but TFLite's PRELU has no 16-bit kernel"):
        compressed("prelu", Rule("PReLU", activation_bits=16))


def _dtypes(content: bytes) -> set[str]:
    file = File.parse(content)
    return {file.dtype(index) for index in range(len(file.tensors))}


# Zeros ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["obs", "energy", "global_unfolded", "uniform", "erk", "str"])
@pytest.mark.slow
def test_a_fixed_sparsity_is_met_and_the_others_share_the_rest(method):
    rules = (Rule("a_conv", sparsity=0), Rule("b_conv", sparsity=0.75))
    result = compressed("branch_add", *rules, prune=Prune(sparsity=0.5, method=method, images=8))
    parts = result.report.pruning.layers
    sizes = {row.layer: row.weights for row in result.report.layers if row.layer}
    assert parts["a_conv"] == 0 and parts["b_conv"] == pytest.approx(0.75, abs=1 / sizes["b_conv"])
    total = sum(sizes[key] for key in parts)
    assert sum(parts[key] * sizes[key] for key in parts) == pytest.approx(round(0.5 * total), abs=1e-6)
    assert "a rule keeps it dense" in result.report.kept["a_conv"]


@pytest.mark.slow
def test_a_rule_reaches_depthwise_kernels_too():
    plain = compressed("depthwise", prune=UNIFORM)
    found = compressed("depthwise", Rule("DepthwiseConv2D", sparsity=0.5), prune=UNIFORM)
    more = found.report.pruning.layers.keys() - plain.report.pruning.layers.keys()
    assert more and all(found.report.pruning.layers[key] == pytest.approx(0.5, abs=0.05) for key in more)


def test_a_budget_that_rules_leave_no_room_for_is_an_error():
    with pytest.raises(
        ValueError, match=r"sparsity is 0.5 in all, but rules fix that of 1 layers .* from 0.000 to below 0.4"
    ):
        share_rest({"a": 60, "b": 40}, 0.5, {"a": 0.0})
    assert share_rest({"a": 60, "b": 40}, 0.3, {"a": 0.0}) == ({"a": 60}, 0.75)
    assert share_rest({"a": 60, "b": 40}, 0.9, {"a": 0.5, "b": 0.0}) == ({"a": 30, "b": 40}, 0.0), (
        "nobody is left to share"
    )
