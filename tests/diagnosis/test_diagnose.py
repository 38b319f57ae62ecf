"""diagnose: which quantizers it finds, and whether following its advice helps."""

import dataclasses
import functools
import json
import re

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import build, image, randomized, separated, state

from tfdatafree import Generate, Prune, Quantize, Recipe, Rule, compress, diagnose
from tfdatafree.cli import main
from tfdatafree.diagnosis.channels import channel_findings
from tfdatafree.diagnosis.diagnosis import Diagnosis, Suspect, advise
from tfdatafree.inputs.make import make_inputs
from tfdatafree.model.graph import Graph
from tfdatafree.numerics.metrics import relative_error
from tfdatafree.recipe.file import read_recipe

QUICK = Generate(images=4, samples=200, effort="fast")


def recipe(*rules: Rule, **options) -> Recipe:
    return Recipe(quantize=Quantize(**options), generate=QUICK, rules=rules)


@functools.cache
def diagnosed(name: str, *rules: Rule) -> Diagnosis:
    return diagnose(build(name), recipe(*rules), input_range=(-1, 1), verbose=0)


# Ranking and advice -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_worst_comes_first_and_parts_add_up():
    found = diagnosed("branch_add").suspects
    errors = [suspect.error for suspect in found]
    assert errors == sorted(errors, reverse=True) and len(found) > 8
    assert sum(suspect.part for suspect in found) == pytest.approx(1)


def hurt() -> keras.Model:
    """A network with a tensor of which one channel is a thousand times as wide as the others; all channels matter."""
    x = image()
    y = L.Conv2D(8, 3, padding="same", name="first")(x)
    y = L.Conv2D(8, 1, name="wide")(y)
    y = L.Conv2D(8, 1, name="back")(y)
    model = randomized(keras.Model(x, L.Dense(5, name="head")(L.GlobalAveragePooling2D(name="pool")(y))))
    scale = np.array([1000.0] + [1.0] * 7, np.float32)
    wide, back = model.get_layer("wide"), model.get_layer("back")
    wide.set_weights([w * scale for w in wide.get_weights()])
    back.set_weights([back.get_weights()[0] / scale[:, None], back.get_weights()[1]])
    return model


@pytest.mark.slow
def test_the_damaged_tensor_is_found_and_following_the_advice_helps():
    model = hurt()

    def unmended(*rules: Rule) -> Recipe:  # leveled activations would help here, too
        return dataclasses.replace(recipe(*rules, edge_dtype="float32"), level_activations=False)

    found = diagnose(model, unmended(), input_range=(-1, 1), verbose=0)
    worst = found.suspects[0]
    assert (worst.kind, worst.name, worst.layer) == ("values", "wide", "wide") and worst.part > 0.5
    assert found.rules() == (Rule("wide", activation_bits=16),)
    assert "Rule('wide', activation_bits=16)" in worst.advice and "times as wide as the usual one" in worst.advice
    x = make_inputs(Graph.from_keras(model), 16, (-1, 1), seed=11)[0]
    error = {}
    for rules in ((), found.rules()):
        result = compress(model, unmended(*rules), input_range=(-1, 1), verbose=0)
        error[rules] = relative_error(result.predict(x), model.predict(x, verbose=0))
    assert error[found.rules()] < 0.7 * error[()]
    again = diagnose(model, unmended(*found.rules()), input_range=(-1, 1), verbose=0)
    assert again.error < 0.7 * found.error and next(s.bits for s in again.suspects if s.name == "wide") == 16


@pytest.mark.zoo
@pytest.mark.slow
def test_the_first_advice_helps_a_trained_network(zoo):
    path = zoo / "resnet20_cifar10.keras"
    few = Generate(images=8, samples=500)
    found = diagnose(path, Recipe(generate=few), verbose=0)
    again = diagnose(path, Recipe(generate=few, rules=found.rules()), verbose=0)
    assert again.error < 0.95 * found.error
    # The part of the sum of squares predicts about how much the error falls.
    assert again.error**2 == pytest.approx((1 - found.suspects[0].part) * found.error**2, rel=0.25)


