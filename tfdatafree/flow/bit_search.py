"""Searches the bits of each layer's weights, so that the file has a given size and the results change least.

    round every layer to 4 bits, correct biases -> measure the damage of each alone -> choose the widths

Layers are measured one at a time on generated inputs (`measuring/damage.py`). Rounding noise is proportional to the square
of the scale, so the squared damage of 8 bits follows from that of 4 bits:

    d(8) = d(4) * ((2^3 - 1) / (2^7 - 1))^2

A KL divergence of results is quadratic in their error, too, so that the same law holds for `Search(harm="divergence")`.

The sum of the layers' squared damages predicts the squared error of any choice, and `bit_choice.py` finds the best choice.
On MobileNetV1-0.25 this sum ranks random choices by their error on real images with a Spearman correlation of 0.99. Running
each choice on the same generated inputs ranks them less well (0.97).
"""

import dataclasses
import glob
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.build import measure_storage
from tfdatafree.flow.about import made_with
from tfdatafree.measuring.damage import single_layer_damages, single_layer_divergences
from tfdatafree.measuring.observe import Observed
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import Network
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.bias import correct_biases
from tfdatafree.quantization.bit_choice import Policy, choose_bits, smallest, total
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.kernel_bits import kernel_bits
from tfdatafree.quantization.quantize import round_weights
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Recipe, Search
from tfdatafree.recipe.rules import LayerRules, Rule
from tfdatafree.recipe.size import is_part
from tfdatafree.tflite.metadata import About

WIDE, NARROW = 8, 4
# Buffers start at multiples of 16 bytes, so a buffer of twice the length may take up to 15 bytes more than twice the space.
# A file that uses two versions of an operator names both.
_PER_LAYER, _PER_FILE = 16, 256


@dataclass(frozen=True, kw_only=True)
class Bits:
    """The options and rules that decide how many bits everything gets.

    Attributes:
        options: How to quantize.
        rules: Options of single layers.
        policy: What a search found; None without a search.
        replay: The recipe that makes the same file without a search.
    """

    options: Quantize
    rules: LayerRules
    policy: Policy | None
    replay: Recipe


def find_bits(
    network: Network, recipe: Recipe, user_recipe: Recipe, observed: Observed, inputs: list[np.ndarray]
) -> Bits:
    """Searches the bits as the policy of `recipe` says.

    Args:
        recipe: The recipe with the options that the target decides; `user_recipe` is without them.
        observed: Statistics of the tensors.
        inputs: Generated (or given) inputs.

    Raises:
        ValueError: The size cannot be reached; says the smallest possible one.
    """
    assert recipe.policy is not None, "choose_bits() calls this for recipes with a policy"
    options = pack_by_default(recipe.quantization)
    policy = search_bits(network, observed, inputs, options, recipe.policy, user_recipe)
    replay = with_policy(user_recipe, policy, network.rules, network.current, int4=options.int4)
    rules = apply_rules(replay.rules, network.source, network.reference)
    return Bits(options=options, rules=rules, policy=policy, replay=replay)


