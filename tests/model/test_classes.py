"""Which outputs have classes, in a model and in a file."""

import keras
import numpy as np
import pytest
from keras import layers as L
from tiny_models import image, random_inputs, randomized

from tfdatafree.canonical.separate import separate
from tfdatafree.export.float_model import float_file
from tfdatafree.model.classes import class_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.classes import class_outputs, with_scores
from tfdatafree.tflite.runtime import Runner

_VECTORS = {
    "logits": (lambda y: L.Dense(4)(y), True),
    "softmax": (lambda y: L.Dense(4, activation="softmax")(y), True),
    "dropout behind": (lambda y: L.Dropout(0.5)(L.Softmax()(L.Dense(4)(y))), True),
    "one logit": (lambda y: L.Dense(1)(y), False),
    "several decisions": (lambda y: L.Dense(4, activation="sigmoid")(y), False),
    "embedding": (lambda y: L.UnitNormalization()(L.Dense(4)(y)), False),
    "features": (lambda y: y, False),
    "rectified": (lambda y: L.Dense(4, activation="relu")(y), False),
}
_MAPS = {
    "logits averaged": (lambda y: L.GlobalAveragePooling2D()(L.Conv2D(4, 1)(y)), True),
    "logits of one pixel": (lambda y: L.Flatten()(L.Conv2D(4, 8)(y)), True),
    "segmentation": (lambda y: L.Conv2D(4, 1, activation="softmax")(y), True),
    "along the rows": (lambda y: L.Softmax(axis=1)(L.Conv2D(4, 1)(y)), False),
    "picture": (lambda y: L.Conv2D(3, 1)(y), False),
    "mask": (lambda y: L.Conv2D(2, 1, activation="sigmoid")(y), False),
}


@pytest.mark.parametrize("kind", [*_VECTORS, *_MAPS])
def test_classes_are_where_an_argmax_chooses_one(kind):
    x = image()
    y = L.Conv2D(3, 3, padding="same", activation="relu")(x)
    result, wanted = (_VECTORS | _MAPS)[kind]
    model = randomized(keras.Model(x, result(L.GlobalAveragePooling2D()(y) if kind in _VECTORS else y)))
    graph = separate(Graph.from_keras(model)).graph
    assert class_tensors(graph, graph.outputs) == (set(graph.outputs) if wanted else set())
    if kind not in ("embedding", "along the rows"):  # the converter writes these in its own way
        assert class_outputs(float_file(graph, random_inputs(graph, 1))) == [wanted]


def test_where_one_output_is_squashed_the_linear_ones_are_no_logits():
    x = image()
    y = L.Flatten()(x)
    boxes, scores = L.Dense(4, name="boxes")(y), L.Dense(3, activation="softmax", name="scores")(y)
    graph = separate(Graph.from_keras(keras.Model(x, [boxes, scores]))).graph
    assert class_tensors(graph, graph.outputs) == {graph.outputs[1]}


def test_scores_are_what_the_softmax_reads():
    x = image()
    model = randomized(keras.Model(x, L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(x))))
    graph = separate(Graph.from_keras(model)).graph
    inputs = random_inputs(graph, 1)
    content = float_file(graph, inputs)
    (probabilities,), (scores,) = (Runner(file).predict(inputs) for file in (content, with_scores(content)))
    powers = np.exp(scores - scores.max())
    np.testing.assert_allclose(powers / powers.sum(), probabilities, rtol=1e-5)
    assert scores.min() < 0 and with_scores(with_scores(content)) == with_scores(content)