def suspect(**values) -> Suspect:
    given = {"kind": "values", "name": "t", "layer": "conv", "operation": "Conv2D", "bits": 8, "error": 0.1,
             "output_discrepancy": 0.1, "agreement": 1.0, "part": 0.5}  # fmt: skip
    return Suspect(**{**given, **values})


@pytest.mark.parametrize(
    "values, facts, remedy, words",
    [
        ({}, {}, {"activation_bits": 16}, r"raise activation bits here: Rule\('conv', activation_bits=16\)$"),
        ({}, {"has_16_bits": False}, {}, "no 16-bit kernels"),
        ({}, {"is_output": True}, {}, r"edge_dtype='float32'\) and Rule\('conv', activation_bits=16\)"),
        ({"kind": "range"}, {"clipped": 0.02}, {}, "clips 2 % of the values; generated inputs often reach further"),
        (
            {"kind": "range"},
            {"clipped": 0.02, "real_inputs": True},
            {"activation_bits": 16},
            "clips 2 % .* raise activation bits",
        ),
        ({}, {"spread": 30.0}, {"activation_bits": 16}, "30 times as wide"),
        ({}, {"cap": "its cap at 6 is reached"}, {"activation_bits": 16}, "its cap at 6 is reached"),
        ({"bits": 16}, {}, {}, "^$"),
        ({"layer": None}, {}, {}, "input itself has 8 bits"),
        ({"part": 0.001}, {}, {}, "^$"),
        ({"kind": "weights", "bits": 4}, {}, {"weight_bits": 8}, r"Rule\('conv', weight_bits=8\)"),
        ({"kind": "weights"}, {}, {"keep_float": True}, r"^keep it in float: Rule\('conv', keep_float=True\)$"),
        ({"kind": "weights"}, {"per_channel": False}, {"keep_float": True}, "per_channel=True"),
    ],
)
def test_advice_fits_the_case(values, facts, remedy, words):
    found = advise(suspect(**values), **facts)
    assert found.remedy == remedy and re.search(words, found.advice), found.advice


def test_rules_of_one_layer_are_one_rule_and_keep_what_the_recipe_gave_it():
    values = dict(model="m", recipe="r", error=0.1, output_discrepancy=0.1, agreement=None, dead={}, caps={}, images=8,
                  inputs="generated inputs", seconds=1.0)  # fmt: skip
    helped = [suspect(remedy={"activation_bits": 16}), suspect(layer=None), suspect(layer="a[1]", remedy={"weight_bits": 8}),
              suspect(kind="weights", remedy={"weight_bits": 8})]  # fmt: skip
    found = Diagnosis(**values, suspects=tuple(helped), given={"conv": Rule("c*", sparsity=0.5)})
    assert found.rules() == (Rule("conv", activation_bits=16, sparsity=0.5),)
    assert found.rules(3) == (
        Rule("conv", activation_bits=16, weight_bits=8, sparsity=0.5),
        Rule("a[[]1]", weight_bits=8),
    )
    assert found.rules(2)[1].matches(["a[1]"])
    floats = Diagnosis(**values, suspects=(*helped, suspect(remedy={"keep_float": True})))
    assert floats.rules(4)[0] == Rule("conv", keep_float=True)
    with pytest.raises(ValueError, match="count is 0; give the number of suspects"):
        found.rules(0)


@pytest.mark.slow
def test_rules_of_the_recipe_are_in_what_is_measured():
    plain, wide = diagnosed("branch_add"), diagnosed("branch_add", Rule("Add", activation_bits=16))
    bits = {s.name: s.bits for s in wide.suspects if s.kind == "values"}
    added = [s.name for s in plain.suspects if s.kind == "values" and s.operation.startswith("Add")]
    assert added and all(bits[name] == 16 for name in added)
    before, after = ({s.name: s.error for s in d.suspects if s.kind == "values"} for d in (plain, wide))
    assert all(after[name] < before[name] for name in added)