def search_bits(
    network: Network,
    observed: Observed,
    inputs: list[np.ndarray],
    options: Quantize,
    search: Search,
    user_recipe: Recipe,
) -> Policy:
    """Searches the widths whose file takes at most `search.size`, a part of the 8-bit file's bytes or a number of bytes.

    Args:
        network: Its rules may set the bits of single layers, which are then not searched.
        observed: Statistics of the tensors.
        inputs: Generated (or given) inputs.
        user_recipe: The recipe that the user passed. Both files name the recipes that make them.

    Raises:
        ValueError: The size cannot be reached; says the smallest possible one.
    """
    current, rules = network.current, network.rules
    rounded = round_weights(network, observed, dataclasses.replace(options, weight_bits=NARROW))
    graph = rounded.graph
    if options.bias_correction:
        graph, _ = correct_biases(graph, current, observed.means)
    decision = Decision(
        graph=graph,
        reference=network.reference,
        kernels=rounded.kernels,
        # Only the file's size matters here, and it does not depend on ranges.
        ranges={tensor: Range(s.low, s.high) for tensor, s in observed.images.items()},
        options=options,
        rules=rules,
        about=made_with(network, dataclasses.replace(user_recipe, policy=None)),
    )
    storage = measure_storage(decision, inputs, packed_about=_about_all_narrow(network, user_recipe, decision))
    budget = math.floor(search.size * storage.bytes) if is_part(search.size) else int(search.size)
    if storage.packed_bytes > budget:
        smallest_part = f"{math.ceil(1000 * storage.packed_bytes / storage.bytes) / 1000:g}"
        given, least = (
            (f"{search.size:g}", smallest_part)
            if is_part(search.size)
            else (f"{budget:,} bytes", f"{storage.packed_bytes:,} bytes")
        )
        raise ValueError(
            f"size is {given}, but with {NARROW} bits wherever possible the file still takes "
            f"{storage.packed_bytes:,} of the {storage.bytes:,} bytes that it takes with {WIDE} bits everywhere; choose at "
            f"least {least}."
        )
    decided = kernel_bits(current, options, rules.setting("weight_bits"))
    sizes = {
        key: {WIDE: count + _PER_LAYER, NARROW: -(-count // 2) + _rule_bytes(key, storage.weights, rules)}
        for key, count in storage.weights.items()
        if key in storage.packed and key not in decided
    }
    measured = single_layer_divergences if search.harm == "divergence" else single_layer_damages
    narrow_damages = measured(current, graph, list(sizes), [array[: search.images] for array in inputs])
    wide_part = ((2 ** (NARROW - 1) - 1) / (2 ** (WIDE - 1) - 1)) ** 2
    damages = {key: {NARROW: narrow_damages[key], WIDE: narrow_damages[key] * wide_part} for key in sizes}
    if budget >= storage.bytes:
        bits = dict.fromkeys(sizes, WIDE)
    else:
        weight_budget = smallest(sizes) + budget - storage.packed_bytes - _PER_FILE
        bits = choose_bits(sizes, damages, max(weight_budget, smallest(sizes)))
    layers = {key: bits.get(key, decided.get(key, WIDE)) for key in storage.weights}
    return Policy(
        size=search.size,
        int8_bytes=storage.bytes,
        budget=budget,
        int8_weight_bytes=sum(storage.weights.values()),
        weight_bytes=sum(-(-count * layers[key] // 8) for key, count in storage.weights.items()),
        layers=layers,
        damages=narrow_damages,
        error=math.sqrt(total(damages, bits)),
    )


def _rule_bytes(key: str, layers: Iterable[str], rules: LayerRules) -> int:
    """Bytes of the file that say that a layer has the fewest bits; 0 where it may say as much of another choice."""
    if key in rules.of or any(key != other and key.startswith(f"{other}_") for other in layers):
        return 0
    return len(json.dumps({"pattern": glob.escape(key), "weight_bits": NARROW}, separators=(",", ":")))


def _about_all_narrow(network: Network, user_recipe: Recipe, decision: Decision) -> About | None:
    """What a file says whose layers all have the fewest bits, a rule each: no choice says more."""
    narrow = dict.fromkeys(decision.kernels, NARROW)
    policy = Policy(
        size=0,
        int8_bytes=0,
        budget=0,
        int8_weight_bytes=0,
        weight_bytes=0,
        layers=narrow,
        damages=dict.fromkeys(narrow, 0.0),
        error=0,
    )
    rules, int4 = network.rules, decision.options.int4
    return made_with(network, with_policy(user_recipe, policy, rules, network.current, int4=int4))


def pack_by_default(options: Quantize) -> Quantize:
    """`options` that store two 4-bit weights per byte, unless the user or the target decided how to store them."""
    return dataclasses.replace(options, int4=True) if options.int4 is None else options


def with_policy(recipe: Recipe, policy: Policy, rules: LayerRules, graph: Graph, *, int4: bool | None = None) -> Recipe:
    """The recipe that gives the same bits without a search: its rules say the bits of each layer.

    If a rule of `recipe` is about a layer, a copy of it with the layer's bits comes right before it. Rules for other layers
    come at the end.

    Args:
        rules: The recipe's own rules for the layers of `graph`.
        int4: Whether the file stores two 4-bit weights per byte.
    """
    bits_by_rule = rules.setting("weight_bits")
    classes = {layer.class_name for layer in graph.layers.values()}
    narrow = {key for key, bits in policy.layers.items() if bits == NARROW and key not in bits_by_rule}
    added: dict[Rule | None, list[Rule]] = {}
    # A pattern also matches types, and the name of the user's layer from which a layer was made: "conv" matches "conv_x" as
    # well, if that was made from "conv". So patterns that match more layers come later. A wide layer that such a pattern would
    # match gets a rule of its own before it.
    for key in sorted(policy.damages, key=lambda name: (name in classes, -len(name))):
        own = rules.of.get(key)
        matched = any(key.startswith(f"{other}_") for other in narrow) or bool(narrow & classes)
        if key in narrow or matched or own is not None:
            bits = {"weight_bits": policy.layers[key]}
            added.setdefault(own, []).append(Rule(glob.escape(key), **((own.settings if own else {}) | bits)))
    ordered: list[Rule] = []
    for rule in recipe.rules:
        copies = added.pop(rule, ())
        followers = {key for key, own in rules.of.items() if own is rule}
        ordered += copies if followers and followers <= policy.damages.keys() else (*copies, rule)
    options = recipe.quantization
    quantize = dataclasses.replace(options, int4=options.int4 if int4 is None else int4)
    return dataclasses.replace(recipe, policy=None, quantize=quantize, rules=(*ordered, *added.pop(None, ())))


def require_size(content: bytes, policy: Policy) -> None:
    """Raises ExportError for a file that takes more than the policy's budget."""
    if len(content) > policy.budget:
        raise ExportError(
            f"the file takes {len(content):,} bytes, more than the {policy.budget:,} of the requested size; "
            "please report the model."
        )
