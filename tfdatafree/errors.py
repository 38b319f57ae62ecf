"""Errors that a user of tfdatafree can cause and fix.

Each message says what came, what was wanted and what to do. Wrong options are plain `ValueError`s, raised where the option is
declared (see `recipe/`).
"""

# Messages quote other packages, which may repeat a whole model.
_LONGEST_MESSAGE = 600


def printable(text: str) -> str:
    """`text` with control characters written as escapes: names in foreign files must not steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class TfdatafreeError(Exception):
    """Base of all errors of this package, so that a caller can catch all of them. Messages have at most 600 characters."""

    def __init__(self, message: str = ""):
        super().__init__(shortened(printable(message)))


def shortened(message: str) -> str:
    """`message`, with " ... " for what its middle has beyond 600 characters."""
    half = (_LONGEST_MESSAGE - 5) // 2
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[:half]} ... {message[-half:]}"


class LoadError(TfdatafreeError):
    """A model file is missing, empty, truncated or not a Keras model."""


class UnsupportedModelError(TfdatafreeError):
    """A model, or one of its layers, cannot be compressed. Names the layer, its class and what to do."""


class ExportError(TfdatafreeError):
    """The written file would not be what the recipe promised. Names the tensor; no file is left behind."""


class MissingPackageError(TfdatafreeError, ImportError):
    """A package is not installed. Names it and the pip command that installs it."""
