"""Options read from plain values, as recipe files and the JSON record hold them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tfdatafree.limits import short
from tfdatafree.recipe.check import nearest, suggestion
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import Rule
from tfdatafree.version import __version__

# Version of the plain values that a recipe is written as. It grows when a value changes its meaning, or when an option is
# removed or renamed; an older reader refuses an added option anyway. Values without a version are of the first one: no
# version was written at that time.
FORMAT_VERSION = 1
FIRST_FORMAT_VERSION = 1


def require_format(version: object) -> None:
    """Raises ValueError unless values of this format version can be read."""
    if not isinstance(version, int) or isinstance(version, bool) or version < FIRST_FORMAT_VERSION:
        raise ValueError(
            f"format_version is {short(version)}; give a whole number of at least {FIRST_FORMAT_VERSION}, or leave it out."
        )
    if version > FORMAT_VERSION:
        raise ValueError(
            f"format_version is {short(version)}, but tfdatafree {__version__} reads versions up to {FORMAT_VERSION}; install "
            "the tfdatafree that wrote the recipe, or a newer one."
        )


def require_rules(rules: object) -> tuple[Rule, ...]:
    """`rules` as a tuple; a single Rule may come alone. Raises ValueError for anything else."""
    if isinstance(rules, Rule):
        rules = (rules,)
    if not isinstance(rules, (list, tuple)) or not all(isinstance(rule, Rule) for rule in rules):
        raise ValueError(f"rules are {short(rules)}; give Rule objects: rules=(Rule('block_1*', weight_bits=4),).")
    return tuple(rules)


def require_mapping(what: str, values: object) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{what} is {short(values)}; give options by name, e.g. {{'base': 'int8'}}.")
    return values


def require_known(what: str, values: Iterable[str], owner: type, also: tuple[str, ...] = ()) -> None:
    """Raises ValueError for a name in `values` that is not an option of `owner`."""
    names = [*also, *(field.name for field in dataclasses.fields(owner))]
    for name in values:
        if name not in names:
            hint = suggestion(nearest(name, names)) or f"its options are {', '.join(names)}."
            raise ValueError(f"{what} has no option {short(name)}; {hint}")


def parse_section(name: str, owner: type, base: Any, values: object) -> Any:
    """The options `owner` of one section: those of `base`, replaced by `values` where these give one."""
    given = require_mapping(name, values)
    require_known(name, given, owner)
    start = {} if base is None else {f.name: getattr(base, f.name) for f in dataclasses.fields(owner)}
    if base is not None and start.get("edge_dtype") == _default_edge(start):
        start.pop("edge_dtype", None)  # activation_bits decided it, and decides it again
    options = {**start, **given}
    if missing := [
        f.name for f in dataclasses.fields(owner) if f.name not in options and f.default is dataclasses.MISSING
    ]:
        raise ValueError(f"{name} lacks {', '.join(missing)}; add it.")
    return owner(**options)


def _default_edge(quantize: Mapping[str, Any]) -> str | None:
    return Quantize(activation_bits=quantize["activation_bits"]).edge_dtype if "activation_bits" in quantize else None


def parse_rules(values: object) -> tuple[Rule, ...]:
    """The rules in a list of plain values. Raises ValueError for an unknown option, or where a pattern is missing."""
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"rules is {short(values)}; give a list, e.g. [{{'pattern': 'logits', 'keep_float': True}}].")
    rules = []
    for at, value in enumerate(values):
        options = dict(require_mapping(f"rule {at + 1}", value))
        require_known(f"rule {at + 1}", options, Rule)
        if "pattern" not in options:
            raise ValueError(f"rule {at + 1} has no 'pattern'; give the name or the type of its layers.")
        rules.append(Rule(options.pop("pattern"), **options))
    return tuple(rules)