@pytest.mark.slow
def test_pruning_counts_with_the_weights():
    found = diagnose(
        build("plain"), Recipe(generate=QUICK, prune=Prune(sparsity=0.7, method="uniform", images=8)),
        input_range=(-1, 1), verbose=0,
    )  # fmt: skip
    assert found.suspects[0].kind == "weights"
    assert found.suspects[0].error > 5 * max(s.error for s in diagnosed("plain").suspects if s.kind == "weights")


# Channels ---------------------------------------------------------------------------------------------------------------


def test_dead_channels_and_caps_are_told_from_batchnorm():
    x = image()
    y = L.BatchNormalization(name="bn")(L.Conv2D(4, 3, name="conv")(x))
    model = keras.Model(x, L.Conv2D(2, 1, name="head")(L.ReLU(6, name="relu")(y)))
    bn = model.get_layer("bn")
    bn.set_weights([np.array([1, 1, 0, 1]), np.array([0, -20, 1, 6]), np.zeros(4), np.ones(4)])
    found = channel_findings(Graph.from_keras(model))
    assert found.dead["bn"].startswith("1 of 4 channels are constant")
    assert found.dead["relu"] == "1 of 4 channels are practically never above 0"
    assert "cap at 6 is reached with probability 13 % (50 % in the channel" in found.caps["relu"]
    bn.set_weights([np.ones(4), np.zeros(4), np.zeros(4), np.ones(4)])
    assert channel_findings(Graph.from_keras(model)).dead == {}
    assert channel_findings(Graph.from_keras(model)).caps["relu"] == "its cap at 6 is practically never reached"
    assert channel_findings(separated("no_bias")).dead == {}


# The result -------------------------------------------------------------------------------------------------------------


def test_it_prints_shows_itself_and_is_plain_values():
    found = diagnosed("branch_add")
    page, shown = str(found), found._repr_html_()
    for row in found.suspects[:5]:
        assert re.search(rf"{row.kind} +{row.name} .* {100 * row.part:.1f} %", page) and row.name in shown
    assert all(row.advice in page for row in found.suspects)
    values = json.loads(json.dumps(found.to_dict()))
    assert [row["error"] for row in values["suspects"]] == [row.error for row in found.suspects]
    hostile = Diagnosis(**{**{f: getattr(found, f) for f in found.__dataclass_fields__}, "model": "<script>"})
    assert "<script>" not in hostile._repr_html_()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_ranking_and_the_model_is_not_changed():
    model = build("plain")
    before = state(model)
    again = diagnose(model, recipe(), input_range=(-1, 1), verbose=0)
    assert again.suspects == diagnosed("plain").suspects and state(model) == before
    other = diagnose(model, recipe(), input_range=(-1, 1), seed=1, verbose=0)
    assert other.suspects != again.suspects


def test_real_inputs_are_used_where_there_are_some():
    x = np.random.default_rng(0).uniform(-1, 1, (12, 8, 8, 3)).astype(np.float32)
    found = diagnose(build("plain"), recipe(), representative_data=x, images=5, verbose=0)
    assert found.images == 5 and "of the given inputs" in str(found)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"recipe": "float16"}, "recipe 'float16' leaves everything in float"),
        ({"recipe": Recipe(prune=Prune(sparsity=0.5, method="channel"))}, "makes another network"),
        ({"images": 0}, "images is 0; measure on at least 1"),
        ({"recipe": Recipe(rules=(Rule("nobody", weight_bits=4),))}, "no layer of the model"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        diagnose(build("plain"), **options, verbose=0)


@pytest.mark.slow
def test_the_command_line_prints_it_and_saves_the_better_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hurt().save("hurt.keras")
    arguments = [
        "diagnose",
        "hurt.keras",
        "--input_range=-1,1",
        "--images=2",
        "--rules=2",
        "--save_recipe=better.json",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "one quantizer at a time" in printed and "wrote better.json" in printed
    better = read_recipe(tmp_path / "better.json")
    assert 1 <= len(better.rules) <= 2 and better.name == "int8, diagnosed"
    assert main(["compress", "hurt.keras", "-o", "a.tflite", "--recipe=better.json", "--quiet"]) == 0
    assert main(arguments) == 1 and "exists" in capsys.readouterr().err
