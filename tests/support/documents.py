"""What README, docs and --help show, read and held against the code."""

import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import io
import json
import pkgutil
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import tfdatafree
from tfdatafree.cli import main
from tfdatafree.recipe import recipe as recipes
from tfdatafree.targets.registry import get_target

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
TOOLS = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "tools").glob("*.py"))}
PUBLIC = {name: getattr(tfdatafree, name) for name in tfdatafree.__all__}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
RETURNED = {name: typing.get_type_hints(function).get("return") for name, function in FUNCTIONS.items()}
RESULTS = {thing for thing in RETURNED.values() if inspect.isclass(thing) and thing.__module__.startswith("tfdatafree")}
OPTIONS = {
    name: thing
    for name, thing in {**vars(recipes), **PUBLIC}.items()
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing) and not name.startswith("_")
}
MODULES = [name for _, name, _ in pkgutil.walk_packages(tfdatafree.__path__, "tfdatafree.") if "__main__" not in name]


# Reading ----------------------------------------------------------------------------------------------------------------


def entries(docstring: str, section: str) -> dict[str, str]:
    """Name -> text in the Args or Attributes of a docstring."""
    found: dict[str, str] = {}
    lines = iter(inspect.cleandoc(docstring).splitlines())
    names: list[str] = []
    for line in lines:
        if line == f"{section}:":
            break
    for line in filter(None, lines):
        if not line.startswith("    "):
            break
        if start := re.match(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*): ?(.*)", line):
            names = [name.strip("*") for name in start[1].split(", ")]
        for name in names:
            found[name] = f"{found.get(name, '')} {line.strip()}"
    return found


def choices(hint: object) -> set:
    """The values that a Literal somewhere in a type hint allows."""
    if typing.get_origin(hint) is typing.Literal:
        return set(typing.get_args(hint))
    return set().union(*map(choices, typing.get_args(hint)))


