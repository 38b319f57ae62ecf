"""The only layer that a compressed Keras model adds. It rounds float values to a TFLite integer grid."""

import keras
import numpy as np
from keras import ops

from tfdatafree.numerics.affine import Quantizer


@keras.saving.register_keras_serializable("tfdatafree")
class Quantization(keras.layers.Layer):
    """y = scale * (clip(round(x / scale) + zero_point, qmin, qmax) - zero_point), one scale for the whole tensor.

    Output shape is the input's. Import tfdatafree before loading a saved model that holds this layer.
    """

    def __init__(self, scale: float, zero_point: int, bits: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.quantizer = Quantizer(scale, zero_point, bits)

    def call(self, x):
        q = self.quantizer
        x = ops.cast(x, "float32")  # an input may be 8-bit
        scale = np.float32(q.scale)
        low, high = float(q.qmin - q.zero_point), float(q.qmax - q.zero_point)
        return ops.clip(ops.round(x / scale), low, high) * scale

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        q = self.quantizer
        return {**super().get_config(), "scale": q.scale, "zero_point": q.zero_point, "bits": q.bits}
