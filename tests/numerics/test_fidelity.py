"""Whether a result still serves as the reference's."""

import functools
import math

import numpy as np
import pytest

from tfdatafree.numerics.fidelity import KEPT_AGREEMENT, KEPT_SQNR_DB, compare
from tfdatafree.numerics.metrics import agreement

of_classes = functools.partial(compare, classes=True)
of_values = functools.partial(compare, classes=False)
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(400, 5))
NOISE = RANDOM.normal(size=LOGITS.shape)


def test_of_varied_decisions_the_share_that_stays_counts():
    found = of_classes(LOGITS, LOGITS + 0.3 * NOISE)
    assert found.agreement == agreement(LOGITS, LOGITS + 0.3 * NOISE) and not found.centred
    assert of_classes(LOGITS, LOGITS + [0, 0, 9, 0, 0]).agreement == agreement(LOGITS, LOGITS + [0, 0, 9, 0, 0]) < 0.5


def test_where_all_inputs_look_alike_an_offset_does_not_hide_what_is_lost():
    offset = np.array([0, 0, 50.0, 0, 0])
    alike, lost = LOGITS + offset, np.tile(offset, (len(LOGITS), 1))
    assert agreement(alike, lost) == 1
    assert of_classes(alike, lost).fails
    assert of_classes(alike, alike + 0.01 * NOISE).keeps
    # It is the share that stays without the offset.
    found = of_classes(alike, alike + 0.3 * NOISE)
    centred = agreement(LOGITS - LOGITS.mean(0), LOGITS + 0.3 * NOISE - (LOGITS + 0.3 * NOISE).mean(0))
    assert found.centred and found.agreement == centred < agreement(alike, alike + 0.3 * NOISE)


def test_a_result_without_classes_is_judged_without_its_mean():
    values = RANDOM.normal(size=(500, 1)) + 1000
    mean = np.full_like(values, values.mean())
    assert of_values(values, mean).sqnr_db == pytest.approx(0, abs=1e-6) and of_values(values, mean).fails
    assert of_values(values, values).keeps and of_values(values, values).sqnr_db == math.inf
    assert of_values(values, values + 10).fails, "a shift of all values is an error of a regression"


def test_the_sqnr_that_keeps_a_result_keeps_as_many_decisions_at_its_mean():
    values, noise = RANDOM.normal(size=(2, 200_000, 1))
    changed = values + 10 ** (-KEPT_SQNR_DB / 20) * noise
    assert np.mean((values > 0) == (changed > 0)) == pytest.approx(KEPT_AGREEMENT, abs=2e-3)
    assert of_values(values, changed).share == pytest.approx(KEPT_AGREEMENT, abs=2e-3)


@pytest.mark.parametrize("frequent", [0.2, 0.6, 0.79, 0.81, 0.95, 1.0])
def test_the_most_frequent_class_alone_never_passes(frequent):
    classes = np.where(np.arange(len(LOGITS)) < frequent * len(LOGITS), 2, np.arange(len(LOGITS)) % 5)
    logits = LOGITS + 20 * np.eye(5)[classes]
    assert of_classes(logits, np.tile(logits.mean(0), (len(logits), 1))).fails


def test_of_inputs_that_are_all_the_same_to_the_network_nothing_is_read():
    same = np.tile(np.float32([0.1, 0.7, 0.3]), (9, 1))
    assert of_classes(same, same * np.float32(1.1)).agreement == 1


@pytest.mark.parametrize("shape", [(1, 5), (1, 1), (3,), (2, 4, 4, 3), (2, 4, 4, 1)])
def test_every_shape_is_judged_and_what_is_not_a_number_fails(shape):
    values = RANDOM.normal(size=shape)
    assert of_values(values, values).keeps
    assert of_values(values + 10.0 * (shape[-1] == 1 or len(shape) == 1), np.full(shape, np.nan)).fails
