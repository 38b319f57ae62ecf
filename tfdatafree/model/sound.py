"""Checks of a model's names and weights; each refusal names the layer."""

from typing import Any

import keras
import numpy as np

from tfdatafree.errors import UnsupportedModelError
from tfdatafree.limits import short
from tfdatafree.model.load_keras2 import label


def require_sound_names(model: Any) -> None:
    """Raises UnsupportedModelError for a layer with a name that cannot be shown in a report."""
    for layer in model.layers:
        if not layer.name.isprintable():
            raise UnsupportedModelError(
                f"layer {short(layer.name)} ({type(layer).__name__}) has control characters in its name; rename it."
            )
        if isinstance(layer, keras.Model):
            require_sound_names(layer)


def require_sound_weights(model: keras.Model) -> None:
    """Raises UnsupportedModelError for a layer with weights, or a variance, that nothing can be computed with."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            require_sound_weights(layer)
            continue
        for weight in layer.weights:
            values = keras.ops.convert_to_numpy(weight)
            if keras.backend.is_float_dtype(weight.dtype) and not np.isfinite(values).all():
                raise UnsupportedModelError(
                    f"{label(layer)} has NaN or infinite values in its weight "
                    f"'{weight.name}': use a checkpoint from before training diverged."
                )
        _refuse_negative_variance(layer)


def _refuse_negative_variance(layer: keras.layers.Layer) -> None:
    """Raises UnsupportedModelError for a BatchNormalization that takes the square root of a negative number."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return
    least = float(np.min(keras.ops.convert_to_numpy(layer.moving_variance)))
    if not least + layer.epsilon > 0:
        raise UnsupportedModelError(
            f"{label(layer)} takes the square root of {least + layer.epsilon:g}: its smallest moving variance is {least:g}, its "
            f"epsilon {layer.epsilon:g}. Use a sound checkpoint."
        )
