"""Searched bits for a file of a given size, from the search to the file."""

import dataclasses
import functools
import itertools
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from tiny_models import network_of, randomized, without_metadata

from tfdatafree import Compressed, Generate, Prune, Quantize, Recipe, Rule, Search, compress
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.separate import separate
from tfdatafree.errors import ExportError
from tfdatafree.flow.bit_search import require_size, with_policy
from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.observe import observe
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.quantization.bias import correct_biases
from tfdatafree.quantization.bit_choice import Policy
from tfdatafree.quantization.quantize import round_weights
from tfdatafree.recipe.file import read_recipe
from tfdatafree.recipe.rules import NO_RULES
from tfdatafree.report.page import report_page
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import OPERATORS

pytestmark = pytest.mark.slow

QUICK = Generate(images=4, samples=200, effort="fast")
SIZES = (0.65, 0.72, 1.0)


@functools.cache
def model() -> keras.Model:
    """Layers of very different sizes, all large enough to save bytes with 4 bits."""
    x = image = keras.Input((12, 12, 3), name="image")
    for at, (filters, kernel) in enumerate(((16, 3), (32, 1), (48, 3), (64, 1), (64, 3))):
        x = L.Conv2D(filters, kernel, padding="same", use_bias=False, name=f"conv_{at}")(x)
        x = L.BatchNormalization(name=f"norm_{at}")(x)
        x = L.ReLU(name=f"relu_{at}")(x)
        if at == 2:
            x = L.DepthwiseConv2D(3, strides=2, name="depthwise")(x)
    x = L.GlobalAveragePooling2D(name="pool")(x)
    x = L.Dense(40, name="hidden", activation="relu")(x)
    return randomized(keras.Model(image, L.Dense(10, name="logits", activation="softmax")(x), name="mixed"))


def quick(size: float | None, **options) -> Compressed:
    """Rounded to nearest unless asked for otherwise: how the bits are chosen does not depend on it, and it is quick."""
    policy = None if size is None else Search(size=size, images=4)
    recipe = Recipe(generate=QUICK, policy=policy, quantize=Quantize(rounding="nearest"))
    recipe = dataclasses.replace(recipe, **options)
    return compress(model(), recipe, input_range=(-1, 1), verbose=0)


@functools.cache
def searched(size: float | None) -> Compressed:
    return quick(size)


def errors_of(choices: list[dict[str, int]]) -> list[float]:
    """Relative error of the results for each choice of bits, on images that the search did not use."""
    unfolded = separate(Graph.from_keras(model())).graph
    reference = fold(unfolded).graph
    observed = observe(unfolded, reference, make_inputs(reference, 4, (-1.0, 1.0)), samples=200)
    images = [tf.constant(array) for array in make_inputs(reference, 32, (-1.0, 1.0), seed=77)]
    network = network_of(unfolded, reference)
    rounded = {width: round_weights(network, observed, Quantize(weight_bits=width)).graph for width in (4, 8)}
    found = []
    for bits in choices:
        mixed = reference.copy()
        mixed.layers |= {key: rounded[width].layers[key] for key, width in bits.items()}
        mixed, _ = correct_biases(mixed, reference, observed.means)
        found.append(relative_error(mixed.predict(images)[0], reference.predict(images)[0]))
    return found


def kernel_types(content: bytes) -> dict[str, str]:
    """Layer -> type of its kernel in the file."""
    file = File.parse(content)
    found = {}
    for operator in file.operators:
        rule = OPERATORS.get(file.operator_name(operator))
        if rule is not None and rule.kernel is not None:
            found[file.name(operator.inputs[rule.kernel])] = file.dtype(operator.inputs[rule.kernel])
    return found


