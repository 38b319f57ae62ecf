"""Makes channels constant if an 8-bit tensor could not distinguish them from constants.

A BatchNorm with tiny gamma or variance writes channels that hardly vary: sd << the tensor's range. Folding can give them weights
up to thousands of times as large as those of their neighbours. One such channel ruins a weight grid with one step per tensor,
and its bias overflows. Where

    sd_c  <  step / 4,     step = (max_c (beta_c + 4 sd_c) - min_c (beta_c - 4 sd_c)) / 255

gamma_c becomes 0. The folded layer then has weights 0 and bias beta_c there,
so that its output moves by less than 8-bit rounding moves it. Yet later layers may read such a small channel with large weights.
`freeze_harmless_channels` therefore measures how each BatchNorm's constants change the results of the model.
"""

from collections.abc import Mapping

import numpy as np

from tfdatafree.inputs.make import make_inputs
from tfdatafree.measuring.damage import single_layer_damages
from tfdatafree.model.batchnorm import is_batchnorm, output_moments
from tfdatafree.model.graph import Graph
from tfdatafree.model.network import InputRanges
from tfdatafree.model.rewrite import Rewrite

_REACH = 4.0  # standard deviations from the mean that the range of a tensor surely covers
_STEPS = 255
_PART_OF_STEP = 0.25
# Generated inputs on which the results are compared, and the largest squared relative error that all constants together may
# cause there.
_INPUTS, _HARMLESS = 2, 1e-4


def freeze_constant_channels(graph: Graph) -> Rewrite:
    """A graph with its BatchNorms, the gamma of constant channels set to 0. A BatchNorm without gamma is left alone."""
    frozen = graph.copy()
    constant = _constant_channels(graph)
    for name, channels in constant.items():
        key = graph.node(name).layer
        layer = graph.layers[key]
        frozen.layers[key] = layer.with_weights(gamma=np.where(channels, 0, layer.required_weight("gamma")))
    return Rewrite(graph=frozen, notes={name: _note(channels) for name, channels in constant.items()})


def freeze_harmless_channels(graph: Graph, ranges: InputRanges, *, seed: int = 0) -> Rewrite:
    """`freeze_constant_channels` in those BatchNorms where the results hardly change. For the others, `kept` says why not.

    Args:
        ranges: Ranges of the generated inputs on which results are compared.
        seed: Seed of these inputs.
    """
    frozen = freeze_constant_channels(graph)
    if not frozen.notes:
        return Rewrite(graph=graph)
    keys = {name: graph.node(name).layer for name in frozen.notes}
    inputs = make_inputs(graph, _INPUTS, ranges, seed=seed)
    harmless = _harmless(single_layer_damages(graph, frozen.graph, set(keys.values()), inputs))
    result = graph.copy()
    result.layers |= {key: frozen.graph.layers[key] for key in harmless}
    return Rewrite(
        graph=result,
        notes={name: note for name, note in frozen.notes.items() if keys[name] in harmless},
        kept={
            name: _refusal(channels)
            for name, channels in _constant_channels(graph).items()
            if keys[name] not in harmless
        },
    )


def _constant_channels(graph: Graph) -> dict[str, np.ndarray]:
    """First node of a BatchNorm -> which of its channels are constant, bool (channels,), if any of these has gamma != 0."""
    constants, seen = {}, set()
    for node in graph.nodes:
        layer = graph.layer_of(node)
        gamma = layer.weight("gamma") if is_batchnorm(layer) else None
        if gamma is None or node.layer in seen:
            continue
        seen.add(node.layer)
        mean, sd = output_moments(layer)
        step = ((mean + _REACH * sd).max() - (mean - _REACH * sd).min()) / _STEPS
        constant = sd < _PART_OF_STEP * step
        if np.any(gamma[constant] != 0):
            constants[node.name] = constant
    return constants


def _harmless(damages: Mapping[str, float]) -> set[str]:
    """As many layers as may change together, those with the smallest damage first."""
    total, harmless = 0.0, set()
    for key in sorted(damages, key=damages.__getitem__):
        total += damages[key]
        if total <= _HARMLESS:
            harmless.add(key)
    return harmless


def _note(constant: np.ndarray) -> str:
    return f"{constant.sum()} channel(s) made constant: they move by less than the 8-bit grid"


def _refusal(constant: np.ndarray) -> str:
    return (
        f"{constant.sum()} channel(s) move by less than the 8-bit grid, but the results depend on them: another channel is far "
        "larger. Try equalize=True, or 16-bit activations."
    )
