"""The points of a sweep: all combinations, and a key that changes with whatever changes the bytes."""

from pathlib import Path

import pytest

from tfdatafree import PRESETS, Prune, Recipe, Search
from tfdatafree.sweeping import points as module
from tfdatafree.sweeping.points import Options, Source, digest_of, make_points, name_paths


def points_of(recipes=("int8",), source="a", **options):
    sweep = {"sparsity": (), "size": (), "targets": ("generic",), "options": Options()} | options
    return make_points([Source(name="net", file="net.keras", digest=source)], recipes, **sweep)


def test_every_combination_is_a_point():
    made = points_of(("int8", "int16x8"), sparsity=(0, 0.3), size=(1, 0.7, 5000), targets=("generic", "ethos-u55"))
    assert len(made) == len({point.key for point in made}) == len({point.folder for point in made}) == 24
    recipe = {point.title: point.recipe for point in made}
    assert recipe["net, int8, sparsity 0, size 1"] == PRESETS["int8"]
    pruned = recipe["net, int16x8, sparsity 0.3, size 5000, ethos-u55"]
    assert (pruned.prune, pruned.policy) == (Prune(sparsity=0.3), Search(size=5000))
    assert pruned.quantize == PRESETS["int16x8"].quantize


def test_a_recipe_keeps_its_own_options_of_pruning():
    recipe = Recipe(prune=Prune(sparsity=0.5, method="uniform", images=7))
    first, second = points_of([recipe], sparsity=(0, 0.2))
    assert first.recipe.prune is None and second.recipe.prune == Prune(sparsity=0.2, method="uniform", images=7)
    assert points_of([recipe])[0].recipe == recipe


def test_what_cannot_be_combined_is_a_point_that_says_why():
    fine, impossible = points_of(("float16",), size=(1, 0.7))
    assert fine.trouble == "" and fine.recipe is not None
    assert impossible.recipe is None and "policy searches bits for an integer file" in impossible.trouble


def test_the_key_changes_with_all_that_decides_the_bytes(tmp_path, monkeypatch):
    keys = [point.key for point in points_of()]
    keys += [point.key for point in points_of(source="b")]
    keys += [point.key for point in points_of(["int16x8"])]
    keys += [point.key for point in points_of([Recipe(level_activations=False)])]
    keys += [point.key for point in points_of(targets=("ethos-u55",))]
    for option in ({"seed": 1}, {"input_range": (0.0, 1.0)}, {"input_shape": (8, 8, 3)}, {"unsafe_load": True}):
        keys += [points_of(options=Options(**option))[0].key]
    data = tmp_path / "x.npy"
    for content in (b"1", b"2"):
        data.write_bytes(content)
        keys += [points_of(options=Options(representative_data=str(data)))[0].key]
    monkeypatch.setattr(module, "versions", lambda: {"tfdatafree": "9.9"})
    keys += [point.key for point in points_of()]
    assert len(set(keys)) == len(keys)
    assert points_of(options=Options(pages=False))[0].key == keys[-1], "pages change no bytes"


def test_names_of_models_tell_them_apart():
    assert name_paths([Path("x/a.keras"), Path("x/b.h5")]) == ["a", "b"]
    assert name_paths([Path("x/net.keras"), Path("y/net.keras"), Path("b.h5")]) == ["x/net", "y/net", "b"]
    with pytest.raises(ValueError, match="a.keras' is given twice"):
        name_paths([Path("a.keras"), Path("./a.keras")])


def test_a_folder_is_what_its_files_are(tmp_path):
    (tmp_path / "a").write_text("1")
    before = digest_of(tmp_path)
    assert before == digest_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest_of(tmp_path) != before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"recipes": ("int4",)}, "recipe is 'int4'"),
        ({"recipes": ()}, "recipes is empty"),
        ({"targets": ("ethos",)}, "target is 'ethos'"),
        ({"sparsity": (1.5,)}, "sparsity is 1.5"),
        ({"size": (0,)}, "size is 0"),
    ],
)
def test_wrong_options_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        points_of(**options)