@pytest.mark.parametrize("size", SIZES)
def test_the_file_is_never_larger_than_asked_for(size):
    result, policy = searched(size), searched(size).report.policy
    assert policy.int8_bytes == len(searched(None).tflite)
    assert len(result.tflite) <= policy.budget <= size * policy.int8_bytes
    # The rest of the budget would not be enough for another layer with 8 bits.
    halves = [row.weights // 2 for row in result.report.layers if row.weight_bits == 4]
    assert not halves or policy.budget - len(result.tflite) < min(halves) + 16 * len(halves) + 256


@pytest.mark.parametrize("size", SIZES)
def test_the_file_holds_the_bits_that_the_policy_says(size):
    result = searched(size)
    bits = result.report.policy.layers
    assert {row.layer: row.weight_bits for row in result.report.layers if row.layer} == bits
    types = kernel_types(result.tflite)
    assert sorted(types.values()) == sorted("int4" if width == 4 else "int8" for width in bits.values())
    assert result.report.policy.weight_bytes == sum(
        -(-row.weights * bits[row.layer] // 8) for row in result.report.layers if row.layer
    )


def test_more_bytes_never_foretell_more_error():
    errors = [searched(size).report.policy.error for size in SIZES]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 4
    assert set(searched(1.0).report.policy.layers.values()) == {8}
    assert without_metadata(searched(1.0).tflite) == without_metadata(searched(None).tflite)


def test_bytes_and_the_part_that_they_are_give_the_same_file():
    policy = searched(0.72).report.policy
    result = quick(policy.budget)
    assert result.tflite == searched(0.72).tflite and result.report.policy.budget == policy.budget
    assert f"({policy.budget:,} bytes requested)" in str(result.report)


def test_the_choice_does_less_harm_than_others_of_its_size():
    chosen = searched(0.72).report.policy
    weights = {row.layer: row.weights for row in searched(0.72).report.layers if row.layer}
    size = 8 * (chosen.budget - chosen.int8_bytes + chosen.int8_weight_bytes - 256 - 16 * len(weights))
    every = [dict(zip(weights, widths, strict=True)) for widths in itertools.product((4, 8), repeat=len(weights))]
    fitting = [bits for bits in every if sum(count * bits[key] for key, count in weights.items()) <= size]
    foretold = [sum(chosen.damages[key] for key, width in bits.items() if width == 4) for bits in fitting]
    least = sum(chosen.damages[key] for key, width in chosen.layers.items() if width == 4)
    assert len(fitting) > 20 and least <= min(foretold) < max(foretold) / 2
    others = random.Random(0).sample(fitting, 9)
    measured = errors_of([chosen.layers, *others])
    assert measured[0] < np.median(measured[1:])


def test_the_same_seed_gives_the_same_bytes():
    assert quick(0.65).tflite == searched(0.65).tflite


def test_the_choice_can_be_replayed_without_a_search(tmp_path):
    result = searched(0.65)
    replay = result.replay
    assert replay.policy is None and all(rule.settings == {"weight_bits": 4} for rule in replay.rules)
    assert {rule.pattern for rule in replay.rules} == {
        k for k, bits in result.report.policy.layers.items() if bits == 4
    }
    again = compress(model(), replay, input_range=(-1, 1), verbose=0)
    assert again.tflite == result.tflite and again.report.policy is None and again.replay is again.recipe
    assert read_recipe(result.save(tmp_path / "record.json")) == replay


def test_layers_with_rules_keep_what_these_say():
    rules = (
        Rule("logits", weight_bits=8),
        Rule("conv_4", weight_bits=4),
        Rule("hidden", keep_float=True),
        Rule("conv_[12]", activation_bits=16),
    )
    result = quick(0.7, rules=rules)
    policy = result.report.policy
    assert policy.layers["logits"] == 8 and policy.layers["conv_4"] == 4 and "hidden" not in policy.layers
    # The depthwise layer reads 16-bit activations, with which its operator cannot read packed weights.
    assert policy.damages.keys() == {f"conv_{at}" for at in range(4)} and policy.layers["depthwise"] == 8
    assert len(result.tflite) <= policy.budget
    rows = {row.layer: row for row in result.report.layers if row.layer}
    assert {key: row.weight_bits for key, row in rows.items()} == policy.layers
    assert [rows[f"conv_{at}"].activation_bits for at in range(4)] == [8, 16, 16, 8]
    assert not any("changes nothing" in note for note in result.report.notes.values())
    again = compress(model(), result.replay, input_range=(-1, 1), verbose=0)
    assert again.tflite == result.tflite


def test_rules_are_about_the_layers_that_they_name_and_no_others():
    """Names that begin like other names, that equal a type, or that contain characters of patterns."""
    image = keras.Input((8, 8, 4), name="image")
    x = L.SeparableConv2D(8, 3, name="pair")(image)
    x = L.Conv2D(8, 1, name="Dense")(x)
    x = L.Conv2D(8, 1, name="odd[1]")(x)
    x = L.GlobalAveragePooling2D()(x)
    source = Graph.from_keras(randomized(keras.Model(image, L.Dense(4, name="fc")(L.Dense(8, name="fc_1")(x)))))
    graph = separate(source).graph
    keys = [key for key, layer in graph.layers.items() if find_layout(layer)]
    assert len(keys) == 6
    for narrow in ([], keys, *([key] for key in keys)):
        layers = {key: 4 if key in narrow else 8 for key in keys}
        policy = Policy(
            size=0.5, int8_bytes=9, budget=9, int8_weight_bytes=9, weight_bytes=9, layers=layers,
            damages=dict.fromkeys(keys, 0.0), error=0.0,
        )  # fmt: skip
        rules = with_policy(Recipe(policy=Search(size=0.5)), policy, NO_RULES, graph).rules
        found = apply_rules(rules, source, graph).setting("weight_bits")
        assert {key: found.get(key, 8) for key in keys} == layers


def test_a_size_that_cannot_be_reached_is_an_error_that_says_which_can():
    with pytest.raises(
        ValueError, match=r"size is 0.3, but with 4 bits wherever .* choose at least 0\.(\d+)"
    ) as caught:
        quick(0.3)
    least = float(str(caught.value).rsplit(" ", 1)[1].rstrip("."))
    result = quick(least)
    assert set(result.report.policy.layers.values()) == {4} and len(result.tflite) <= result.report.policy.budget
    with pytest.raises(ValueError, match="still takes"):
        quick(least - 0.002)
    with pytest.raises(ValueError, match=r"size is 9 bytes, but with 4 bits .* choose at least [\d,]+ bytes"):
        quick(9)


def test_weights_that_take_a_byte_each_are_searched_for_alike():
    whole, packed = quick(0.65, quantize=Quantize(rounding="nearest", int4=False)), searched(0.65)
    assert whole.report.policy == packed.report.policy
    assert set(kernel_types(whole.tflite).values()) == {"int8"}
    assert len(whole.tflite) > packed.report.policy.budget
    assert "with a byte per weight" in str(whole.report) and "with a byte per weight" not in str(packed.report)


def test_a_device_that_does_not_read_packed_weights_gets_bytes():
    recipe = searched(0.65).recipe
    result = compress(model(), recipe, input_range=(-1, 1), target="ethos-u55", verbose=0)
    assert result.report.policy == searched(0.65).report.policy
    assert set(kernel_types(result.tflite).values()) == {"int8"} and "with a byte per weight" in str(result.report)
    assert result.replay.quantize.int4 is False and searched(0.65).replay.quantize.int4 is True


def test_a_pruned_network_is_searched_as_it_is():
    result = quick(0.65, prune=Prune(sparsity=0.3, method="uniform", images=8))
    assert len(result.tflite) <= result.report.policy.budget
    assert result.report.policy.damages != searched(0.65).report.policy.damages
    assert result.report.zeros > 0.25


def test_the_policy_is_in_the_record(tmp_path):
    record = json.loads(searched(0.65).save(tmp_path / "record.json").read_text())
    policy = searched(0.65).report.policy
    assert record["report"]["policy"]["layers"] == policy.layers
    assert {rule["pattern"] for rule in record["replay"]["rules"]} == {k for k, b in policy.layers.items() if b == 4}
    assert (
        record["recipe"]["policy"] == {"size": 0.65, "images": 4, "harm": "error"}
        and record["replay"]["quantize"]["int4"] is True
    )
    line = next(line for line in str(searched(0.65).report).splitlines() if line.startswith("  bits"))
    count = list(policy.layers.values()).count(4)
    assert f"{count} layers in 4" in searched(0.65).report._repr_html_()
    assert f"{count} layers in 4" in line and f"the {policy.int8_bytes:,} bytes in int8 (65 % requested)" in line


def test_the_page_shows_the_bits():
    pytest.importorskip("bokeh", reason="the report page is drawn with Bokeh: pip install 'bokeh>=3.4'")
    result = searched(0.65)
    page = report_page(result.report, result.recipe, result.evidence)
    narrow = list(result.report.policy.layers.values()).count(4)
    assert f"{narrow} of {len(result.report.policy.layers)} layers have 4" in page and "Search(size=0.65" in page
    assert "layers have 4" not in report_page(searched(None).report, searched(None).recipe, searched(None).evidence)


def test_a_file_above_its_budget_is_an_error():
    policy = searched(0.65).report.policy
    require_size(bytes(policy.budget), policy)
    with pytest.raises(ExportError, match=f"takes {policy.budget + 1:,} bytes, more than the {policy.budget:,}"):
        require_size(bytes(policy.budget + 1), policy)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size is 0; give a part of the int8 file's bytes, above 0 and at most 1"),
        ({"size": 1.5}, "size is 1.5; .* or a whole number of bytes, e.g. 250000"),
        ({"size": float("inf")}, "size is inf"),
        ({"size": True}, "size is True"),
        ({"size": "0.6"}, "size is '0.6'"),
        ({"size": 0.6, "images": 0}, "images is 0; give a whole number of at least 1"),
    ],
)
def test_a_wrong_search_says_what_came_and_what_was_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        Search(**options)


