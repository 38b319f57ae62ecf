"""Errors that a user of tfdatafree can cause and mend.

Each message says what came, what was wanted and what to do. Wrong option values are plain `ValueError`s, raised where
the option is declared (see `recipe/`).
"""


class TfdatafreeError(Exception):
    """Base of every error below, so that a caller can catch them all at once."""


class LoadError(TfdatafreeError):
    """A model file that is missing, empty, truncated or not a Keras model."""


class UnsupportedModelError(TfdatafreeError):
    """A model, or one of its layers, that cannot be compressed. Names the layer, its class and what to do."""


class ExportError(TfdatafreeError):
    """The written file would not be what the recipe promised. Names the tensor; no file is left behind."""


class MissingPackageError(TfdatafreeError, ImportError):
    """Something needs a package that is not installed. Names it and the pip command that installs it."""
