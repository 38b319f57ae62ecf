"""The command line, `tfdatafree COMMAND ...`. Only this package prints. Each command has a module of its own.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong, 3 the result fails --strict, 130 interrupted.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from absl import flags

from tfdatafree.cli.bench import COMMAND as BENCH
from tfdatafree.cli.command import AND_MORE, NAME, Command, Flags, in_parts
from tfdatafree.cli.compare import COMMAND as COMPARE
from tfdatafree.cli.completion import completion
from tfdatafree.cli.compress import COMMAND as COMPRESS
from tfdatafree.cli.demo import COMMAND as DEMO
from tfdatafree.cli.diagnose import COMMAND as DIAGNOSE
from tfdatafree.cli.evaluate import COMMAND as EVALUATE
from tfdatafree.cli.inspect_file import COMMAND as INSPECT
from tfdatafree.cli.layout import columns
from tfdatafree.cli.messages import quiet, talkative
from tfdatafree.cli.schema import COMMAND as SCHEMA
from tfdatafree.cli.sweep import COMMAND as SWEEP
from tfdatafree.cli.verify import COMMAND as VERIFY
from tfdatafree.errors import TfdatafreeError, printable
from tfdatafree.recipe.check import require_name
from tfdatafree.version import __version__

_MOST_LETTERS = 600  # of an error
_MOST_REASON = 300  # letters of a foreign error's first line
_WRONG_USAGE = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_COMMANDS = {
    "compress": COMPRESS,
    "inspect": INSPECT,
    "compare": COMPARE,
    "evaluate": EVALUATE,
    "verify": VERIFY,
    "bench": BENCH,
    "diagnose": DIAGNOSE,
    "sweep": SWEEP,
    "demo": DEMO,
    "schema": SCHEMA,
}
_COMMANDS["completion"] = completion(_COMMANDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments` (None: the process's own) and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--verbose" in arguments or bool(os.environ.get("TFDATAFREE_DEBUG"))
    try:
        code = _dispatch(arguments, debug)
        if sys.stdout is not None:  # it is None where standard output is closed
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail("interrupted.", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output is gone. Without this Python would complain once more when it closes stdout.
        with contextlib.suppress(io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except flags.Error as error:
        return _fail(f"{str(error).rstrip('.')}; see --help.", _WRONG_USAGE)
    except (TfdatafreeError, OSError) as error:
        if debug:
            raise
        return _fail(_text(error))
    except Exception as error:
        if debug:
            raise
        # A ValueError of this package is about an option. All else is a bug, or more than the memory holds.
        if isinstance(error, ValueError) and _is_ours(error):
            return _fail(_text(error), _WRONG_USAGE)
        if isinstance(error, MemoryError):
            return _fail(f"the memory is full ({_text(error)}); take a smaller model, or fewer or smaller inputs.")
        reason = (_text(error).splitlines() or [""])[0]
        return _fail(f"{type(error).__name__}: {reason[:_MOST_REASON]}. Please report it, with what --verbose shows.")


def _dispatch(arguments: list[str], debug: bool) -> int:
    if not arguments:
        raise ValueError(f"there is no command; usage: {NAME} {'|'.join(_COMMANDS)} ..., see {NAME} --help.")
    name, *rest = arguments
    if name in ("--help", "-h", "-help"):
        print(_help())
    elif name == "--version":
        print(f"{NAME} {__version__}")
    elif name.startswith("-"):
        raise ValueError(f"{name!r} comes before any command; usage: {NAME} {'|'.join(_COMMANDS)} [flags].")
    else:
        require_name("command", name, _COMMANDS)
        return _run(name, rest, debug)
    return 0


def _run(name: str, arguments: list[str], debug: bool) -> int:
    command, options = _COMMANDS[name], Flags()
    command.define(options)
    options.add("verbose", False, "Show TensorFlow's messages, the time of each stage, and the traceback of an error.")
    options.add("help", False, "Show this page.", short="h")
    values, given = options.parse(arguments)
    if values.help:
        print(_command_help(name, command, options))
        return 0
    least = len([argument for argument in command.arguments if argument != AND_MORE])
    if len(given) < least or (len(given) > least and AND_MORE not in command.arguments):
        if hint := in_parts(values, given):
            raise ValueError(hint)
        wanted = " ".join(command.arguments) or "no arguments"
        got = f"{len(given)}: {' '.join(given)}" if given else "none"
        raise ValueError(f"{name} needs {wanted}, got {got}; see {NAME} {name} --help.")
    _require_tensorflow_backend()
    level = logging.ERROR if "quiet" in values and values.quiet else logging.WARNING
    with talkative() if debug else quiet(level):
        return command.run(values, *given) or 0


def _help() -> str:
    rows = [(name, command.does) for name, command in _COMMANDS.items()]
    return "\n".join(
        [
            f"{NAME} {__version__}: compresses trained Keras CNNs without data into integer TFLite files.",
            "",
            f"usage: {NAME} COMMAND [flags]",
            "",
            "commands:",
            *columns(rows),
            "",
            f"A first try:          {NAME} demo",
            f"Flags of a command:   {NAME} COMMAND --help",
            f"Version:              {NAME} --version",
        ]
    )


def _command_help(name: str, command: Command, options: Flags) -> str:
    return "\n".join(
        [
            command.does,
            command.more,
            "",
            f"usage:   {' '.join(filter(None, (NAME, name, *command.arguments, command.flag)))} [flags]",
            f"example: {command.example}",
            "",
            "flags:",
            *columns(options.lines),
        ]
    )


def _require_tensorflow_backend() -> None:
    """Sets Keras' backend before Keras is imported, whatever its configuration file says."""
    if (backend := os.environ.setdefault("KERAS_BACKEND", "tensorflow")) != "tensorflow":
        raise ValueError(f"KERAS_BACKEND is {backend!r}; unset it, or set it to 'tensorflow'.")


def _is_ours(error: BaseException) -> bool:
    """Whether code of this package raised the error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == NAME


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _fail(message: str, code: int = 1) -> int:
    """Prints what is wrong as one line on stderr, and returns the exit code."""
    text = printable(" ".join(message.split()))
    if sys.stderr is not None:  # without it, print would write to standard output
        print(f"error: {text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 4] + ' ...'}", file=sys.stderr)
    return code
