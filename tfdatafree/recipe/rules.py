"""Per-layer control: what single layers get instead of what the recipe gives to all.

    rules=(Rule("logits", keep_float=True), Rule("block_1*", weight_bits=4), Rule("Dense", activation_bits=16))

A rule's pattern is held against each layer's names: its own in the Keras model ("block_1_expand") and its type's ("Conv2D").
The first rule that matches a layer decides for it, and no later one is asked, so that an exception stands before what it
is an exception from. A rule that no layer matches is an error, because a typing mistake that changes nothing would never
be found; one whose layers all follow earlier rules is reported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from tfdatafree.recipe.check import is_number, nearest, suggestion

WEIGHT_BITS = (4, 5, 6, 7, 8)
ACTIVATION_BITS = (8, 16)
# Names that an error lists before it only counts the others.
_LISTED = 6


@dataclass(frozen=True)
class Rule:
    """What the layers that `pattern` matches get; what is left out stays as the recipe has it.

    Attributes:
        pattern: As in a shell, * for any text, ? for any character, [ab] for one of these; upper and lower case differ.
            It is held against the layer's name and against its type: "block_1*", "Conv2D", "*Dense*".
        weight_bits: Bits of the kernel, 4 to 8.
        activation_bits: 8 or 16, of the tensors that the layer writes. The operators that write or read a tensor of 16 bits
            compute in int16x8. Such a tensor in a recipe of 8 bits gets twice the range and hardly clips.
        keep_float: Compute these layers in float32, between DEQUANTIZE and QUANTIZE.
        sparsity: Part of the layer's weights that pruning makes zero; the other layers share what is left of
            `Prune.sparsity`. 0 keeps the layer dense.
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
                f"pattern is {self.pattern!r}; give a layer's name or type, with * for any text, e.g. 'block_1*'."
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
                    f"rule {self.pattern!r} has both keep_float=True and {name}={getattr(self, name)}: what stays in "
                    "float has no integers; leave one of them out."
                )

    def _choose(self, name: str, choices: tuple) -> None:
        value = getattr(self, name)
        if value not in choices or isinstance(value, bool) != isinstance(choices[0], bool):
            listed = ", ".join(repr(choice) for choice in choices)
            raise ValueError(f"{name} of rule {self.pattern!r} is {value!r}; choose one of {listed}.")

    def matches(self, names: Iterable[str]) -> bool:
        """Whether the pattern fits one of `names`."""
        return any(fnmatchcase(name, self.pattern) for name in names)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rule sets, by field; {} for a rule that only exempts layers from later ones."""
        return {
            f.name: value for f in fields(self) if f.name != "pattern" and (value := getattr(self, f.name)) != f.default
        }


@dataclass(frozen=True)
class LayerRules:
    """The rule of each layer that has one.

    Attributes:
        rules: In their order.
        of: Layer -> its rule, the first that matched.
        shadowed: Pattern -> layers it matches, for rules all of whose layers follow earlier ones.
    """

    rules: tuple[Rule, ...] = ()
    of: Mapping[str, Rule] = field(default_factory=dict)
    shadowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def first(self, layers: Iterable[str]) -> Rule | None:
        """The rule of what computes several layers at once: of theirs, the one that stands first."""
        found = [self.of[layer] for layer in layers if layer in self.of]
        return min(found, key=self.rules.index, default=None)

    def setting(self, name: str) -> dict[str, Any]:
        """{layer: value} of the field `name`, for the layers whose rule sets it."""
        return {layer: rule.settings[name] for layer, rule in self.of.items() if name in rule.settings}


NO_RULES = LayerRules()


def match_rules(
    rules: Sequence[Rule], layers: Mapping[str, Sequence[str]], merged: Mapping[str, Sequence[str]] | None = None
) -> LayerRules:
    """Which layer follows which rule.

    Args:
        layers: Layer -> names that it answers to.
        merged: The same for layers that are gone (a BatchNorm that was folded): a rule that only they match has nothing to
            act on, and the error says so.

    Raises:
        ValueError: A rule matches no layer; names the nearest.
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
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def _unmatched(rule: Rule, layers: Mapping[str, Sequence[str]], merged: Mapping[str, Sequence[str]]) -> str:
    gone = [layer for layer, names in merged.items() if rule.matches(names)]
    if gone:
        return (
            f"rule {rule.pattern!r} matches only {listed(gone)}, which no operator computes by itself: it is merged into "
            "other layers or does nothing at inference; name the layer beside it."
        )
    known = list(dict.fromkeys(name for names in (*layers.values(), *merged.values()) for name in names))
    bare = rule.pattern.strip("*?").lower()
    near = nearest(bare, known, most=3, cutoff=0.5) or [name for name in known if bare and bare in name.lower()][:3]
    hint = suggestion(near) or f"its layers are {listed(list(layers))}."
    return f"no layer of the model has a name or type that rule {rule.pattern!r} matches; {hint}"
