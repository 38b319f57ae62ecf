import dataclasses
import json

import pytest
from documents import entries

from tfdatafree.recipe.prune import Prune
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import PRESETS, Generate, Recipe, get_recipe


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight_bits": 3}, "weight_bits is 3; choose one of 4, 5, 6, 7, 8"),
        ({"activation_bits": 3}, "activation_bits is 3; choose one of 4, 5, 6, 7, 8, 16"),
        (
            {"ranges": "minmax"},
            "ranges is 'minmax'; choose one of 'extreme_value', 'min_max', 'search', 'percentile', 'k_sigma'",
        ),
        ({"range_source": "noise"}, "range_source is 'noise'; choose one of 'images', 'gaussian'"),
        ({"per_channel": "no"}, "per_channel is 'no'; choose one of None, True, False"),
        ({"bias_correction": "yes"}, "bias_correction is 'yes'"),
        ({"edge_dtype": "int16"}, "edge_dtype is 'int16'; choose one of 'int8', 'uint8', 'float32'"),
        ({"edge_dtype": "uint8", "activation_bits": 16}, "edge_dtype is 'uint8'; choose one of 'int16', 'float32'"),
    ],
)
def test_a_wrong_option_says_what_came_and_what_was_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        Quantize(**options)


@pytest.mark.parametrize(
    "options, for_papers",
    [
        (Quantize, ["activation_correction", "symmetric_weights", "equalized_rounding"]),
        (Prune, ["activations", "strength"]),
    ],
)
def test_options_for_papers_say_so_and_stand_last(options, for_papers):
    told = {name: text.split(":", 1)[1].strip() for name, text in entries(options.__doc__, "Attributes").items()}
    marked = [name for name, text in told.items() if text.startswith("For reproducing papers only.")]
    partly = [name for name, text in told.items() if "For reproducing papers only:" in text]
    assert marked == for_papers and partly and not set(marked) & set(partly)
    users = list(told).index(marked[0])
    assert not [name for name in list(told)[users:] if name not in (*marked, *partly)], "an option for users among them"


@pytest.mark.parametrize(
    "options", [{"activation_bits": 5}, {"symmetric_weights": False}, {"equalized_rounding": True}]
)
def test_what_no_file_can_hold_is_for_papers_only(options):
    (name,) = options
    assert Quantize(**options).simulated and not Quantize().simulated
    text = entries(Quantize.__doc__, "Attributes")[name]
    assert "For reproducing papers only" in text and "imulated" in text


def test_a_misspelt_option_is_an_error_now():
    with pytest.raises(TypeError, match="weigth_bits"):
        Quantize(weigth_bits=4)
    with pytest.raises(TypeError):
        Quantize(8)


@pytest.mark.parametrize("options", [{"images": 0}, {"images": 2.5}, {"samples": -1}, {"samples": "many"}])
def test_numbers_of_inputs_are_whole_and_positive(options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} is {value!r}; give a whole number of at least 1"):
        Generate(**options)


def test_float16_is_for_float_files():
    with pytest.raises(ValueError, match="set quantize=None"):
        Recipe(float16=True)
    assert Recipe(quantize=None, float16=True).float16


def test_edges_have_the_type_of_the_activations_unless_told():
    assert (Quantize().edge_dtype, Quantize(activation_bits=16).edge_dtype) == ("int8", "int16")
    assert Quantize(edge_dtype="float32").edge_dtype == "float32"


def test_presets_are_found_by_name_and_recipes_are_themselves():
    for name, recipe in PRESETS.items():
        assert get_recipe(name) is recipe and recipe.name == name
    mine = Recipe(name="mine")
    assert get_recipe(mine) is mine
    assert PRESETS["int8"].quantize == Quantize() and PRESETS["int8_per_tensor"].quantize.per_channel is False
    assert PRESETS["int16x8"].quantize.activation_bits == 16 and PRESETS["float16"].quantize is None


@pytest.mark.parametrize(
    "given, nearest",
    [("int8x", "int8"), ("int8_per_tenser", "int8_per_tensor"), ("flaot16", "float16"), ("INT8", "int8")],
)
def test_an_unknown_preset_names_the_nearest(given, nearest):
    with pytest.raises(ValueError, match=f"recipe is '{given}'; did you mean '{nearest}'\\? choose one of int8, "):
        get_recipe(given)


@pytest.mark.parametrize("given", ["zzz", None, 8])
def test_what_resembles_no_preset_gets_the_list(given):
    with pytest.raises(ValueError, match=rf"recipe is {given!r}; choose one of int8, .* or pass a Recipe"):
        get_recipe(given)


def test_recipes_are_frozen_and_become_plain_values():
    for recipe in PRESETS.values():
        assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.name = "other"


def test_a_search_for_weight_ranges_needs_what_layers_see():
    with pytest.raises(ValueError, match=r"weight_ranges='search' .* rounding='nearest' .* choose rounding='feedback'"):
        Quantize(weight_ranges="search", rounding="nearest")
