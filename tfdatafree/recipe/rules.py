"""Rules: settings for single layers in place of those that the recipe gives to all layers.

    rules=(Rule("logits", keep_float=True), Rule("block_1*", weight_bits=4), Rule("Dense", activation_bits=16))

A layer matches the pattern of a rule by its name in the Keras model ("block_1_expand") or by its type ("Conv2D"). The first
rule that matches a layer decides for it alone, so an exception stands before the rule that it is an exception from. A
rule that no layer matches is an error: otherwise nobody would find a typing mistake that changes nothing. A rule whose layers
all follow earlier rules is reported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from tfdatafree.recipe.check import is_number, nearest, suggestion

WEIGHT_BITS = (4, 5, 6, 7, 8)
ACTIVATION_BITS = (8, 16)
# Number of names that an error lists; it only counts the others.
_LISTED = 6


@dataclass(frozen=True)
class Rule:
    """Settings for the layers that match `pattern`. A setting that is left out is that of the recipe.

    Attributes:
        pattern: Name or type of layers, as in a shell: * for any text, ? for any character, [ab] for a or b. Upper and lower
            case differ. "block_1*", "Conv2D", "*Dense*".
        weight_bits: Bits of the kernel, 4 to 8.
        activation_bits: Bits of the tensors that the layer writes, 8 or 16. The operators that write or read a 16-bit tensor
            compute in int16x8. In a recipe of 8 bits such a tensor gets twice the range, so that it hardly clips.
        keep_float: Compute these layers in float32, between DEQUANTIZE and QUANTIZE.
        sparsity: Part of the layer's weights that pruning makes zero. The other layers share the rest of `Prune.sparsity`.
            0 keeps all weights of the layer.
    """

    pattern: str
    _: KW_ONLY
    weight_bits: int | None = None
    activation_bits: int | None = None
    keep_float: bool = False
    sparsity: float | None = None

    def __post_init__(self):
        if not isinstance(self.pattern, str) or not self.pattern:
            raise ValueError(
                f"pattern is {self.pattern!r}; give the name or type of layers, with * for any text, e.g. 'block_1*'."
            )
        self._choose("weight_bits", (None, *WEIGHT_BITS))
        self._choose("activation_bits", (None, *ACTIVATION_BITS))
        self._choose("keep_float", (False, True))
        if self.sparsity is not None and not (is_number(self.sparsity) and 0 <= self.sparsity < 1):
            raise ValueError(
                f"sparsity of rule {self.pattern!r} is {self.sparsity!r}; give the part of zeros, at least 0 and less "
                "than 1."
            )
        for name in ("weight_bits", "activation_bits"):
            if self.keep_float and getattr(self, name) is not None:
                raise ValueError(
                    f"rule {self.pattern!r} has both keep_float=True and {name}={getattr(self, name)}, but a layer in float "
                    "has no integers; leave one of them out."
                )

    def _choose(self, name: str, choices: tuple) -> None:
        value = getattr(self, name)
        if value not in choices or isinstance(value, bool) != isinstance(choices[0], bool):
            listed = ", ".join(repr(choice) for choice in choices)
            raise ValueError(f"{name} of rule {self.pattern!r} is {value!r}; choose one of {listed}.")

    def matches(self, names: Iterable[str]) -> bool:
        """Whether one of `names` matches the pattern."""
        return any(fnmatchcase(name, self.pattern) for name in names)

    @property
    def settings(self) -> dict[str, Any]:
        """Field -> value of what the rule sets; {} for a rule that only exempts layers from later rules."""
        return {
            f.name: value for f in fields(self) if f.name != "pattern" and (value := getattr(self, f.name)) != f.default
        }


@dataclass(frozen=True)
class LayerRules:
    """The rules of a recipe, matched to the layers of a model.

    Attributes:
        rules: All rules in order.
        of: Layer -> its rule, the first that matched.
        shadowed: Pattern -> layers that match it, for rules whose layers all follow earlier rules.
    """

    rules: tuple[Rule, ...] = ()
    of: Mapping[str, Rule] = field(default_factory=dict)
    shadowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def first(self, layers: Iterable[str]) -> Rule | None:
        """The rule of an operator that computes several layers: the first of their rules."""
        found = [self.of[layer] for layer in layers if layer in self.of]
        return min(found, key=self.rules.index, default=None)

    def setting(self, name: str) -> dict[str, Any]:
        """Layer -> value of the field `name`, for the layers whose rule sets it."""
        return {layer: rule.settings[name] for layer, rule in self.of.items() if name in rule.settings}


NO_RULES = LayerRules()


def match_rules(
    rules: Sequence[Rule], layers: Mapping[str, Sequence[str]], merged: Mapping[str, Sequence[str]] | None = None
) -> LayerRules:
    """The rule that each layer follows.

    Args:
        layers: Layer -> its name and type, one of which must match.
        merged: The same for layers that no longer exist, as a folded BatchNorm. A rule that only these match has no effect,
            and the error says so.

    Raises:
        ValueError: A rule matches no layer; suggests similar names.
    """
    found: dict[str, Rule] = {}
    shadowed: dict[str, tuple[str, ...]] = {}
    for rule in rules:
        matched = [layer for layer, names in layers.items() if rule.matches(names)]
        if not matched:
            raise ValueError(_unmatched(rule, layers, merged or {}))
        if all(layer in found for layer in matched):
            shadowed[rule.pattern] = tuple(matched)
        for layer in matched:
            found.setdefault(layer, rule)
    return LayerRules(tuple(rules), found, shadowed)


def listed(names: Sequence[str]) -> str:
    """The first few names, and the number of the others."""
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def _unmatched(rule: Rule, layers: Mapping[str, Sequence[str]], merged: Mapping[str, Sequence[str]]) -> str:
    gone = [layer for layer, names in merged.items() if rule.matches(names)]
    if gone:
        return (
            f"rule {rule.pattern!r} matches only {listed(gone)}, which no operator computes by itself: it is merged into "
            "another layer, or does nothing at inference; name the layer next to it."
        )
    known = list(dict.fromkeys(name for names in (*layers.values(), *merged.values()) for name in names))
    bare = rule.pattern.strip("*?").lower()
    near = nearest(bare, known, most=3, cutoff=0.5) or [name for name in known if bare and bare in name.lower()][:3]
    hint = suggestion(near) or f"its layers are {listed(list(layers))}."
    return f"no layer of the model has a name or type that rule {rule.pattern!r} matches; {hint}"
