"""Errors that a user of tfdatafree can cause and fix.

Each message says what came, what was wanted and what to do. Wrong options are plain `ValueError`s, raised where the option is
declared (see `recipe/`).
"""


class TfdatafreeError(Exception):
    """Base of all errors of this package, so that a caller can catch all of them."""


class LoadError(TfdatafreeError):
    """A model file is missing, empty, truncated or not a Keras model."""


class UnsupportedModelError(TfdatafreeError):
    """A model, or one of its layers, cannot be compressed. Names the layer, its class and what to do."""


class ExportError(TfdatafreeError):
    """The written file would not be what the recipe promised. Names the tensor; no file is left behind."""


class MissingPackageError(TfdatafreeError, ImportError):
    """A package is not installed. Names it and the pip command that installs it."""
