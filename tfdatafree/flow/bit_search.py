"""Bits of each layer's weights for a file of a given size: what each layer costs the results, and the best choice of all.

    every layer rounded to 4 bits, biases corrected -> the harm of each alone -> the widths that fit and harm least

Layers are measured one at a time on generated inputs (`measuring/damage.py`); 8 bits do the harm of 4 times the square of
their step, because rounding noise goes with it. The sum of these squares foretells the squared error of any choice
(`bit_choice.py` finds the best one); on MobileNetV1-0.25 it ranks random choices by their error on real images with a
Spearman correlation of 0.99, which running each of them on the same generated inputs does not (0.97).
"""

import dataclasses
import glob
import math
from dataclasses import dataclass

import numpy as np

from tfdatafree.errors import ExportError
from tfdatafree.export.build import storage
from tfdatafree.measuring.damage import single_layer_damages
from tfdatafree.measuring.observe import Observed
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import Network
from tfdatafree.model.rule_match import apply_rules
from tfdatafree.numerics.range import Range
from tfdatafree.quantization.bias import correct_biases
from tfdatafree.quantization.bit_choice import Policy, choose_bits, smallest, total
from tfdatafree.quantization.decision import Decision
from tfdatafree.quantization.quantize import round_weights
from tfdatafree.recipe.quantize import Quantize
from tfdatafree.recipe.recipe import Recipe, Search
from tfdatafree.recipe.rules import LayerRules, Rule

WIDE, NARROW = 8, 4
# A buffer starts at a multiple of 16 bytes, so that one twice as long may take up to 15 bytes more than that; and a file that
# uses two versions of an operator names both.
_PER_LAYER, _PER_FILE = 16, 256


@dataclass(frozen=True, kw_only=True)
class Bits:
    """How many bits everything gets.

    Attributes:
        options: How to quantize.
        rules: What single layers get instead.
        policy: What a search found; None where nothing was searched.
        replay: The recipe that makes the same file without a search.
    """

    options: Quantize
    rules: LayerRules
    policy: Policy | None
    replay: Recipe


def find_bits(network: Network, recipe: Recipe, asked: Recipe, observed: Observed, inputs: list[np.ndarray]) -> Bits:
    """The bits that the policy of `recipe` finds.

    Args:
        recipe: As it is carried out; `asked` as the user gave it.
        observed: What was seen of the tensors without data.
        inputs: Generated (or given) inputs.

    Raises:
        ValueError: The size cannot be reached; says the smallest that can.
    """
    options = packed_unless_told(recipe.quantize)
    policy = search_bits(network, observed, inputs, options, recipe.policy)
    replay = with_policy(asked, policy, network.rules, network.current, int4=options.int4)
    rules = apply_rules(replay.rules, network.source, network.reference)
    return Bits(options=options, rules=rules, policy=policy, replay=replay)


def search_bits(
    network: Network, observed: Observed, inputs: list[np.ndarray], options: Quantize, search: Search
) -> Policy:
    """The widths whose file takes at most `search.size` of the 8-bit file's bytes.

    Args:
        network: A layer whose rule says its bits keeps them.
        observed: What was seen of the tensors without data.
        inputs: Generated (or given) inputs.

    Raises:
        ValueError: The size cannot be reached; says the smallest that can.
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
        # Of the file only its size matters here, and that does not depend on ranges.
        ranges={tensor: Range(s.low, s.high) for tensor, s in observed.images.items()},
        options=options,
        rules=rules,
    )
    held = storage(decision, inputs)
    budget = math.floor(search.size * held.bytes)
    if held.packed_bytes > budget:
        raise ValueError(
            f"size is {search.size:g}, but with {NARROW} bits wherever they can be had the file still takes "
            f"{held.packed_bytes:,} of the {held.bytes:,} bytes that it takes with {WIDE} bits everywhere; choose at least "
            f"{math.ceil(1000 * held.packed_bytes / held.bytes) / 1000:g}."
        )
    ruled = rules.setting("weight_bits")
    sizes = {
        key: {WIDE: count + _PER_LAYER, NARROW: -(-count // 2)}
        for key, count in held.weights.items()
        if key in held.packed and key not in ruled
    }
    damages = single_layer_damages(current, graph, list(sizes), [array[: search.images] for array in inputs])
    finer = ((2 ** (NARROW - 1) - 1) / (2 ** (WIDE - 1) - 1)) ** 2
    harm = {key: {NARROW: damages[key], WIDE: damages[key] * finer} for key in sizes}
    if budget >= held.bytes:
        bits = dict.fromkeys(sizes, WIDE)
    else:
        left = smallest(sizes) + budget - held.packed_bytes - _PER_FILE
        bits = choose_bits(sizes, harm, max(left, smallest(sizes)))
    layers = {key: bits.get(key, ruled.get(key, WIDE)) for key in held.weights}
    return Policy(
        size=search.size,
        int8_bytes=held.bytes,
        budget=budget,
        int8_weight_bytes=sum(held.weights.values()),
        weight_bytes=sum(-(-count * layers[key] // 8) for key, count in held.weights.items()),
        layers=layers,
        damages=damages,
        error=math.sqrt(total(harm, bits)),
    )


def packed_unless_told(options: Quantize) -> Quantize:
    """`options` with 4-bit weights two to a byte, unless the user or her target wants a byte for each."""
    return dataclasses.replace(options, int4=True) if options.int4 is None else options


def with_policy(recipe: Recipe, policy: Policy, rules: LayerRules, graph: Graph, *, int4: bool | None = None) -> Recipe:
    """The recipe that needs no search to do the same: rules say the bits of each layer.

    A layer that has a rule already gets a copy of it with its bits, right before it; the others' rules follow at the end.

    Args:
        rules: What the recipe's own rules mean for the layers of `graph`.
        int4: How the file stores 4-bit weights.
    """
    ruled = rules.setting("weight_bits")
    classes = {layer.class_name for layer in graph.layers.values()}
    narrow = {key for key, bits in policy.layers.items() if bits == NARROW and key not in ruled}
    added: dict[Rule | None, list[Rule]] = {}
    # A pattern is held against types, too, and against the names of what a layer was made from: "conv" fits what became of
    # conv besides. So those that fit more come later, and where they are about other layers these say that they stay wide.
    for key in sorted(policy.damages, key=lambda name: (name in classes, -len(name))):
        own = rules.of.get(key)
        fits = any(key.startswith(f"{other}_") for other in narrow) or bool(narrow & classes)
        if key in narrow or fits or own is not None:
            bits = {"weight_bits": policy.layers[key]}
            added.setdefault(own, []).append(Rule(glob.escape(key), **((own.settings if own else {}) | bits)))
    ordered: list[Rule] = []
    for rule in recipe.rules:
        copies = added.pop(rule, ())
        followers = {key for key, own in rules.of.items() if own is rule}
        ordered += copies if followers and followers <= policy.damages.keys() else (*copies, rule)
    quantize = dataclasses.replace(recipe.quantize, int4=recipe.quantize.int4 if int4 is None else int4)
    return dataclasses.replace(recipe, policy=None, quantize=quantize, rules=(*ordered, *added.pop(None, ())))


def require_size(content: bytes, policy: Policy) -> None:
    """Raises ExportError for a file that takes more than the policy's budget."""
    if len(content) > policy.budget:
        raise ExportError(
            f"the file takes {len(content):,} bytes, more than the {policy.budget:,} that were asked for; "
            "please report the model."
        )
