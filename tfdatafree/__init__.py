"""Compresses trained Keras CNNs without data and writes integer TFLite files.

    compressed = tfdatafree.compress(model)
    compressed.save("model.tflite")
    print(compressed.report)
"""

__version__ = "0.1.0"

from tfdatafree.compress import compress
from tfdatafree.compressed import Compressed
from tfdatafree.errors import ExportError, LoadError, TfdatafreeError, UnsupportedModelError
from tfdatafree.recipe import PRESETS, Generate, Quantize, Recipe
from tfdatafree.visitors.fold_batchnorm import fold_batchnorm

__all__ = [
    "PRESETS",
    "Compressed",
    "ExportError",
    "Generate",
    "LoadError",
    "Quantize",
    "Recipe",
    "TfdatafreeError",
    "UnsupportedModelError",
    "compress",
    "fold_batchnorm",
]
