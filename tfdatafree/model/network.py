"""The network that the steps of the flow pass on: all its forms, and what was done to it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tfdatafree.model.graph import Graph
from tfdatafree.numerics.fidelity import Fidelity
from tfdatafree.recipe.rules import NO_RULES, LayerRules
from tfdatafree.tflite.metadata import About

# "pictures": what `inputs/procedural.py` makes for images. "fields": smooth along all axes but the channels, not bounded, of
# varying strength. "noise": the same without any smoothness.
InputKind = Literal["pictures", "fields", "noise"]


@dataclass(frozen=True)
class InputRange:
    """Range of one of the model's real inputs, where it comes from, and the inputs that are generated in it.

    Attributes:
        low, high: The range.
        origin: Where it comes from, for the report.
        kind: Kind of the generated inputs.
        offset, scale: Generated inputs are offset + scale * z within the range, with z of that kind, mean 0 and standard
            deviation 1: (channels,) or (1,). None: they are pictures that fill the range.
        divergence: What is left between their statistics and those of the first BatchNorm, in nats; None: none tells.
        warning: What the user should know about the range; empty: nothing.
        told: Whether the user or a layer tells the range; else it is assumed.
        estimated: Whether it is assumed, or found by the statistics of a layer.
        values: Inputs that were matched to all statistics, (n, *shape): all generated ones are these. None: none were.
        too_narrow: Whether the stored statistics need inputs from far beyond the range, so that they cannot hold in it.
    """

    low: float
    high: float
    origin: str
    kind: InputKind = "pictures"
    offset: np.ndarray | None = None
    scale: np.ndarray | None = None
    divergence: float | None = None
    warning: str = ""
    told: bool = True
    values: np.ndarray | None = None
    too_narrow: bool = False
    estimated: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


# (low, high) of a range.
Ends = tuple[float, float]
# What a user says: one range for all inputs, or ranges by the names of inputs.
GivenRange = Ends | Mapping[str, Ends]
# A range per input in the order of `Graph.inputs`; or one for all.
InputRanges = tuple[InputRange, ...] | Ends


@dataclass(frozen=True)
class Mismatch:
    """How far inputs miss the statistics that a network stores.

    Attributes:
        nats: BatchNorm -> divergence of what it reads from what it stores, mean over channels. There is at least one.
    """

    nats: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the BatchNorms, in nats."""
        return float(np.mean(list(self.nats.values())))

    @property
    def worst(self) -> str:
        """The BatchNorm with the largest mismatch."""
        return max(self.nats, key=lambda name: self.nats[name])

    def __str__(self) -> str:
        return f"{self.mean:.2g} nats, worst at '{self.worst}' ({self.nats[self.worst]:.2g})"


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What pruning did.

    Attributes:
        method: The method that was used; "obs" for example where the option is "auto".
        sparsity: Fraction of the weights of all pruned kernels that is zero, or was removed with its channel.
        layers: Layer -> the same for its kernel.
        discrepancies: Candidate -> Output Discrepancy on generated images; empty where there was only one candidate.
        asked: The sparsity that was asked for, or that a search found; None where a strength decided.
        fidelity: How well the worst of the network's results stays; None if it was not compared.
        compared_on: The inputs of this comparison.
        bears: The largest sparsity found at which all results are kept; None if nothing was searched or found.
    """

    method: str
    sparsity: float
    layers: Mapping[str, float]
    discrepancies: Mapping[str, float] = field(default_factory=dict)
    asked: float | None = None
    fidelity: Fidelity | None = None
    compared_on: str = ""
    bears: float | None = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network in all the forms that later steps need. Every step of the flow returns a new one.

    Holds for every instance: tensors of the same name in `unfolded` and `reference` have the same values; `current` has the
    nodes and tensors of `reference`.

    Attributes:
        source: The user's model as it was read.
        unfolded: Its canonical form with BatchNorms, whose statistics replace data.
        reference: The same with BatchNorms folded: the float network that everything is compared with.
        current: `reference` with the changes to its weights so far.
        input_ranges: Range of each of the model's inputs, in the order of `reference.inputs`.
        mismatch: How far the generated inputs miss the BatchNorms' statistics; None without a BatchNorm, or for real inputs.
        rules: Options of single layers.
        masks: Pruned layer -> which weights stay, bool (rows, outputs) in the order of `model.kernels.output_last`.
        scales: First of the layers that write the same channels -> factors of these channels, (channels,).
        pruning: What pruning did; None where nothing was pruned.
        notes: Layer or tensor -> what was done to it.
        reasons: Layer -> why something was not done to it.
        about: What the file will say of its making; None: nothing.
    """

    source: Graph
    unfolded: Graph
    reference: Graph
    current: Graph
    input_ranges: tuple[InputRange, ...]
    mismatch: Mismatch | None = None
    rules: LayerRules = NO_RULES
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    pruning: Pruning | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    about: About | None = None

    def logged(self, *, notes: Mapping[str, str] | None = None, reasons: Mapping[str, str] | None = None) -> "Network":
        """The same network with more notes and reasons."""
        return dataclasses.replace(
            self, notes={**self.notes, **(notes or {})}, reasons={**self.reasons, **(reasons or {})}
        )
