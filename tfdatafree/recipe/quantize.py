"""Options of quantization."""

from dataclasses import dataclass
from typing import Literal, get_args

from tfdatafree.recipe.check import require_choice

RangeMethod = Literal["min_max", "search", "percentile", "k_sigma", "aciq"]
RangeSource = Literal["images", "gaussian", "standard"]
EdgeDtype = Literal["int8", "uint8", "int16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Integer weights and activations.

    Attributes:
        weight_bits: 8, or 4 to 7: a coarser grid, stored in int8.
        int4: Store 4-bit weights two to a byte (INT4 tensors): half the bytes. LiteRT on a CPU reads them, at the cost of
            unpacking them at every run; compilers for NPUs may not (Arm's Vela 5.2 crashes), and code 4-bit grids in int8
            tensors well by themselves. None: only where a `Recipe.policy` asks for a file of some size and the target
            reads them; otherwise a weight takes a byte, which runs everywhere.
        activation_bits: 8, or 16 ("int16x8": symmetric int16 activations, int64 biases). 4 to 7 are simulated only:
            no integer runtime has them, and there will be no file.
        per_channel: One weight step per output channel; False gives one per tensor, which several NPUs want.
        dense_per_channel: The same for dense layers alone; None: as `per_channel` says, unless the target wants one per
            tensor.
        symmetric_weights: Weight grids around 0, as TFLite stores them. False: from the smallest to the largest weight,
            as papers on low bit widths have it; simulated only.
        weight_ranges: What the largest weight integer stands for. "max": the largest weight; "search": what makes the
            smallest error in the layer's output, each output counting by what the next layers make of it. Below 8 bits
            error feedback begins there, and fits one step per channel to the integers that it found.
        rounding: "feedback": each weight is rounded with regard to what the others lost, by the covariance of generated
            layer inputs (GPTQ), below 8 bits once more when all are known; "adaround": up or down is learned for the layer's
            output (Nagel et al. 2020); "nearest".
        equalized_rounding: Round weights between the buffers of assumption-free equalization (Horton et al. 2021, eq. 3-9)
            and fold these back in afterwards: one step per tensor times a factor per channel. Simulated only.
        ranges: How an activation range is chosen from the samples of its tensor. "min_max"; "search", the grid search of
            Horton et al. 2021, figure 4; "percentile" (99.99); "k_sigma", six standard deviations around the channel
            means (Nagel et al. 2019); "aciq", analytic clipping (Banner et al. 2019).
        range_source: What the samples are. "images": procedural images passed through the float model;
            "gaussian": layer-wise samples from BatchNorm statistics (Horton et al. 2021, eq. 10-12); "standard": the same
            from N(0, 1), bias correction included, which shows what the statistics are worth.
        bias_correction: How the mean shift that weight rounding causes is taken back out of the biases. "analytic" (or
            True): from the means that BatchNorm statistics give each layer's input; "empirical": as seen on generated
            inputs, layer by layer behind the rounded layers before it; False: not at all.
        activation_correction: Take the mean shift that rounding and clipping activations causes out of the biases, too.
        edge_dtype: Type of the file's inputs and outputs: "int8", "uint8" or "float32"; beside 16-bit activations "int16" or
            "float32". None: the activations' own.
    """

    weight_bits: int = 8
    int4: bool | None = None
    activation_bits: int = 8
    per_channel: bool = True
    dense_per_channel: bool | None = None
    symmetric_weights: bool = True
    weight_ranges: Literal["max", "search"] = "max"
    rounding: Literal["feedback", "adaround", "nearest"] = "feedback"
    equalized_rounding: bool = False
    ranges: RangeMethod = "min_max"
    range_source: RangeSource = "images"
    bias_correction: Literal["analytic", "empirical"] | bool = "analytic"
    activation_correction: bool = False
    edge_dtype: EdgeDtype | None = None

    def __post_init__(self):
        require_choice(self, "weight_bits", (4, 5, 6, 7, 8))
        require_choice(self, "activation_bits", (4, 5, 6, 7, 8, 16))
        require_choice(self, "int4", (None, True, False))
        require_choice(self, "per_channel", (True, False))
        require_choice(self, "dense_per_channel", (None, True, False))
        require_choice(self, "symmetric_weights", (True, False))
        require_choice(self, "weight_ranges", ("max", "search"))
        require_choice(self, "rounding", ("feedback", "adaround", "nearest"))
        if self.weight_ranges == "search" and self.rounding == "nearest":
            raise ValueError(
                "weight_ranges='search' weighs errors by what layers see, which rounding='nearest' does not look at; "
                "choose rounding='feedback' or 'adaround', or weight_ranges='max'."
            )
        require_choice(self, "equalized_rounding", (True, False))
        require_choice(self, "ranges", get_args(RangeMethod))
        require_choice(self, "range_source", get_args(RangeSource))
        require_choice(self, "activation_correction", (True, False))
        if self.bias_correction is True:
            object.__setattr__(self, "bias_correction", "analytic")
        require_choice(self, "bias_correction", ("analytic", "empirical", False))
        if self.edge_dtype is None:
            object.__setattr__(self, "edge_dtype", "int8" if self.activation_bits <= 8 else "int16")
        allowed = ("int8", "uint8", "float32") if self.activation_bits <= 8 else ("int16", "float32")
        require_choice(self, "edge_dtype", allowed)

    def one_step_per_channel(self, *, dense: bool) -> bool:
        """Whether a layer's weights have one step per output channel; `dense` tells dense layers from the others."""
        return self.per_channel if not dense or self.dense_per_channel is None else self.dense_per_channel

    @property
    def simulated(self) -> str | None:
        """Why no integer file can hold this, so that it is only simulated; None where a file can."""
        if self.activation_bits not in (8, 16):
            return f"TFLite stores activations in 8 or 16 bits, not {self.activation_bits}"
        if self.equalized_rounding:
            return "TFLite has no factors per channel on either side of a kernel"
        return None if self.symmetric_weights else "TFLite stores symmetric weights only"
