"""Compresses trained Keras CNNs without data and writes integer TFLite files.

compressed = tfdatafree.compress(model)
compressed.save("model.tflite")
print(compressed.report)
"""

import sys
from itertools import pairwise
from pathlib import Path

from tfdatafree.errors import ExportError, LoadError, MissingPackageError, TfdatafreeError, UnsupportedModelError
from tfdatafree.recipe.distillation import (
    METHODS,
    Comparison,
    Distillation,
    ImageGenerator,
    InvertedImages,
    MatchedImages,
    Method,
    Thresholds,
)
from tfdatafree.recipe.prune import Prune
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import PRESETS, Generate, Recipe, Recover, Search
from tfdatafree.recipe.rules import Rule
from tfdatafree.targets.registry import TARGETS
from tfdatafree.targets.target import Target
from tfdatafree.version import __version__

__all__ = [
    "METHODS",
    "PRESETS",
    "TARGETS",
    "Comparison",
    "Compressed",
    "Diagnosis",
    "Distillation",
    "Distilled",
    "Evaluation",
    "ExportError",
    "Generate",
    "GeneratedImages",
    "ImageGenerator",
    "InvertedImages",
    "LoadError",
    "MatchedImages",
    "Method",
    "MissingPackageError",
    "Prune",
    "Quantize",
    "Recipe",
    "Reconstructed",
    "Recover",
    "Recovered",
    "Report",
    "Rule",
    "Search",
    "Sweep",
    "Target",
    "TfdatafreeError",
    "Thresholds",
    "UnsupportedModelError",
    "__version__",
    "absorb_bias",
    "bench",
    "compress",
    "diagnose",
    "distill",
    "equalize",
    "evaluate",
    "export_tflite",
    "feature_regression",
    "fold_batchnorm",
    "generate_images",
    "layer_inputs",
    "output_discrepancy",
    "prune",
    "quantize",
    "reconstruct",
    "response_discrepancy",
    "sweep",
    "verify",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def _is_command_line() -> bool:
    """Whether this process runs `tfdatafree ...` or `python -m tfdatafree ...`, and not a program of the user's."""
    return Path(sys.argv[0]).stem == "tfdatafree" or ("-m", "tfdatafree") in pairwise(sys.orig_argv)


# Importing TensorFlow takes seconds, and the command line needs it neither for its help nor to refuse wrong options.
if not _is_command_line():
    from tfdatafree.bench import bench
    from tfdatafree.canonical.fold_batchnorm import fold_batchnorm
    from tfdatafree.compare import output_discrepancy, response_discrepancy
    from tfdatafree.compress import compress
    from tfdatafree.compressed import Compressed
    from tfdatafree.diagnosis.diagnose import diagnose
    from tfdatafree.diagnosis.diagnosis import Diagnosis
    from tfdatafree.evaluate import Evaluation, evaluate
    from tfdatafree.inputs.generate import generate_images
    from tfdatafree.inputs.generated_images import GeneratedImages
    from tfdatafree.inputs.layer_inputs import layer_inputs
    from tfdatafree.preconditioning.absorb_bias import absorb_bias
    from tfdatafree.preconditioning.equalize import equalize
    from tfdatafree.recovery.distillation.distill import Distilled, distill
    from tfdatafree.recovery.reconstruction.reconstruct import Reconstructed, reconstruct
    from tfdatafree.recovery.regression import Recovered, feature_regression
    from tfdatafree.report.report import Report
    from tfdatafree.stages import export_tflite, prune, quantize
    from tfdatafree.sweeping.sweep import Sweep, sweep
    from tfdatafree.verify import verify