def fenced(text: str) -> list[tuple[str, str]]:
    """(language, code) of each code block."""
    return [(found[1], found[2]) for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def inline(text: str) -> list[str]:
    """What stands between backticks in running text."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


@functools.cache
def help_of(*command: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*command, "--help"]) == 0
    return printed.getvalue()


def commands() -> list[str]:
    return re.findall(r"^  (\w+) ", help_of().partition("commands:")[2], re.MULTILINE)


def flags_of(command: str) -> dict[str, tuple[str, str]]:
    """Flag -> (letter, text) as its help has it."""
    parts = re.split(
        r"^  (?:-(\w), )?--(\w+)(?:=\S+)? +", help_of(command).partition("flags:\n")[2], flags=re.MULTILINE
    )
    return {
        name: (letter or "", " ".join(text.split()))
        for letter, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def _usage(command: str) -> str:
    return re.search(rf"usage: +tfdatafree {command}(.*)\[flags\]", help_of(command))[1]


def positional(command: str) -> int:
    """How many arguments a command takes besides flags, at least."""
    usage = _usage(command)
    return len(re.findall(r"(?<![\w.])[A-Z]+(?![\w.])", re.sub(r"-\w \S+", "", usage)))


@functools.cache
def extras() -> frozenset[str]:
    call = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.keyword) and node.arg == "extras_require"
    )
    return frozenset(ast.literal_eval(call.value))


# Checking ---------------------------------------------------------------------------------------------------------------


def wrong_in_python(code: str, types: dict[str, type] | None = None) -> Iterator[str]:
    """What is wrong with the use of tfdatafree in `code`; `types` keeps the classes of variables from block to block."""
    types = {} if types is None else types
    try:
        tree = ast.parse(re.sub(r",\s*\.\.\.\s*\)", ")", code))
    except SyntaxError as error:
        yield f"no Python: {error}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tfdatafree":
            module = importlib.import_module(node.module)
            yield from (f"{node.module} has no {alias.name}" for alias in node.names if not hasattr(module, alias.name))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            types[node.targets[0].id] = RETURNED.get(_named(node.value.func))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "tfdatafree" and not hasattr(tfdatafree, node.attr):
                yield f"tfdatafree has no {node.attr}"
            if (owner := types.get(node.value.id)) in RESULTS and node.attr not in _members(owner):
                yield f"{owner.__name__} has no {node.attr}"
        if isinstance(node, ast.Call):
            yield from _wrong_call(node, types)


def _named(function: ast.expr) -> str | None:
    """The public name that is called: `compress`, `tfdatafree.compress`."""
    text = ast.unparse(function).removeprefix("tfdatafree.")
    return text if text in PUBLIC else None


def _members(owner: type) -> set[str]:
    return set(dir(owner)) | set(entries(owner.__doc__, "Attributes")) | set(owner.__annotations__)


def _wrong_call(call: ast.Call, types: dict[str, type]) -> Iterator[str]:
    text, name = ast.unparse(call), _named(call.func)
    target = PUBLIC.get(name)
    if target is None and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        owner = types.get(call.func.value.id)
        method = getattr(owner, call.func.attr, None) if owner in RESULTS else None
        target = functools.partial(method, None) if inspect.isfunction(method) else None
    if target is not None and not any(isinstance(argument, ast.Starred) for argument in call.args):
        arguments = [argument for argument in call.args if ast.unparse(argument) != "..."]
        bind = inspect.signature(target).bind if arguments == call.args else inspect.signature(target).bind_partial
        try:
            bound = bind(*arguments, **{keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
        except TypeError as error:
            yield f"{text}: {error}"
            return
        preset = bound.arguments.get("recipe")
        if isinstance(preset, ast.Constant) and preset.value not in tfdatafree.PRESETS:
            yield f"{text}: there is no preset {preset.value!r}"
    if (name in OPTIONS or ast.unparse(call.func) == "dataclasses.replace") and "=..." not in text:
        try:
            eval(compile(ast.Expression(call), "<docs>", "eval"), {**PUBLIC, "dataclasses": dataclasses})
        except NameError:
            pass  # a variable of the example
        except Exception as error:
            yield f"{text}: {type(error).__name__}: {error}"


def wrong_in_recipe(text: str) -> Iterator[str]:
    """What is wrong with a recipe in JSON."""
    try:
        tfdatafree.Recipe.from_dict(json.loads(text))
    except ValueError as error:
        yield str(error)


def wrong_in_shell(line: str) -> Iterator[str]:
    """What is wrong with one command line."""
    yield from _wrong_extras(line)
    for part in line.split("&&"):
        program, *words = shlex.split(part, comments=True) or [""]
        if program == "tfdatafree":
            yield from _wrong_command(words)
        if program == "python" and words and words[0].startswith("tools/"):
            tool = TOOLS.get(words[0])
            if tool is None:
                yield f"there is no {words[0]}"
                continue
            for flag in re.findall(r"--(\w+)", part):
                if not _has_flag(tool, flag):
                    yield f"{words[0]} has no --{flag}"


# Flags that several tools define by a shared function: the call that defines each.
_SHARED_FLAGS = {
    "zoo": "zoo.define_flags(",
    "model": "zoo.define_flags(model=",
    "models": "zoo.define_flags(models=",
    "json": "command.define_outputs(",
    "markdown": "command.define_outputs(",
}


def _has_flag(tool: Path, flag: str) -> bool:
    text = tool.read_text()
    return f'"{flag}"' in text or (flag in _SHARED_FLAGS and _SHARED_FLAGS[flag] in text)


def _wrong_command(words: list[str]) -> Iterator[str]:
    name, *rest = words or [""]
    if name in ("--help", "--version"):
        return
    if name not in commands():
        yield f"there is no command {name!r}"
        return
    flags, given, words = flags_of(name), [], iter(rest)
    letters = {letter for letter, _ in flags.values() if letter}
    for word in words:
        flag, _, value = word.partition("=")
        if flag.startswith("--") and flag[2:] not in flags:
            yield f"{name} has no {flag}"
        elif flag.startswith("--"):
            named = flag[2:] in ("recipe", "prune", "target") and not value.endswith((".json", ".yaml"))
            if named and value not in (*re.findall(r"[\w-]+", flags[flag[2:]][1]), *_with_a_part(value)):
                yield f"{flag} has no {value!r}"
        elif word.startswith("-"):
            next(words, None)
            if word[1:] not in letters:
                yield f"{name} has no {word}"
        else:
            given.append(word)
    if len(given) < positional(name) or (len(given) > positional(name) and "..." not in _usage(name)):
        yield f"{name} takes {positional(name)} arguments, not {given}"


def _wrong_extras(text: str) -> Iterator[str]:
    for extra in re.findall(r"(?:tfdatafree|\.)\[([\w,]+)\]", text):
        yield from (f"there is no extra {name!r}" for name in extra.split(",") if name not in extras())


def wrong_inline(text: str) -> Iterator[str]:
    """What is wrong with words between backticks."""
    yield from _wrong_extras(text)
    if re.fullmatch(r"tfdatafree \w+", text):
        if text.split()[1] not in commands():
            yield f"there is no command {text.split()[1]!r}"
    elif text.startswith("tfdatafree ") or text.startswith("python "):
        yield from wrong_in_shell(text)
    elif re.match(r"--\w+($|=)", text):  # others' flags have hyphens inside
        flag = re.match(r"--(\w+)", text)[1]
        if not any(flag in flags_of(name) for name in commands()) and not any(
            f'"{flag}"' in tool.read_text() for tool in TOOLS.values()
        ):
            yield f"no command has --{flag}"
    elif re.fullmatch(r"(tfdatafree|tools|docs|tests|colabs)/[\w./]*", text):
        if not (ROOT / text).exists():
            yield f"there is no {text}"
    elif re.fullmatch(r"(\w+=[^=]+)(, \w+=[^=]+)*", text):
        yield from _wrong_options(text)
    elif re.fullmatch(r"[\"'][\w:]+[\"']", text):
        if ast.literal_eval(text) not in all_choices() and not _is_pattern(ast.literal_eval(text)):
            yield f"{text} is no choice of any option"
    elif re.match(r"[\w.]+\(.*\)$", text):
        yield from wrong_in_python(text)
    elif re.match(r"tfdatafree\.\w+$", text):
        yield from wrong_in_python(text)


@functools.cache
def all_options() -> dict[str, list[object]]:
    """Name of a field or an argument -> its type hints."""
    found: dict[str, list[object]] = {}
    methods = [thing for owner in RESULTS for thing in vars(owner).values() if inspect.isfunction(thing)]
    for thing in (*OPTIONS.values(), *FUNCTIONS.values(), *methods):
        for name, hint in typing.get_type_hints(thing).items():
            found.setdefault(name, []).append(hint)
    return found


@functools.cache
def all_choices() -> frozenset:
    hints = [hint for found in all_options().values() for hint in found]
    return frozenset(tfdatafree.PRESETS).union(*map(choices, hints))


def _is_pattern(text: str) -> bool:
    try:
        return bool(tfdatafree.Prune(pattern=text, sparsity=None if ":" in text else 0.5))
    except ValueError:
        return False


def _with_a_part(target: str) -> tuple[str, ...]:
    """The name, if it is that of a target with a chip or a number behind it, which no help text lists."""
    try:
        return (get_target(target).name,)
    except ValueError:
        return ()


def _wrong_options(text: str) -> Iterator[str]:
    for keyword in ast.parse(f"f({text})", mode="eval").body.keywords:
        hints = all_options().get(keyword.arg)
        if hints is None:
            yield f"nothing has an option {keyword.arg!r}"
            continue
        allowed = set().union(*map(choices, hints))
        if allowed and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            if keyword.value.value not in allowed and not (keyword.arg == "recipe" or str in hints):
                yield f"{text}: choose one of {sorted(map(str, allowed))}"
        yield from wrong_in_python(ast.unparse(keyword.value))
