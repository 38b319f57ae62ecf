"""The points of a sweep: models x recipes x sparsities x sizes x targets, each with a key that tells it from all others.

The key is the SHA-256 of what decides a point's bytes: the model's content, the recipe, the target, the other options, and the
versions of the packages that compute. So that a result with the same key can be taken in place of a new one.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tfdatafree.recipe.file import find_recipe
from tfdatafree.recipe.prune import Prune
from tfdatafree.recipe.recipe import Recipe, Search
from tfdatafree.targets.fit import fit_recipe
from tfdatafree.targets.registry import get_target
from tfdatafree.version import __version__

# Packages whose versions may change single integers of a file, and compilers that add figures.
_PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "ai-edge-litert", "ethos-u-vela")
_MOST_LETTERS = 80  # of the readable part of a folder's name
_KEY_LETTERS = 12


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model of the sweep.

    Attributes:
        name: Its name in the result, unlike all others.
        file: The name of its file.
        digest: SHA-256 of its content.
        path: Where it lies; None for a model in memory.
        content: Its bytes as a .keras file; None for a path.
    """

    name: str
    file: str
    digest: str
    path: Path | None = None
    content: bytes | None = None

    def read(self) -> bytes:
        return self.content if self.content is not None else Path(str(self.path)).read_bytes()


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all points of a sweep share; `compress` explains each.

    Attributes:
        input_range, input_shape, representative_data, seed, unsafe_load: As for `compress`; data as a path.
        pages: Whether each point gets a report page.
    """

    input_range: Any = None
    input_shape: tuple[int, ...] | None = None
    representative_data: str | None = None
    seed: int = 0
    unsafe_load: bool = False
    pages: bool = True

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `compress`."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "pages"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One compression of a sweep.

    Attributes:
        source: The model.
        recipe: What is done to it; None if there is no such recipe.
        name: Name of the recipe that it was made of.
        sparsity, size: What the sweep set; None: as the recipe has it.
        target: Name of the target.
        trouble: Why there is no such recipe; "" for nothing.
        key: Tells it from all other points.
    """

    source: Source
    recipe: Recipe | None
    name: str
    sparsity: float | str | None
    size: float | None
    target: str
    trouble: str
    key: str

    @property
    def title(self) -> str:
        """The point in words: "mobilenet, int8, sparsity 0.3, size 0.7, ethos-u55"."""
        parts = [self.source.name, self.name]
        parts += [] if self.sparsity is None else [f"sparsity {short_number(self.sparsity)}"]
        parts += [] if self.size is None else [f"size {self.size:g}"]
        return ", ".join(parts + ([] if self.target == "generic" else [self.target]))

    @property
    def folder(self) -> str:
        """Name of the folder that its files are in."""
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", self.title)[:_MOST_LETTERS].strip("-.")
        return f"{readable}-{self.key[:_KEY_LETTERS]}"


def make_points(
    sources: Sequence[Source],
    recipes: Sequence[str | os.PathLike | Recipe],
    *,
    sparsity: Sequence[float | str],
    size: Sequence[float],
    targets: Sequence[str],
    options: Options,
) -> list[Point]:
    """All points, model by model.

    Raises:
        ValueError: A recipe, a sparsity, a size or a target is wrong by itself. A recipe that a size or a target does not fit is
            a point with `trouble`.
    """
    found = [find_recipe(recipe) for recipe in recipes]
    for name, values in (("recipes", found), ("targets", targets)):
        if not values:
            raise ValueError(f"{name} is empty; give at least one.")
    for target in targets:
        get_target(target)
    parts = [_sparsity(part) for part in sparsity] or [{}]
    sizes = [{"policy": None if part == 1 else Search(size=part)} for part in size] or [{}]
    base = {"options": options.arguments, "data": digest_of(options.representative_data), "versions": versions()}
    points = {}
    for source, recipe, (i, pruning), (j, search), target in product(
        sources, found, enumerate(parts), enumerate(sizes), targets
    ):
        made, trouble = _varied(recipe, pruning, search, target)
        asked = {"sparsity": sparsity[i] if sparsity else None, "size": size[j] if size else None, "target": target}
        decides = base | asked | {"model": source.digest, "recipe": (made or recipe).to_dict(), "name": recipe.name}
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        points[source.name, key] = Point(
            source=source, recipe=made, name=recipe.name, trouble=trouble, key=key, **asked
        )
    return list(points.values())


def short_number(part: float | str) -> str:
    return part if isinstance(part, str) else f"{part:g}"


def _sparsity(part: Any) -> dict[str, Any]:
    """The options that a sparsity stands for. Raises ValueError if it is none."""
    return {"prune": None if part == 0 else Prune(sparsity=part)}


def _varied(
    recipe: Recipe, pruning: Mapping[str, Any], search: Mapping[str, Any], target: str
) -> tuple[Recipe | None, str]:
    """(the recipe with these options, ""), or (None, why there is no such recipe)."""
    prune = pruning.get("prune")
    if prune is not None and recipe.prune is not None:
        pruning = {"prune": dataclasses.replace(recipe.prune, sparsity=prune.sparsity)}
    try:
        made = dataclasses.replace(recipe, **pruning, **search)
        fit_recipe(made, get_target(target))
    except ValueError as error:
        return None, str(error)
    return made, ""


# Models -----------------------------------------------------------------------------------------------------------------


def name_paths(paths: Sequence[Path]) -> list[str]:
    """A name for each path: the file's name without its ending, or as many folders before it as tell it from the others.

    Raises:
        ValueError: A path is given twice.
    """
    if twice := [path for at, path in enumerate(paths) if path.resolve() in [other.resolve() for other in paths[:at]]]:
        raise ValueError(f"'{twice[0]}' is given twice; give each model once.")
    parts = [(*path.resolve().parts[1:-1], path.stem) for path in paths]
    names = []
    for at, own in enumerate(parts):
        others = parts[:at] + parts[at + 1 :]
        length = next((n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names.append("/".join(own[-length:]))
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def digest_of(path: str | os.PathLike | None) -> str | None:
    """SHA-256 of a file, or of the names and contents of all files in a folder; None for None."""
    if path is None:
        return None
    found = hashlib.sha256()
    for file in _files(Path(path)):
        found.update(str(file.relative_to(path)).encode() + b"\0")
        content = hashlib.sha256()
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                content.update(block)
        found.update(content.digest())
    return found.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path


@functools.cache
def versions() -> dict[str, str | None]:
    """Package -> the installed version; None if it is not installed."""
    found: dict[str, str | None] = {"tfdatafree": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
