"""Compresses trained Keras CNNs without data and writes integer TFLite files.

compressed = tfdatafree.compress(model)
compressed.save("model.tflite")
print(compressed.report)
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from tfdatafree.errors import ExportError, LoadError, TfdatafreeError, UnsupportedModelError
from tfdatafree.recipe import PRESETS, Generate, Quantize, Recipe

if TYPE_CHECKING:
    from tfdatafree.compress import compress
    from tfdatafree.compressed import Compressed
    from tfdatafree.visitors.fold_batchnorm import fold_batchnorm

__version__ = "0.1.0"

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

# What needs TensorFlow is imported when it is first used: the command line's help should not wait for it.
_HOMES = {
    "Compressed": "tfdatafree.compressed",
    "compress": "tfdatafree.compress",
    "fold_batchnorm": "tfdatafree.visitors.fold_batchnorm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfdatafree' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """This package, in which `compress` stays the function when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
