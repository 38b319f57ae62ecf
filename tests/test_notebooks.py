"""The notebooks in colabs/: complete, clean and able to run without a network. `.ci/run` executes them."""

import ast
import json
import re
from pathlib import Path

import pytest
from documents import ROOT, fenced, inline, wrong_in_python, wrong_in_shell, wrong_inline

NOTEBOOKS = {path.name: path for path in sorted((ROOT / "colabs").glob("*.ipynb"))}
HOME = re.search(r'url="https://github.com/([\w./-]+)"', (ROOT / "setup.py").read_text())[1]
# What may fetch something; a cell that does says what happens where there is no network, in an `except`.
FETCHING = ('weights="imagenet"', "get_file(", "urlopen(", "urlretrieve(", "requests.", "load_data(", "!wget", "!curl")

every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def without_magics(code: str) -> str:
    """IPython's own lines, `%pip install` and the like, become `pass`."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)


@every_notebook
def test_it_begins_with_a_badge_and_installs_where_it_must(name):
    title, install = cells(NOTEBOOKS[name], "markdown")[0], cells(NOTEBOOKS[name], "code")[0]
    assert title.startswith("# ")
    assert f"](https://colab.research.google.com/github/{HOME}/blob/main/colabs/{name})" in title
    wanted = rf'try:\n    import tfdatafree\nexcept ImportError:\n    %pip install -q "tfdatafree(\[[\w,]+\])? @ git\+https://github.com/{HOME}"'
    assert re.match(wanted, install), install
    assert list(wrong_inline(install)) == []


@every_notebook
def test_the_documentation_lists_it(name):
    title = cells(NOTEBOOKS[name], "markdown")[0].splitlines()[0].removeprefix("# ")
    link = f"[{title}](https://colab.research.google.com/github/{HOME}/blob/main/colabs/{name})"
    assert link in (ROOT / "docs" / "notebooks.md").read_text()


@every_notebook
def test_no_output_is_stored(name):
    notebook = json.loads(NOTEBOOKS[name].read_text())
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert cell["metadata"] == {}
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert NOTEBOOKS[name].stat().st_size < 50_000
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@every_notebook
def test_it_needs_no_network(name):
    for code in cells(NOTEBOOKS[name], "code"):
        if any(word in code for word in FETCHING):
            tries = [node for node in ast.walk(ast.parse(without_magics(code))) if isinstance(node, ast.Try)]
            guarded = "".join(ast.unparse(statement) for attempt in tries for statement in attempt.body)
            for word in FETCHING:
                assert code.count(word) == guarded.replace("'", '"').count(word), f"{word} without an except"


@every_notebook
def test_what_it_shows_exists(name):
    types, wrong = {}, []
    for code in cells(NOTEBOOKS[name], "code"):
        wrong += wrong_in_python(without_magics(code), types)
    for text in cells(NOTEBOOKS[name], "markdown"):
        wrong += [problem for words in inline(text) for problem in wrong_inline(words)]
        for language, code in fenced(text):
            if language == "sh":
                wrong += [problem for line in code.splitlines() for problem in wrong_in_shell(line)]
    assert wrong == []


def test_there_are_notebooks():
    assert {"compress_for_android.ipynb", "generate_prune_recover.ipynb", "write_a_visitor.ipynb"} <= set(NOTEBOOKS)
