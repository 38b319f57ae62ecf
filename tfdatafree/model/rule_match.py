"""Matches rules with the layers of a model: under which names each layer is known, and which rules have an effect."""

from collections.abc import Collection, Mapping, Sequence

from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.numerics.affine import Quantizer
from tfdatafree.recipe.rules import LayerRules, Rule, listed, match_rules


def apply_rules(rules: Sequence[Rule], source: Graph, folded: Graph) -> LayerRules:
    """The rule of each layer of `folded`.

    A layer of the user's model may become several: both halves of a SeparableConv2D, or a layer and its activation. Each of them
    matches the name and the type in the user's model, and its own.

    Args:
        source: The user's model as it was read.
        folded: The graph that will be compressed.

    Raises:
        ValueError: A rule matches no layer, or sets weight_bits or sparsity where there are no weights.
    """
    types = {key: layer.class_name for key, layer in source.layers.items()}
    names = {key: [key, layer.class_name] for key, layer in folded.layers.items()}
    origins = {key: _origin(key, types) for key in folded.layers}
    for key, origin in origins.items():
        if origin is not None:
            names[key] += [origin, types[origin]]
    removed = types.keys() - set(origins.values())
    matched = match_rules(rules, names, {key: [key, types[key]] for key in types if key in removed})
    for rule in matched.rules:
        for name in ("weight_bits", "sparsity"):
            layers = [layer for layer, other in matched.of.items() if other is rule]
            if layers and name in rule.settings and not any(find_layout(folded.layers[layer]) for layer in layers):
                raise ValueError(
                    f"rule {rule.pattern!r} sets {name}, but what it matches ({listed(layers)}) has no convolution or "
                    "dense kernel; name a layer that has one."
                )
    return matched


def rule_notes(
    rules: LayerRules,
    grids: Mapping[str, Quantizer] | None = None,
    outputs: Sequence[str] = (),
    edge_dtype: str | None = None,
    float_reasons: Collection[str] = (),
) -> dict[str, str]:
    """What users should know about the effect of their rules on the file.

    Args:
        grids: Tensor -> its grid, in an integer file.
        outputs: Output tensors of the model.
        edge_dtype: Type of the file's inputs and outputs.
        float_reasons: Why operators compute in float.
    """
    notes = {
        f"rule {pattern!r}": f"it changes nothing: earlier rules decide for {listed(layers)}"
        for pattern, layers in rules.shadowed.items()
    }
    for rule in rules.rules:
        if (
            rule.keep_float
            and rule in rules.of.values()
            and not any(repr(rule.pattern) in reason for reason in float_reasons)
        ):
            notes[f"rule {rule.pattern!r}"] = "nothing stays in float: these layers are no operators of the file"
    for tensor in outputs:
        if grids and tensor in grids and grids[tensor].bits == 16 and edge_dtype in ("int8", "uint8"):
            notes[tensor] = (
                f"it has 16 bits inside the file, which gives it out as {edge_dtype}; see Quantize.edge_dtype"
            )
    return notes


def _origin(key: str, types: dict[str, str]) -> str | None:
    """The layer of the user's model that `key` was made from: new layers have its name and a suffix."""
    if key in types:
        return key
    return max((name for name in types if key.startswith(f"{name}_")), key=len, default=None)
