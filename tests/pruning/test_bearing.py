"""What a network bears: the largest sparsity that keeps its results, and what is said of one that is beyond it."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import QUICK, build, folded, network_of, separated

import tfdatafree
from tfdatafree import Prune, Recipe, Rule
from tfdatafree.model.network import Network, Pruning
from tfdatafree.numerics.fidelity import Fidelity
from tfdatafree.pruning.bearing import find_bearable, prune_as_asked, verdict

RANGE = (-1.0, 1.0)


class Attempts:
    """Networks that are nothing but their sparsity, and how often one was made."""

    def __init__(self, least: float = 0.0, most: float = 1.0):
        self.limits = (least, most)
        self.base = network_of(separated("plain"), folded("plain"))
        self.made: list[tuple[float, bool]] = []

    def __call__(self, sparsity, *, roughly=False) -> Network:
        self.made.append((sparsity, roughly))
        record = Pruning(method="uniform", sparsity=sparsity, layers={}, asked=sparsity)
        return dataclasses.replace(self.base, current=(sparsity, roughly), pruning=record)


class Judge:
    """Keeps what is at most `limit`; roughly made networks, what is at most `rough_limit`. Nothing is good beyond twice that."""

    def __init__(self, limit: float, rough_limit: float | None = None):
        self.limits = {False: limit, True: limit if rough_limit is None else rough_limit}

    def fidelity(self, made) -> Fidelity:
        sparsity, roughly = made
        limit = self.limits[roughly]
        share = 1.0 if sparsity <= limit else 0.9 if sparsity <= 2 * limit else 0.5
        return Fidelity(agreement=share, centred=False, sqnr_db=0.0)


@settings(deadline=None)
@given(st.integers(0, 49), st.integers(0, 49), st.integers(-2, 2))
def test_the_largest_sparsity_that_is_kept_is_found_in_few_attempts(borne, least, error):
    attempts = Attempts(least=least / 50)
    found = find_bearable(attempts, Judge(borne / 50, max(borne + error, 0) / 50), "inputs").pruning
    if borne < least:
        assert found.bears is None and found.asked == least / 50
        return
    # What is made roughly may keep a bit more or less than what is made from scratch.
    assert found.asked == found.bears == max(borne + min(error, 0), least) / 50
    assert sum(roughly for _, roughly in attempts.made) <= 6
    assert sum(not roughly for _, roughly in attempts.made) <= 1 + max(error, 0)


def test_only_a_network_beyond_what_it_bears_is_searched_for():
    for asked, told in ((0.2, False), (0.3, False), (0.5, True)):
        attempts = Attempts()
        pruning = prune_as_asked(attempts, asked, Judge(0.2), "8 inputs", search=True).pruning
        assert pruning.asked == asked and (pruning.bears == 0.2) == told == (len(attempts.made) > 1)
        assert bool(verdict("net", pruning)) == told
    assert verdict("net", pruning).startswith("pruned by 50 %, 'net' decides as before on 50 % of 8 inputs")
    assert "would bear about 20 % (keeps 95 % of its decisions)" in verdict("net", pruning)
    assert prune_as_asked(Attempts(), 0.5, Judge(0.2), "inputs", search=False).pruning.bears is None


def test_a_network_that_bears_nothing_is_said_to():
    found = find_bearable(Attempts(), Judge(0.0), "8 inputs").pruning
    assert found.asked == found.bears == 0 and "'net' bears no pruning" in verdict("net", found)
    broken = prune_as_asked(Attempts(), 0.5, Judge(0.0), "8 inputs", search=True).pruning
    assert "would bear not even 2 %" in verdict("net", broken)


def compressed(name: str, sparsity, **options):
    prune = Prune(sparsity=sparsity, images=8, **options)
    rules = (Rule("head", sparsity=0.1),) if options["method"] == "uniform" else ()
    recipe = Recipe(quantize=None, prune=prune, generate=QUICK, rules=rules)
    return tfdatafree.compress(build(name), recipe, input_range=RANGE, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uniform", "channel"])
def test_what_a_network_would_bear_it_bears(method, caplog):
    most = 0.6 if method == "channel" else 0.95
    report = compressed("branch_add", most, method=method).report
    assert report.pruning.fidelity.fails
    assert str(report).startswith("WARNING: pruned by ") and "would bear about" in report.warnings[0]
    assert len(report.warnings) == 1 and caplog.text.count("would bear") == 1
    found = compressed("branch_add", "auto", method=method)
    assert found.report.pruning.bears == report.pruning.bears == found.report.pruning.sparsity > 0
    assert found.report.pruning.fidelity.keeps and not found.report.warnings
    # The same without a search, and clearly more is not kept.
    asked = found.replay.prune.sparsity
    assert found.recipe.prune.sparsity == "auto" and isinstance(asked, float)
    assert compressed("branch_add", asked, method=method).tflite == found.tflite
    assert not compressed("branch_add", asked + 0.2, method=method).report.pruning.fidelity.keeps


@pytest.mark.slow
def test_the_user_s_inputs_judge_where_they_are_given():
    recipe = Recipe(quantize=None, prune=Prune(sparsity=0.5, method="uniform", images=8), generate=QUICK)
    data = tfdatafree.generate_images(build("plain"), 6, input_range=RANGE, steps=1, verbose=0)
    report = tfdatafree.compress(
        build("plain"), recipe, input_range=RANGE, representative_data=data.images, verbose=0
    ).report
    assert report.pruning.compared_on == "6 given inputs" and "of 6 given inputs" in str(report)
