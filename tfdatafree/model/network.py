"""A model on its way through the flow: what it was, what it is now, and what was done to it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.recipe.rules import NO_RULES, LayerRules


@dataclass(frozen=True)
class InputRange:
    """Ends of the real inputs' range, and where they are from."""

    low: float
    high: float
    origin: str

    @property
    def ends(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What pruning did.

    Attributes:
        method: The method taken; "obs" for example where "auto" was asked for.
        sparsity: Part of the weights of all pruned kernels that is zero, or was removed with its channel.
        layers: Layer -> the same for its kernel.
        discrepancies: Candidate -> Output Discrepancy on generated images; empty where there was only one.
    """

    method: str
    sparsity: float
    layers: Mapping[str, float]
    discrepancies: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network in all the forms that later steps compare. Every step of the flow returns a new one.

    Holds for every instance: tensors of equal name in `unfolded` and `reference` hold equal values; `current` has the nodes
    and tensors of `reference`.

    Attributes:
        source: The user's model as it was read.
        unfolded: Its canonical form with the BatchNorms, whose statistics are the data.
        reference: The same with BatchNorms folded: the float network that never loses a weight or a bit.
        current: `reference` with what was done to its weights so far.
        input_range: Range of the model's inputs.
        rules: What single layers get instead.
        masks: Pruned layer -> which weights stay, bool (rows, outputs) in the order of `model.kernels.output_last`.
        scales: First layer of those that write the same channels -> (channels,) what these were multiplied by.
        pruning: What pruning did; None where nothing was pruned.
        notes: Layer or tensor -> what was done to it.
        reasons: Layer -> why something was not done to it.
    """

    source: Graph
    unfolded: Graph
    reference: Graph
    current: Graph
    input_range: InputRange
    rules: LayerRules = NO_RULES
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    pruning: Pruning | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def logged(self, *, notes: Mapping[str, str] | None = None, reasons: Mapping[str, str] | None = None) -> "Network":
        """The same network with more in its log."""
        return dataclasses.replace(
            self, notes={**self.notes, **(notes or {})}, reasons={**self.reasons, **(reasons or {})}
        )
