"""Tests of where agreement is estimated, where it is counted, and where neither is done."""

import numpy as np
import pytest

from tfdatafree.report.expected import chooses, class_scores, count, estimate
from tfdatafree.report.outputs import OutputForm

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=(16, 5))


def predict(inputs):
    return [inputs[0]]


def test_outputs_decide_if_they_choose_one_class_per_input():
    forms = [OutputForm("classes", True), OutputForm("map", True), OutputForm("boxes", False)]
    assert chooses(forms, [np.zeros((2, 5)), np.zeros((2, 4, 4, 5)), np.zeros((2, 5))]) == [True, False, False]


def test_no_inputs_are_made_where_nothing_decides():
    assert estimate([False], predict, predict, lambda: pytest.fail("nobody needs them")) == [None]


def test_few_generated_inputs_tell_nothing_and_few_real_ones_are_counted():
    assert estimate([True], predict, predict, lambda: [SCORES[:4]]) == [None]
    (found,) = count([True], [SCORES[:4]], [SCORES[:4]])
    assert (found.share, found.inputs, found.measured) == (1, 4, True)


def test_probabilities_are_scores_up_to_a_constant():
    probabilities = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
    off = class_scores(probabilities) - SCORES
    np.testing.assert_allclose(off, np.repeat(off[:, :1], 5, axis=1), atol=1e-9)
    assert class_scores(SCORES) is SCORES
