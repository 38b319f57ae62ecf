"""README, docs, --help, docstrings and code say the same: names, options, choices and defaults are taken from the code."""

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import re
import runpy
import typing

import keras
import pytest
from documents import (
    FUNCTIONS,
    MODULES,
    OPTIONS,
    PAGES,
    PUBLIC,
    RESULTS,
    ROOT,
    TOOLS,
    choices,
    commands,
    entries,
    extras,
    fenced,
    flags_of,
    help_of,
    inline,
    wrong_in_python,
    wrong_in_recipe,
    wrong_in_shell,
    wrong_inline,
)

import tfdatafree
from tfdatafree.recipe.prune import PRUNE_METHODS

# Docstrings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_and_every_choice_is_described(name):
    cls = OPTIONS[name]
    described = entries(cls.__doc__, "Attributes")
    assert list(described) == [field.name for field in dataclasses.fields(cls)]
    for field, hint in typing.get_type_hints(cls).items():
        for choice in choices(hint):
            if isinstance(choice, str):
                assert f'"{choice}"' in described[field], f"{name}.{field} does not tell of {choice!r}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described(name):
    function = FUNCTIONS[name]
    assert set(entries(function.__doc__, "Args")) == set(inspect.signature(function).parameters)


@pytest.mark.parametrize("owner", sorted(RESULTS, key=lambda cls: cls.__name__))
def test_methods_of_results_tell_of_their_arguments(owner):
    for name, method in vars(owner).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            for argument in list(inspect.signature(method).parameters)[1:]:
                assert re.search(rf"\b{argument}\b", method.__doc__ or ""), f"{owner.__name__}.{name}: {argument}"


def test_described_attributes_and_arguments_exist():
    for module in map(importlib.import_module, MODULES):
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", None) != module.__name__ or not getattr(thing, "__doc__", None):
                continue
            if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
                assert set(entries(thing.__doc__, "Attributes")) <= set(dir(thing)) | set(thing.__annotations__), name
            if inspect.isfunction(thing):
                described = set(entries(thing.__doc__, "Args"))
                assert described <= set(inspect.signature(thing).parameters), f"{module.__name__}.{name}"


def test_presets_are_named_where_they_are_offered():
    presets = set(tfdatafree.PRESETS)
    assert set(re.findall(r'"(\w+)"', entries(tfdatafree.compress.__doc__, "Args")["recipe"])) == presets
    assert presets <= set(re.findall(r"\w+", flags_of("compress")["recipe"][1]))
    readme = PAGES["README.md"].read_text()
    table = re.search(r"^\| recipe \| weights .*?\n\n", readme, re.MULTILINE | re.DOTALL)
    assert table, "the README has no table of presets, | recipe | weights | ..."
    assert set(re.findall(r"^\| `(\w+)`", table[0], re.MULTILINE)) == presets


# Help -------------------------------------------------------------------------------------------------------------------


def test_help_tells_the_defaults_and_the_choices_of_the_function():
    parameters = inspect.signature(tfdatafree.compress).parameters
    shared = {name: text for name, (_, text) in flags_of("compress").items() if name in parameters}
    assert {"recipe", "input_range", "seed", "target"} <= set(shared)
    for name, text in shared.items():
        told = re.search(r"\(default: (.*?)\)", text)
        default = parameters[name].default
        if told:
            assert told[1] == str(default), name
        else:
            assert not default or name == "verbose", f"--help does not tell that {name} is {default}"
    assert set(PRUNE_METHODS) <= set(re.findall(r"\w+", flags_of("compress")["prune"][1]))


@pytest.mark.parametrize("command", commands())
def test_examples_in_the_help_are_right(command):
    assert list(wrong_in_shell(re.search(r"example: (.*)", help_of(command))[1])) == []


# Pages ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_exists(page):
    text, types, wrong = PAGES[page].read_text(), {}, []
    for language, code in fenced(text):
        if language == "python":
            wrong += wrong_in_python(code, types)
        elif language == "sh":
            wrong += [problem for line in code.splitlines() for problem in wrong_in_shell(line)]
        elif language == "json":
            wrong += wrong_in_recipe(code)
    for words in inline(text):
        wrong += [f"`{words}`: {problem}" for problem in wrong_inline(words)]
    assert wrong == []


@pytest.mark.parametrize("tool", TOOLS)
def test_examples_of_a_tool_are_right(tool):
    docstring = ast.get_docstring(ast.parse(TOOLS[tool].read_text()))
    lines = [line.strip() for line in docstring.splitlines() if line.strip().startswith("python tools/")]
    assert [problem for line in lines for problem in wrong_in_shell(line)] == []


