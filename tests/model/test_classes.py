"""Which outputs have classes, in a model and in a file."""

import keras
import pytest
from keras import layers as L
from tiny_models import image, random_inputs, randomized

from tfdatafree.canonical.separate import separate
from tfdatafree.export.float_model import float_file
from tfdatafree.model.classes import class_tensors
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.classes import class_outputs

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
