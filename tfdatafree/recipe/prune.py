"""Options of pruning."""

from dataclasses import dataclass
from typing import Literal, get_args

from tfdatafree.recipe.check import is_number, require_choice
from tfdatafree.recipe.pattern import parse_pattern

PruneMethod = Literal[
    "auto", "obs", "str", "energy", "global", "global_unfolded", "uniform", "erk", "erk_lwdf", "budget", "channel"
]  # fmt: skip


PRUNE_METHODS: tuple[str, ...] = get_args(PruneMethod)
_PATTERNED = ("auto", "obs", "energy", "global", "global_unfolded")


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Zeros in the kernels of convolution and dense layers. Give either `sparsity` or `strength`.

    Attributes:
        sparsity: Part of all these weights that becomes zero, in [0, 1); met exactly over the whole network.
        strength: Weight decay of the learned thresholds (Horton et al. 2021: 1.55e-5); the sparsity is what comes out.
            For the methods "str" and "budget" only.
        method: "obs": supports and weights that least change each layer's output, by the covariance of generated
            inputs; as many per layer as cost the model's results least when it alone is pruned, measured on generated
            images. "str": soft thresholds trained per layer (Horton et al. 2021, eq. 15-16), as many as for "obs".
            "energy": the weights that carry least of their layer's output variance. "global": the smallest folded
            weights; "global_unfolded": before BatchNorm is folded. "uniform": the smallest, the same part of each
            layer. "erk": the same, wide layers more (Evci et al. 2020); "erk_lwdf": by Horton et al. 2021, eq. 17.
            "budget": as many per layer as "str" would, the smallest. "auto" makes "obs", "energy", "global",
            "global_unfolded", "uniform" and "erk" (in a pattern "obs" and "energy") and takes the one whose outputs on
            generated inputs differ least. "channel" makes no zeros: whole channels are taken out of the model, `sparsity`
            of these weights and the depthwise ones, as nearly as channels allow.
        pattern: Where zeros may lie. None: anywhere. "2:4": of every 4 weights along the input channels of an output 2 stay,
            and the like; it decides the sparsity. "4x1": blocks of 4 input channels by 1 output go or stay, and the like
            ("16x1" is what TFLite calls 1x16). For "auto", "obs", "energy", "global" and "global_unfolded".
        multiple: For "channel": layers keep a multiple of so many channels, as NPUs like them, or all.
        correct: Take the mean shift that pruning causes out of the biases.
        refit: Least-squares repair of the weights that stay; None leaves it to the method ("obs" does it, and "str" unless
            a strength is given).
        restore: Scale each output channel such that its variance is that of the float layer.
        inputs: What the layers are thought to see. "normalized": generated images with every BatchNorm's statistics put
            right; "gaussian": independent normal samples from BatchNorm statistics; "standard": N(0, 1).
        activations: Pass "gaussian" inputs through the activations before a layer; the paper leaves them out.
        images: Generated images for "normalized".
        depthwise: Prune depthwise kernels, too. They hold few weights, and miss each of them.
    """

    sparsity: float | None = None
    strength: float | None = None
    method: PruneMethod = "auto"
    pattern: str | None = None
    multiple: int = 1
    correct: bool = True
    refit: bool | None = None
    restore: bool = True
    inputs: Literal["normalized", "gaussian", "standard"] = "normalized"
    activations: bool = True
    images: int = 256
    depthwise: bool = False

    def __post_init__(self):
        require_choice(self, "method", PRUNE_METHODS)
        require_choice(self, "correct", (True, False))
        require_choice(self, "refit", (None, True, False))
        require_choice(self, "restore", (True, False))
        require_choice(self, "inputs", ("normalized", "gaussian", "standard"))
        require_choice(self, "activations", (True, False))
        require_choice(self, "depthwise", (True, False))
        self._check_pattern()
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple!r}; give a whole number of at least 1.")
        if self.multiple > 1 and self.method != "channel":
            raise ValueError(f"multiple is for the method 'channel', not {self.method!r}.")
        if (self.sparsity is None) == (self.strength is None):
            came = "neither" if self.sparsity is None else "both"
            raise ValueError(f"{came} of sparsity and strength came; give one: sparsity=0.5, or strength=1.55e-5.")
        if self.sparsity is not None and not (is_number(self.sparsity) and 0 <= self.sparsity < 1):
            raise ValueError(f"sparsity is {self.sparsity!r}; give the part of zeros, at least 0 and less than 1.")
        if self.strength is not None:
            if not (is_number(self.strength) and 0 < self.strength < float("inf")):
                raise ValueError(f"strength is {self.strength!r}; give a positive number, e.g. 1.55e-5.")
            if self.method == "auto":
                object.__setattr__(self, "method", "str")
            if self.method not in ("str", "budget"):
                raise ValueError(f"strength is for the methods 'str' and 'budget', not {self.method!r}; give sparsity.")
        if not isinstance(self.images, int) or self.images < 1:
            raise ValueError(f"images is {self.images!r}; give a whole number of at least 1.")

    def _check_pattern(self) -> None:
        if self.pattern is None:
            return
        pattern = parse_pattern(self.pattern)
        if self.method not in _PATTERNED:
            listed = ", ".join(map(repr, _PATTERNED))
            raise ValueError(
                f"pattern is {self.pattern!r}, which method {self.method!r} does not make; choose {listed}."
            )
        if pattern.sparsity is None or self.strength is not None:
            return
        if self.sparsity is None:
            object.__setattr__(self, "sparsity", pattern.sparsity)
        elif self.sparsity != pattern.sparsity:
            raise ValueError(
                f"sparsity is {self.sparsity!r}, but pattern {self.pattern!r} gives {pattern.sparsity:g}; leave one out."
            )