def test_the_reference_holds_every_public_name():
    shown = []
    for path in re.findall(r"^::: (\S+)$", PAGES["docs/api.md"].read_text(), re.MULTILINE):
        module, _, name = path.rpartition(".")
        shown.append(getattr(importlib.import_module(module), name))
    missing = [name for name, thing in PUBLIC.items() if not any(thing is other for other in shown)]
    assert missing == []
    assert not [cls.__name__ for cls in RESULTS if cls not in shown]


@pytest.mark.slow
def test_the_page_of_commands_is_their_help():
    hooks = runpy.run_path(str(ROOT / "tools" / "docs" / "hooks.py"))
    page = hooks["command_line"]()
    for command in commands():
        assert help_of(command).rstrip() in page
    assert "--sparsity" in page and "--data" in page


def test_figures_of_the_readme_are_those_that_were_measured():
    record = json.loads((ROOT / "docs/figures/benchmark.json").read_text())
    table = re.search(r"^\| model \| \| top-1 .*?\n\n", PAGES["README.md"].read_text(), re.MULTILINE | re.DOTALL)
    assert table, "the README has no table of what was measured"
    shown = [[cell.strip(" *%") for cell in line.split("|")[2:-1]] for line in table[0].strip().splitlines()[2:]]
    names = {"float": "float", "tfdatafree, no data": "tfdatafree:int8", "PTQ, noise": "ptq_noise"}
    names["PTQ, 100 real images"] = "ptq"
    measured = [row for row in record["rows"] if row["row"] in names.values()]
    assert [names[cells[0]] for cells in shown] == [row["row"] for row in measured]
    logits = json.loads((ROOT / "docs/figures/benchmark_logits.json").read_text())["rows"] + record["rows"]
    errors = {(row["model"], row["row"]): f"{row['relative_error']:.3f}" for row in logits if "relative_error" in row}
    for (_, top1, agreement, error, size), row in zip(shown, measured, strict=True):
        assert error in ("", errors.get((row["model"], row["row"]))), row
        assert top1 == f"{100 * row['top1']:.2f}"
        assert agreement == ("" if row["row"] == "float" else f"{row['agreement']:.3f}")
        assert row["row"] == "float" or size == f"{row['bytes']:,}"


def test_every_layer_of_keras_is_listed():
    text = PAGES["docs/supported.md"].read_text()
    if f"Keras {keras.__version__.rpartition('.')[0]}" not in text:
        pytest.skip(f"the page was made with another Keras than {keras.__version__}")
    tool = runpy.run_path(str(TOOLS["tools/layers.py"]))
    assert set(tool["names"]()) - set(re.findall(r"\w+", text)) == set(tool["NOT_TRIED"])


def test_tables_of_the_readme_are_taken_from_there():
    hooks = runpy.run_path(str(ROOT / "tools" / "docs" / "hooks.py"))
    readme = "# A\n## B\ntext\n\n| 1 |\n|---|\n\n| 2 |\n|---|\n## C\nmore\n"
    assert hooks["with_readme"]("x\n<!-- README: C -->\ny", readme) == "x\nmore\ny"
    assert hooks["with_readme"]("<!-- README: B, table 2 -->", readme) == "| 2 |\n|---|"
    with pytest.raises(LookupError, match="no section 'D'; it has B, C"):
        hooks["with_readme"]("<!-- README: D -->", readme)
    with pytest.raises(LookupError, match="has 2 tables, not 3"):
        hooks["with_readme"]("<!-- README: B, table 3 -->", readme)


def test_versions_are_those_that_pip_demands():
    hooks = runpy.run_path(str(ROOT / "tools" / "docs" / "hooks.py"))
    setup = (ROOT / "setup.py").read_text()
    table = hooks["versions"](setup)
    bounds = dict(
        re.findall(r'"([\w-]+)>=([\d.]+)"', setup.partition("install_requires")[2].partition("extras_require")[0])
    )
    assert {"tensorflow", "keras", "numpy"} <= set(bounds)
    for name, oldest in bounds.items():
        assert f"| {name} | {oldest} | {importlib.metadata.version(name)} |" in table
    python = re.search(r'python_requires=">=([\d.]+)"', setup)[1]
    assert f"| Python | {python} | " in table and "<!-- versions -->" in PAGES["docs/install.md"].read_text()
    needs = (
        f"Python {python} or later, TensorFlow {bounds['tensorflow']} or later, and Keras {bounds['keras']} or later"
    )
    assert needs in PAGES["README.md"].read_text()


