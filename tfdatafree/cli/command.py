"""The parts of a subcommand, and the flags and checks that several subcommands share.

A command imports what needs TensorFlow only when it runs, so that `--help` and mistyped options answer at once.
"""

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from tfdatafree.errors import LoadError
from tfdatafree.inputs.given_range import check_input_range
from tfdatafree.inputs.input_files import require_readable
from tfdatafree.limits import require_regular, require_seed, short
from tfdatafree.model.file_kind import keras_file_kind
from tfdatafree.recipe.check import require_name
from tfdatafree.recipe.file import ENDINGS as RECIPE_ENDINGS
from tfdatafree.recipe.file import is_recipe_file, read_recipe, recipe_text
from tfdatafree.recipe.recipe import PRESETS, Recipe

NAME = "tfdatafree"
# Stands behind the last of a command's arguments if there may be more of the same.
AND_MORE = "..."


class Flags:
    """The flags of one call of one command, and the lines of its help that describe them."""

    def __init__(self):
        self.values = flags.FlagValues()
        self.values.set_gnu_getopt()
        self.lines: list[tuple[str, str]] = []

    def add(self, name: str, default, text: str, *, meta: str = "", short: str | None = None, lower: int | None = None):
        """Adds a flag of the type of `default`. None is the default of a text that may be left out, () of texts."""
        if isinstance(default, bool):
            flags.DEFINE_boolean(name, default, text, flag_values=self.values, short_name=short)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, text, lower, flag_values=self.values, short_name=short)
        elif isinstance(default, tuple):
            flags.DEFINE_multi_string(name, list(default), text, flag_values=self.values, short_name=short)
        else:
            flags.DEFINE_string(name, default, text, flag_values=self.values, short_name=short)
        left = f"-{short}, --{name}" if short else f"--{name}"
        shown = "" if default in (None, False, ()) else f" (default: {default})"
        self.lines.append((f"{left}={meta}" if meta else left, text + shown))

    def parse(self, arguments: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
        """(values of the flags, the other arguments). Raises flags.Error."""
        return self.values, self.values([NAME, *arguments])[1:]


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        arguments: Names of the arguments that it needs besides flags; with AND_MORE at the end it takes more of the last.
        flag: The flag that must be given; "" if there is none.
        does: What it does, in one line.
        more: What a newcomer should know.
        example: A command line to copy.
        define: Adds its flags.
        run: Runs it, with the values of the flags and the arguments. Returns the exit code; None for 0.
    """

    arguments: tuple[str, ...]
    flag: str
    does: str
    more: str
    example: str
    define: Callable[[Flags], None]
    run: Callable[..., int | None]


# What compress and diagnose share ---------------------------------------------------------------------------------------


def add_inputs(options: Flags) -> None:
    """Flags about the model's inputs."""
    options.add(
        "input_range",
        (),
        "Smallest and largest value of the model's inputs after preprocessing. For several inputs it holds for all, or repeat "
        "it with the name of each. What is not given is taken from the model or estimated; the report says which.",
        meta="[NAME:]LOW,HIGH",
    )
    options.add("input_shape", None, "Shape of the input, if that of the model is not static.", meta="H,W,C")
    options.add(
        "representative_data",
        None,
        "A few real inputs in place of generated ones: a folder of images, which are scaled and cropped to the model's "
        "input and scaled to its input range; or a file with an array of preprocessed inputs.",
        meta="FOLDER|FILE.npz|.npy",
    )


def model_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """Arguments of `compress` and `diagnose` about the model and its inputs."""
    require_seed(values.seed)
    return {
        "input_range": given_range(values.input_range),
        "input_shape": numbers("input_shape", values.input_shape, int, "224,224,3"),
        "representative_data": values.representative_data,
        "target": values.target,
        "seed": values.seed,
        "unsafe_load": values.unsafe_load,
    }


def given_range(texts: Sequence[str]) -> Any:
    """The value of all flags --input_range: LOW,HIGH, or NAME:LOW,HIGH for each of several inputs; None without any.

    Raises:
        ValueError: A text is not of this form, or the flag is repeated without names.
    """
    named: dict[str, Any] = {}
    for text in texts:
        name, colon, ends = text.rpartition(":")
        if name in named or (not name and len(texts) > 1):
            raise ValueError(
                f"input_range is given {len(texts)} times; give it once, or once for each input with its name, e.g. "
                "--input_range=image:0,255 --input_range=depth:0,10."
            )
        named[name] = numbers("input_range", ends, float, f"{name}:-1,1" if colon else "-1,1")
    given = named.get("", named) or None
    return None if given is None else check_input_range(given)


def require_inputs(values: flags.FlagValues, model: str) -> None:
    """Raises errors about files at once that would otherwise come after TensorFlow's import, or after the work."""
    if values.save_recipe is not None:
        _require_writable_recipe(values.save_recipe, model, values.overwrite)
    if values.representative_data is not None:
        require_readable(values.representative_data)


def find_recipe(text: str) -> Recipe:
    """The preset with the name `text`, or the recipe in the file `text`."""
    if is_recipe_file(text):
        return read_recipe(text)
    require_name("recipe", text, PRESETS)
    return PRESETS[text]


def typed_command(name: str, values: flags.FlagValues, *arguments: str) -> str:
    """The command line as it was typed, for a shell: the arguments, then the flags that were given."""
    given = [values[key] for key in values if values[key].present and key == values[key].name]
    words = [word for flag in given for word in flag.serialize().splitlines()]
    return shlex.join([NAME, name, *arguments, *words])


def write_recipe(recipe: Recipe, path: Path) -> None:
    from tfdatafree.files import write_atomically

    write_atomically(path, recipe_text(recipe, path).encode())


# Checks ---------------------------------------------------------------------------------------------------------------


def require_model(path: str) -> None:
    """Raises at once what `load` would raise after TensorFlow's import: the file is missing, or of another kind."""
    keras_file_kind(path)


def require_file(path: str) -> None:
    """Raises at once what `load` would raise after TensorFlow's import."""
    if not os.path.exists(path):
        raise LoadError(f"'{path}' does not exist.")
    if not os.path.isdir(path):
        require_regular(path)


def _require_writable_recipe(path: str, model: str, overwrite: bool) -> None:
    require_writable("save_recipe", Path(path), RECIPE_ENDINGS, model, overwrite)
    recipe_text(Recipe(), path)  # raises if PyYAML is missing


def require_writable(name: str, path: Path, endings: tuple[str, ...], model: str | None, overwrite: bool) -> None:
    """Raises before the work what would otherwise fail after it: `path` cannot be written, or may not be."""
    if "\0" in str(path):
        raise ValueError(f"{name} is {short(str(path))}, which holds the character NUL; give another name.")
    if path.suffix not in endings:
        raise ValueError(f"{name} is '{path}'; give a name that ends in {' or '.join(endings)}.")
    if path.is_dir():
        raise IsADirectoryError(f"{name} '{path}' is a directory; give the name of a file.")
    if model is not None and path.exists() and os.path.samefile(path, model):
        raise ValueError(f"{name} is '{path}', the model itself; give another name.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"'{path}' exists; add --overwrite to replace it, or give another name.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} is '{path}', but the folder '{path.parent}' does not exist; create it first.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise PermissionError(f"{name} is '{path}', but nothing can be written there: {error.strerror}.") from error


def require_distinct(paths: Sequence[Path]) -> None:
    """Raises ValueError if two outputs are the same file, of which the last would overwrite the others."""
    places = [path.parent.resolve() / path.name for path in paths]
    for at, place in enumerate(places):
        if place in places[:at]:
            raise ValueError(f"'{paths[at]}' is the name of two outputs; give each output a name of its own.")


def import_tensorflow(*, quiet: bool = False) -> None:
    """Says that TensorFlow is being imported, which takes seconds, and imports it."""
    if "tensorflow" not in sys.modules and not quiet:
        print("importing TensorFlow ...", file=sys.stderr, flush=True)
    import tensorflow  # noqa: F401


def shown_progress(*, quiet: bool = False) -> int:
    """The argument `verbose` of functions: a bar on a terminal, lines into a file or a pipe, nothing if `quiet`."""
    return 0 if quiet else 1 if sys.stderr is not None and sys.stderr.isatty() else 2


def number(name: str, text: str | None, kind: Callable, example: str) -> Any:
    """The value of the flag `name` that takes one number; None where it was not given."""
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} is {short(text)}; give one number, e.g. --{name}={example}.") from None


def in_parts(values: flags.FlagValues, given: Sequence[str]) -> str:
    """What to write where a flag got its numbers as several arguments, as in --input_range 0 255; "" if none did.

    Args:
        given: The arguments that are no flags, some of which may be such numbers.
    """
    rest = [text.strip(",") for text in given if _is_number(text.strip(","))]
    for name in ("input_range", "input_shape"):
        value = values[name].value if name in values else None
        first = value[-1] if isinstance(value, list) and value else value
        if rest and first:
            joined = ",".join((first.rstrip(","), *rest))
            return f"{name} takes one text without spaces: --{name}={joined}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbers(name: str, text: str | None, kind: Callable, example: str) -> tuple | None:
    """The value of the flag `name` that takes several numbers; None where it was not given."""
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name} is {short(text)}; give numbers separated by commas, e.g. --{name}={example}."
        ) from None
