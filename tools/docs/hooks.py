"""Inserts into the documentation site what stands elsewhere, so that nothing is written twice.

- `<!-- README: Measured -->` in a page becomes that section of the README. `<!-- README: Presets, table 1 -->` becomes the first
  table of that section.
- `<!-- versions -->` becomes the table of oldest and newest versions: the bounds of setup.py, and what is installed.
- command_line.md is the output of each command's --help.
"""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MARKER = re.compile(r"^<!-- README: ([^,\n]+?)(?:, table (\d+))? -->$", re.MULTILINE)


def on_files(files, config):
    """Adds the pages that are generated."""
    from mkdocs.structure.files import File  # here, so that what is below can be used without MkDocs

    files.append(File.generated(config, "command_line.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Puts the README's parts where a page asks for them."""
    from mkdocs.exceptions import PluginError

    try:
        markdown = markdown.replace("<!-- versions -->", versions((ROOT / "setup.py").read_text(encoding="utf-8")))
        return with_readme(markdown, (ROOT / "README.md").read_text(encoding="utf-8"))
    except LookupError as error:
        raise PluginError(f"{page.file.src_uri}: {error.args[0]}") from error


def with_readme(markdown: str, readme: str) -> str:
    """`markdown` with each marker replaced by what it names in `readme`. Raises LookupError where there is no such part."""

    def part(found: re.Match) -> str:
        heading, table = found.groups()
        section = sections(readme).get(heading)
        if section is None:
            raise LookupError(f"the README has no section {heading!r}; it has {', '.join(sections(readme))}.")
        if table is None:
            return section
        tables = re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE)
        if int(table) > len(tables):
            raise LookupError(f"the README's section {heading!r} has {len(tables)} tables, not {table}.")
        return tables[int(table) - 1]

    return _MARKER.sub(part, markdown)


def versions(setup: str) -> str:
    """The table of what the package needs: oldest version by the bounds in `setup`, and the newest that is installed here."""
    options = {node.arg: node.value for node in ast.walk(ast.parse(setup)) if isinstance(node, ast.keyword)}
    pythons = [
        text.rpartition(" ")[2] for text in ast.literal_eval(options["classifiers"]) if re.search(r":: 3\.\d+$", text)
    ]
    rows = [("Python", ast.literal_eval(options["python_requires"]).removeprefix(">="), pythons[-1])]
    for requirement in ast.literal_eval(options["install_requires"]):
        name, oldest = requirement.split(">=")
        rows.append((name, oldest, metadata.version(name)))
    return "\n".join(["| | oldest | newest tested |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def sections(readme: str) -> dict[str, str]:
    """Heading of the second level -> text below it. Paths into docs/ are as the pages of this folder have them."""
    readme = readme.replace("](docs/", "](")
    _, *parts = re.split(r"^## (.+)\n", readme, flags=re.MULTILINE)
    return {heading: text.strip("\n") for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def command_line() -> str:
    """The page of all commands, in the words of their --help."""
    overview = said("--help")
    commands = re.findall(r"^  (\w+) ", overview.partition("commands:")[2], re.MULTILINE)
    links = ", ".join(f"[{name}](#{name})" for name in commands)
    parts = [
        "---",
        "hide: [toc]",
        "---",
        "# Command line",
        "",
        "The page that `--help` shows of each command: " + links + ".",
    ]
    parts += ["", *fenced(overview)]
    for name in commands:
        parts += ["", f"## {name}", "", *fenced(said(name, "--help"))]
    return "\n".join(parts) + "\n"


def said(*arguments: str) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "tfdatafree", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return done.stdout.rstrip()


def fenced(text: str) -> list[str]:
    return ["```text", text, "```"]
