"""What the tools share as commands: their start, their errors, and the files that they write results to."""

import contextlib
import datetime
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from absl import app, flags

# Flags that this module defines belong to the tool that asks for them, so that its --help shows them.
flags.disclaim_key_flags()


def define_outputs(text: str = "table") -> None:
    """Defines --json for the figures and --markdown for the text, such as "table" or "tables"."""
    flags.DEFINE_string("json", None, "Also write the figures to this file.")
    flags.DEFINE_string("markdown", None, f"Also write the {text} to this file.")


def run(main: Callable[[flags.FlagValues], int], define_flags: Callable[[], None]) -> None:
    """Runs a tool that takes flags and no other arguments. `main` gets the flags and returns the exit code.

    Flags are defined here, not at import: tools import each other and have flags of the same names.
    """

    def checked(argv: list[str]) -> int:
        if len(argv) > 1:
            raise app.UsageError(f"Unexpected argument {argv[1]!r}.")
        return main(flags.FLAGS)

    define_flags()
    app.run(checked)


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Ends the tool where a ValueError is raised inside, with "error: ..." on stderr and exit code 1."""
    try:
        yield
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def choose(flag: str, given: Sequence[str], known: Iterable[str]) -> list[str]:
    """Returns the names of `known` that `given` has, in the order of `known`.

    Raises ValueError where `given` is empty or has a name that is not known; the message names the flag.
    """
    known = list(known)
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise ValueError(f"--{flag}={','.join(given)}: unknown {', '.join(unknown)}; choose of {', '.join(known)}.")
    return [name for name in known if name in given]


def environment() -> dict:
    """Returns what the figures depend on: versions, cores, and the day."""
    names = ("tensorflow", "keras", "ai-edge-litert", "numpy")
    return {name: importlib.metadata.version(name) for name in names} | {
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
    }


def write_text(path: str | Path | None, text: str) -> None:
    """Writes a file at once: a reader never sees half of it. Writes nothing where there is no path."""
    if not path:
        return
    part = Path(f"{path}.part")
    part.write_text(text)
    os.replace(part, path)


def write_json(path: str | Path | None, value) -> None:
    """Writes `value` as JSON, with the guarantees of `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")
