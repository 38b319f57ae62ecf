"""Shares of a softmax that the network computes with keep their digits."""

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import randomized

from tfdatafree import compress
from tfdatafree.canonical.form import canonical_form
from tfdatafree.model.graph import Graph
from tfdatafree.model.shares import fine_shares
from tfdatafree.numerics.metrics import sqnr_db


def keypoints(side: int, classes: int = 0) -> keras.Model:
    """The mean position of each channel's heat map; or classes, read off as they are."""
    image = keras.Input((side, side, 3))
    maps = L.Reshape((side * side, 4))(L.Conv2D(4, 3, padding="same")(image))
    if classes:
        outputs = L.Reshape((1, classes))(L.Softmax()(L.Dense(classes)(L.Flatten()(maps))))
    else:
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 2), -1).reshape(1, side * side, 2).astype(np.float32)
        shares = L.Permute((2, 1))(L.Softmax(axis=1)(maps))
        outputs = keras.ops.matmul(shares, grid)
    return randomized(keras.Model(image, outputs))


def found(model: keras.Model) -> int:
    return len(fine_shares(canonical_form(Graph.from_keras(model)).graph))


def test_shares_of_many_positions_are_found_and_neither_those_of_few_nor_classes():
    assert found(keypoints(6)) == 2, "what the softmax reads, and what it writes"
    assert found(keypoints(5)) == 0
    assert found(keypoints(4, classes=100)) == 0


@pytest.mark.slow
def test_positions_are_right_although_each_share_is_small():
    model = keypoints(12)
    x = np.random.default_rng(0).uniform(-1, 1, (8, 12, 12, 3)).astype(np.float32)
    wanted = model.predict(x, verbose=0)
    wide = compress(model, input_range=(-1, 1), verbose=0)
    # This profile has no 16-bit softmax, so it shows what 8 bits give.
    narrow = compress(model, input_range=(-1, 1), target="hexagon", verbose=0)
    gained = sqnr_db(wanted, wide.predict(x)) - sqnr_db(wanted, narrow.predict(x))
    assert gained > 6, "one bit at least"
