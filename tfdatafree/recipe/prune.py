"""Options of pruning."""

from dataclasses import dataclass
from typing import Literal, get_args

from tfdatafree.recipe.check import is_number, require_choice, require_whole
from tfdatafree.recipe.pattern import parse_pattern

PruneMethod = Literal[
    "auto", "obs", "str", "energy", "global", "global_unfolded", "uniform", "erk", "erk_lwdf", "budget", "channel"
]  # fmt: skip


PRUNE_METHODS: tuple[str, ...] = get_args(PruneMethod)
_PATTERNED = ("auto", "obs", "energy", "global", "global_unfolded")


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Zeros in the kernels of convolution and dense layers. Give either `sparsity` or `strength`.

    Some options and choices exist to reproduce published methods and their ablations. Their descriptions say "For reproducing
    papers only", and the options stand last.

    Attributes:
        sparsity: Part of all these weights that becomes zero, in [0, 1). The network as a whole has exactly this sparsity.
            "auto": the largest multiple of 0.02, found by bisection, at which the pruned network keeps 95 % of its decisions
            on generated (or given) inputs. Results that are no classes keep an SQNR of 16 dB, without their mean.
        method: How zeros are chosen. "auto": prunes by "obs", "energy", "global", "global_unfolded", "uniform" and "erk", or in
            a pattern by "obs" and "energy". It takes the result whose outputs on generated inputs differ least.
            "obs": chooses zeros, and refits the other weights, so that each layer's output changes least, by the covariance
            of generated inputs. The sparsity of each layer is what harms the model's outputs least, measured on generated
            images with one layer pruned at a time.
            "str": trains a soft threshold per layer (Horton et al. 2021, eq. 15-16), with the sparsities of "obs".
            "energy": the weights that contribute least to their layer's output variance.
            "global": the smallest weights of the network after BatchNorm is folded; "global_unfolded": before that.
            "uniform": the smallest weights, the same part of each layer; "erk": more of wide layers (Evci et al. 2020).
            "channel": makes no zeros, but removes whole channels from the model. `sparsity` is then the part of these weights
            and the depthwise ones that goes, as nearly as channels allow.
            For reproducing papers only: "erk_lwdf", the sparsities of Horton et al. 2021, eq. 17; "budget", the smallest
            weights with the sparsities that "str" learns.
        pattern: Where zeros may be. None: anywhere. "2:4" and the like: of every 4 weights along the input channels of an
            output 2 stay, which decides the sparsity. "4x1" and the like: blocks of 4 input channels by 1 output stay or go
            ("16x1" is TFLite's 1x16). For "auto", "obs", "energy", "global" and "global_unfolded".
        multiple: For "channel": a layer keeps a multiple of so many channels, which suits NPUs, or it keeps all.
        correct: Correct biases for the mean shift that pruning causes.
        refit: Fit the weights that stay to the layer's output by least squares. None: as the method has it ("obs" does, and
            "str" unless a strength is given).
        restore: Scale each output channel so that its variance is that of the float layer.
        images: Number of generated images for `inputs` "normalized".
        depthwise: Prune depthwise kernels, too. They hold few weights, and each of these matters.
        inputs: Inputs of the layers that methods work with. "normalized": generated images, with the statistics at every
            BatchNorm set to the stored ones. For reproducing papers only: "gaussian", independent normal samples from
            BatchNorm statistics; "standard", N(0, 1).
        activations: For reproducing papers only. Pass "gaussian" inputs through the activations before a layer. The paper
            does not.
        strength: For reproducing papers only. Weight decay of the learned thresholds (Horton et al. 2021: 1.55e-5), which
            decides the sparsity. For "str" and "budget".
    """

    sparsity: float | Literal["auto"] | None = None
    method: PruneMethod = "auto"
    pattern: str | None = None
    multiple: int = 1
    correct: bool = True
    refit: bool | None = None
    restore: bool = True
    images: int = 256
    depthwise: bool = False
    # All choices of these but the default, or some, are for reproducing papers only.
    inputs: Literal["normalized", "gaussian", "standard"] = "normalized"
    activations: bool = True
    strength: float | None = None

    def __post_init__(self):
        require_choice(self, "method", PRUNE_METHODS)
        require_choice(self, "correct", (True, False))
        require_choice(self, "refit", (None, True, False))
        require_choice(self, "restore", (True, False))
        require_choice(self, "inputs", ("normalized", "gaussian", "standard"))
        require_choice(self, "activations", (True, False))
        require_choice(self, "depthwise", (True, False))
        self._check_pattern()
        require_whole("multiple", self.multiple, 1)
        if self.multiple > 1 and self.method != "channel":
            raise ValueError(f"multiple is for the method 'channel', not {self.method!r}.")
        if (self.sparsity is None) == (self.strength is None):
            came = "neither" if self.sparsity is None else "both"
            raise ValueError(
                f"{came} of sparsity and strength came; give one: sparsity=0.5, sparsity='auto', or strength=1.55e-5."
            )
        part = None if self.sparsity == "auto" else self.sparsity
        if part is not None and not (is_number(part) and 0 <= part < 1):
            raise ValueError(
                f"sparsity is {self.sparsity!r}; give the part of zeros, at least 0 and less than 1, or 'auto'."
            )
        if self.strength is not None:
            if not (is_number(self.strength) and 0 < self.strength < float("inf")):
                raise ValueError(f"strength is {self.strength!r}; give a positive number, e.g. 1.55e-5.")
            if self.method == "auto":
                object.__setattr__(self, "method", "str")
            if self.method not in ("str", "budget"):
                raise ValueError(f"strength is for the methods 'str' and 'budget', not {self.method!r}; give sparsity.")
        require_whole("images", self.images, 1)

    @property
    def zeros(self) -> float:
        """The sparsity, where it is known: without a strength, and after "auto" was decided."""
        assert self.sparsity is not None and self.sparsity != "auto", "there is a sparsity"
        return self.sparsity

    @property
    def is_free(self) -> bool:
        """Whether the sparsity may be any: neither a strength nor a pattern such as "2:4" decides it."""
        return self.strength is None and (self.pattern is None or parse_pattern(self.pattern).sparsity is None)

    def _check_pattern(self) -> None:
        if self.pattern is None:
            return
        pattern = parse_pattern(self.pattern)
        if self.method not in _PATTERNED:
            listed = ", ".join(map(repr, _PATTERNED))
            raise ValueError(
                f"pattern is {self.pattern!r}, which method {self.method!r} does not make; choose one of {listed}."
            )
        if pattern.sparsity is None or self.strength is not None:
            return
        if self.sparsity is None:
            object.__setattr__(self, "sparsity", pattern.sparsity)
        elif self.sparsity == "auto":
            raise ValueError(
                f"sparsity is 'auto', but pattern {self.pattern!r} decides it: {pattern.sparsity:g}; leave sparsity out, or "
                "choose blocks, e.g. '4x1'."
            )
        elif self.sparsity != pattern.sparsity:
            raise ValueError(
                f"sparsity is {self.sparsity!r}, but pattern {self.pattern!r} gives {pattern.sparsity:g}; leave one out."
            )
