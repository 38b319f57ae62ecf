"""Compresses trained Keras CNNs without data and writes integer TFLite files.

compressed = tfdatafree.compress(model)
compressed.save("model.tflite")
print(compressed.report)
"""

import sys
from itertools import pairwise
from pathlib import Path

from tfdatafree.errors import ExportError, LoadError, MissingPackageError, TfdatafreeError, UnsupportedModelError
from tfdatafree.recipe import PRESETS, Generate, Prune, Quantize, Recipe, Recover, Search
from tfdatafree.rules import Rule

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Compressed",
    "ExportError",
    "Generate",
    "LoadError",
    "MissingPackageError",
    "Prune",
    "Quantize",
    "Recipe",
    "Recover",
    "Rule",
    "Search",
    "TfdatafreeError",
    "UnsupportedModelError",
    "absorb_bias",
    "compress",
    "diagnose",
    "equalize",
    "feature_regression",
    "fold_batchnorm",
    "generate_images",
    "layer_inputs",
    "output_discrepancy",
    "response_discrepancy",
]


def _is_command_line() -> bool:
    """Whether this process runs `tfdatafree ...` or `python -m tfdatafree ...` and not somebody's own program."""
    return Path(sys.argv[0]).stem == "tfdatafree" or ("-m", "tfdatafree") in pairwise(sys.orig_argv)


# TensorFlow takes seconds to import, and the command line does without it for help and for mistyped options.
if not _is_command_line():
    from tfdatafree.compare import output_discrepancy, response_discrepancy
    from tfdatafree.compress import compress
    from tfdatafree.compressed import Compressed
    from tfdatafree.diagnose import diagnose
    from tfdatafree.generate import generate_images
    from tfdatafree.generators.observe import layer_inputs
    from tfdatafree.regression import feature_regression
    from tfdatafree.visitors.absorb_bias import absorb_bias
    from tfdatafree.visitors.equalize import equalize
    from tfdatafree.visitors.fold_batchnorm import fold_batchnorm
