"""Passes give back what they did; in a row, nothing of it is lost."""

import numpy as np
import pytest
from tiny_models import build, random_inputs, relative_difference

from tfdatafree import Recipe
from tfdatafree.canonical.fold_batchnorm import fold
from tfdatafree.canonical.form import PASSES, canonical_form
from tfdatafree.canonical.pool_slices import pool_slices
from tfdatafree.canonical.separate import separate
from tfdatafree.model.graph import Graph
from tfdatafree.model.rewrite import Rewrite, apply_passes
from tfdatafree.preconditioning.precondition import passes_of, precondition
from tfdatafree.targets.registry import get_target

RANGE = (-1.0, 1.0)


def graph_of(name: str) -> Graph:
    return Graph.from_keras(build(name))


def saying(**told):
    """A pass that changes nothing and says this."""
    return lambda graph: Rewrite(graph=graph, **told)


def test_what_passes_say_adds_up():
    graph = graph_of("plain")
    rewrite = apply_passes(
        graph,
        [
            saying(kept={"a": "first"}, notes={"a": "same"}, scales={"a": np.array([2.0, 3.0])}, inexact=("x=1",)),
            saying(kept={"a": "second", "b": "alone"}, notes={"a": "same"}),
            saying(scales={"a": np.array([5.0, 1.0]), "b": np.ones(1)}, inexact=("y=2",)),
        ],
    )
    assert rewrite.graph is graph
    assert rewrite.kept == {"a": "first; second", "b": "alone"} and rewrite.notes == {"a": "same"}
    assert {name: scale.tolist() for name, scale in rewrite.scales.items()} == {"a": [10.0, 3.0], "b": [1.0]}
    assert rewrite.inexact == ("x=1", "y=2")


def test_each_pass_reads_what_the_one_before_it_wrote():
    seen = []

    def step(graph: Graph) -> Rewrite:
        seen.append(graph)
        return Rewrite(graph=graph.copy())

    rewrite = apply_passes(graph_of("plain"), [step, step, step])
    assert len({id(graph) for graph in (*seen, rewrite.graph)}) == 4
    nothing = apply_passes(seen[0], [])
    assert nothing.graph is seen[0] and not nothing.kept and not nothing.notes


@pytest.mark.parametrize("apply", (*PASSES, pool_slices, fold), ids=lambda apply: apply.__name__)
@pytest.mark.parametrize("name", ["ops_nodes", "poolings", "batchnorm_before_same_conv", "separable"])
def test_a_pass_leaves_the_graph_that_it_is_given_alone(name, apply):
    graph = separate(graph_of(name)).graph if apply is not separate else graph_of(name)
    before, inputs = graph.copy(), random_inputs(graph)
    rewrite = apply(graph)
    assert isinstance(rewrite, Rewrite) and graph == before
    assert relative_difference(rewrite.graph.predict(inputs), graph.predict(inputs)) < 1e-5


@pytest.mark.parametrize("name", ["plain", "ops_nodes", "swish", "separable", "merges", "dropouts_in_a_row"])
def test_the_canonical_form_keeps_the_function_and_stays_as_it_is(name):
    source = graph_of(name)
    form = canonical_form(source).graph
    inputs = random_inputs(source)
    assert relative_difference(form.predict(inputs), source.predict(inputs)) < 1e-5
    assert canonical_form(form).graph.nodes == form.nodes


def form_for(target: str) -> Graph:
    return canonical_form(graph_of("ops_nodes"), pooled_slices=get_target(target).pooled_slices).graph


def test_a_target_decides_about_slices():
    classes = [
        {
            layer.class_name
            for layer in canonical_form(
                graph_of("ops_nodes"), pooled_slices=get_target(name).pooled_slices
            ).graph.layers.values()
        }
        for name in ("generic", "edgetpu")
    ]
    assert "GetItem" in classes[0] and "GetItem" not in classes[1]


RECIPES = {
    "nothing": (Recipe(quantize=None), 0),
    "int8": (Recipe(), 1),
    "all": (Recipe(scale_outliers=True, equalize=True, equalize_caps="limit", absorb_bias=True), 4),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_is_a_list_of_passes(case):
    recipe, count = RECIPES[case]
    passes = passes_of(recipe, RANGE)
    assert len(passes) == count
    unfolded = separate(graph_of("depthwise")).graph
    rewrite, one_by_one = precondition(unfolded, recipe, RANGE), Rewrite(graph=unfolded)
    for apply in passes:
        one_by_one = one_by_one.then(apply)
    assert (rewrite.kept, rewrite.notes) == (one_by_one.kept, one_by_one.notes)
    assert rewrite.inexact == (("scale_outliers=True", "equalize_caps='limit'") if case == "all" else ())


def test_reasons_say_what_was_not_done():
    unfolded = separate(graph_of("softmax")).graph
    kept = precondition(unfolded, RECIPES["all"][0], RANGE).kept
    assert kept and all("not equalized: " in why or "high biases stay: " in why for why in kept.values())
