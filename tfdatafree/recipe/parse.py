"""Options read from plain values, as recipe files and the JSON record hold them."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.rules import Rule


def require_rules(rules: object) -> tuple[Rule, ...]:
    if isinstance(rules, Rule):
        rules = (rules,)
    if not isinstance(rules, (list, tuple)) or not all(isinstance(rule, Rule) for rule in rules):
        raise ValueError(f"rules are {rules!r}; give Rule objects: rules=(Rule('block_1*', weight_bits=4),).")
    return tuple(rules)


def require_mapping(what: str, values: object) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{what} is {values!r}; give options by name, e.g. {{'base': 'int8'}}.")
    return values


def require_known(what: str, values: Iterable[str], owner: type, also: tuple[str, ...] = ()) -> None:
    """Raises ValueError for a name in `values` that is no option of `owner`."""
    names = [*also, *(field.name for field in dataclasses.fields(owner))]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(names)}."
            raise ValueError(f"{what} has no option {name!r}; {hint}")


def parse_section(name: str, owner: type, base: Any, values: object) -> Any:
    """The options `owner` of one section: those of `base` with `values` in place of some."""
    given = require_mapping(name, values)
    require_known(name, given, owner)
    start = {} if base is None else {f.name: getattr(base, f.name) for f in dataclasses.fields(owner)}
    if base is not None and start.get("edge_dtype") == _default_edge(start):
        start.pop("edge_dtype", None)  # it followed from activation_bits, and does so again
    return owner(**{**start, **given})


def _default_edge(quantize: Mapping[str, Any]) -> str | None:
    return Quantize(activation_bits=quantize["activation_bits"]).edge_dtype if "activation_bits" in quantize else None


def parse_rules(values: object) -> tuple[Rule, ...]:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"rules is {values!r}; give a list, e.g. [{{'pattern': 'logits', 'keep_float': True}}].")
    rules = []
    for at, value in enumerate(values):
        options = dict(require_mapping(f"rule {at + 1}", value))
        require_known(f"rule {at + 1}", options, Rule)
        if "pattern" not in options:
            raise ValueError(f"rule {at + 1} has no 'pattern'; give the name or type of the layers it is for.")
        rules.append(Rule(options.pop("pattern"), **options))
    return tuple(rules)