def test_what_a_search_cannot_be_combined_with():
    policy = Search(size=0.7)
    with pytest.raises(ValueError, match="weight_bits is 4, but the policy chooses the bits of every layer"):
        Recipe(policy=policy, quantize=Quantize(weight_bits=4))
    with pytest.raises(ValueError, match="there will be no such file: the recipe does not quantize"):
        Recipe(policy=policy, quantize=None)
    with pytest.raises(
        ValueError, match="there will be no such file: TFLite stores activations in 8 or 16 bits, not 6"
    ):
        Recipe(policy=policy, quantize=Quantize(activation_bits=6))


def test_weights_that_one_of_their_readers_cannot_unpack_take_a_byte_for_all():
    image = keras.Input((8, 8, 4), name="image")
    shared = L.DepthwiseConv2D(3, padding="same", name="shared")
    x = L.Conv2D(4, 1, name="wide")(image)
    y = L.Add()([shared(image), shared(x)])
    tangled = randomized(keras.Model(image, L.Dense(3, name="logits")(L.GlobalAveragePooling2D()(y))))
    options = {"quantize": Quantize(weight_bits=4, int4=True), "generate": QUICK}
    types = []
    for rules in ((), (Rule("wide", activation_bits=16),)):
        result = compress(tangled, Recipe(rules=rules, **options), input_range=(-1, 1), verbose=0)
        types.append([dtype for name, dtype in kernel_types(result.tflite).items() if "shared" in name])
        told = [note for note in result.report.notes.values() if "DEPTHWISE_CONV_2D does not read packed" in note]
        assert len(told) == len(rules)
    assert types == [["int4"], ["int8"]]