def test_extras_are_those_that_pip_knows():
    told = re.findall(r"^\| `(\w+)` \|", PAGES["docs/install.md"].read_text(), re.MULTILINE)
    assert set(told) == set(extras()) - {"test", "docs", "notebook"}


def test_nothing_is_installed_by_name_before_it_is_published():
    texts = [path.read_text() for path in [*PAGES.values(), *sorted((ROOT / "tfdatafree").rglob("*.py"))]]
    by_name = re.compile(r"pip install (?:-\w+ )*[\"']?tfdatafree(?!\[[\w,]+\] @ git|[\w-]| @ git)")
    assert [found for text in texts for found in by_name.findall(text)] == []
    assert by_name.search("pip install 'tfdatafree[npu]'") and by_name.search("pip install tfdatafree && x")


# The checks notice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check, text, problem",
    [
        (wrong_in_python, "tfdatafree.compress(model, input_rnge=(0, 1))", "unexpected keyword argument 'input_rnge'"),
        (wrong_in_python, "tfdatafree.compress()", "missing a required argument: 'model'"),
        (wrong_in_python, "compress(model, 'int4')", "there is no preset 'int4'"),
        (wrong_in_python, "from tfdatafree import squeeze", "tfdatafree has no squeeze"),
        (wrong_in_python, "tfdatafree.squeeze", "tfdatafree has no squeeze"),
        (wrong_in_python, "x = Prune(sparsity=0.5, method='best')", "ValueError: method is 'best'"),
        (wrong_in_python, "for s in t: Prune(sparsity=s, methd='obs')", "unexpected keyword argument 'methd'"),
        (wrong_in_python, "dataclasses.replace(PRESETS['dfg'])", "KeyError"),
        (wrong_in_python, "c = tfdatafree.compress(model)\nc.write('x')", "Compressed has no write"),
        (wrong_in_python, "c = tfdatafree.compress(model)\nc.save('x', force=True)", "argument 'force'"),
        (wrong_in_python, "if:", "no Python"),
        (wrong_in_shell, "tfdatafree compress m.keras -o m.tflite --recpe=int8", "compress has no --recpe"),
        (wrong_in_shell, "tfdatafree compress m.keras -p m.tflite", "compress has no -p"),
        (wrong_in_shell, "tfdatafree compress m.keras -o m.tflite --recipe=int4", "--recipe has no 'int4'"),
        (wrong_in_shell, "tfdatafree compare m.keras", "compare takes 2 arguments"),
        (wrong_in_shell, "tfdatafree squeeze m.keras", "there is no command 'squeeze'"),
        (wrong_in_shell, "python tools/squeeze.py", "there is no tools/squeeze.py"),
        (wrong_in_shell, "python tools/sizes.py --gpu", "has no --gpu"),
        (wrong_in_shell, "pip install '.[tests]'", "there is no extra 'tests'"),
        (wrong_in_recipe, '{"base": "int8", "rules": [{"pattern": "logits", "kept_float": true}]}', "kept_float"),
        (wrong_in_recipe, '{"base": "int4"}', "int4"),
        (wrong_inline, "--sparseness", "no command has --sparseness"),
        (wrong_inline, "tools/squeeze.py", "there is no tools/squeeze.py"),
        (wrong_inline, 'equalize_caps="off"', "choose one of"),
        (wrong_inline, "equalise_caps", None),
        (wrong_inline, "equalise_caps=True", "nothing has an option 'equalise_caps'"),
        (wrong_inline, '"obx"', "no choice of any option"),
        (wrong_inline, "Prune(sparsity=1.5)", "ValueError"),
        (wrong_inline, "Quantize(weight_bits=6, ...)", None),
        (wrong_inline, "Quantize(edge_dtype=...)", None),
        (wrong_inline, "--system-config", None),
        (wrong_inline, "tfdatafree inspect", None),
        (wrong_inline, "tfdatafree squeeze", "there is no command 'squeeze'"),
        (wrong_inline, 'pattern="2:4"', None),
    ],
)
def test_the_checks_notice(check, text, problem):
    found = " ".join(check(text))
    assert found == "" if problem is None else problem in found


def test_a_missing_description_is_noticed():
    docstring = """Something.

    Attributes:
        a: One,
            in two lines with "x": y.
        b, c: Two.

    Raises:
        d: Not one.
    """
    assert entries(docstring, "Attributes") == {
        "a": ' a: One, in two lines with "x": y.',
        "b": " b, c: Two.",
        "c": " b, c: Two.",
    }
    assert entries(docstring, "Args") == {}
    assert choices(typing.Literal["a", "b"] | bool | None) == {"a", "b"}
