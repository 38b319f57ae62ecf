"""The layer that caps each channel at its own value, for tensors whose channels were scaled one by one."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("tfdatafree")
class ChannelCap(keras.layers.Layer):
    """y = min(x, caps), one cap per channel of the last axis; TFLite's MINIMUM.

    Output shape is the input's. Import tfdatafree before loading a saved model that holds this layer.
    """

    def __init__(self, caps: Sequence[float] | np.ndarray, **kwargs):
        super().__init__(**kwargs)
        self.caps = np.asarray(caps, np.float32)

    def call(self, x):
        return ops.minimum(x, self.caps)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "caps": self.caps.tolist()}
