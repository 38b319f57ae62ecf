"""Options of quantization."""

from dataclasses import dataclass
from typing import Literal, get_args

from tfdatafree.recipe.check import require_choice

RangeMethod = Literal["extreme_value", "min_max", "search", "percentile", "k_sigma", "aciq"]
RangeSource = Literal["images", "gaussian", "standard"]
EdgeDtype = Literal["int8", "uint8", "int16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Integer weights and activations.

    Some options and choices exist to reproduce published methods and their ablations. Their descriptions say "For reproducing
    papers only", and the options stand last.

    Attributes:
        weight_bits: Bits of a weight: 8, or 4 to 7 for a coarser grid, which is stored in int8.
        depthwise_bits: The same for the kernels of depthwise convolutions, which hold few weights and need each of them. None:
            as all others.
        first_last_bits: The same for the layers with weights that come first and last: those that read the inputs, and those
            that give the results. The larger one holds where a layer is depthwise, too. None: as all others.
        int4: Store 4-bit weights two to a byte (INT4 tensors), in half the bytes. LiteRT on a CPU reads them, but unpacks
            them at every run. Compilers for NPUs may not read them: Arm's Vela 5.2 crashes, while it codes 4-bit grids in
            int8 tensors well. None: only where a `Recipe.policy` asks for a file size and the target reads them. Otherwise a
            weight takes a byte, which runs everywhere.
        activation_bits: Bits of an activation: 8, or 16 ("int16x8": symmetric int16 activations, int64 biases). For
            reproducing papers only: 4 to 7, which no integer runtime has. They are simulated, and there is no file.
        per_channel: One weight step per output channel. False: one per tensor, as several NPUs need it. None: per channel,
            unless the target needs one step per tensor.
        dense_per_channel: The same for dense layers alone. None: as `per_channel` says, unless the target needs one step per
            tensor.
        weight_ranges: The weight that the largest integer stands for. "max": the largest weight. "search": the value with the
            smallest error in the layer's output, each output weighted by its effect on the next layers. Below 8 bits
            error feedback starts from that value, and then fits one step per channel to the integers that it found.
        rounding: "feedback": each weight is rounded so that it compensates for the errors of the weights before it, by the
            covariance of generated layer inputs (GPTQ); below 8 bits a second pass follows. "adaround": training on the
            layer's output decides between up and down (Nagel et al. 2020). "nearest": to the nearest integer.
        bias_correction: How biases are corrected for the mean shift that weight rounding causes. "analytic" (or True): from
            the means that BatchNorm statistics give for each layer's input. "empirical": from generated inputs, layer by
            layer, after the layers before it were rounded. False: not at all.
        edge_dtype: Type of the file's inputs and outputs: "int8", "uint8" or "float32"; with 16-bit activations "int16" or
            "float32". None: the type of the activations.
        split_outputs: Where an output joins branches of very different ranges, as a detector's boxes and scores, the file
            gives out the branches one by one, each on a grid of its own. The report says how to join them again.
        ranges: How the range of a tensor's integers is chosen. "extreme_value": what 256 inputs would need, by the extremes
            of each input. It also covers all that the user's own inputs show. "min_max": from the smallest to the largest value.
            "percentile": from the 0.01th to the 99.99th percentile. For reproducing papers only: "search", the grid search
            of Horton et al. 2021, figure 4; "k_sigma", six standard deviations around the channel means (Nagel et al.
            2019); "aciq", analytic clipping (Banner et al. 2019).
        range_source: The samples. "images": values of the float model on procedural images. For reproducing papers only:
            "gaussian", layer-wise samples from BatchNorm statistics (Horton et al. 2021, eq. 10-12); "standard", the same
            from N(0, 1), also for bias correction, which shows what the statistics contribute.
        activation_correction: For reproducing papers only. Correct biases also for the mean shift that rounding and clipping
            of activations cause.
        symmetric_weights: For reproducing papers only. False: weight grids from the smallest to the largest weight, in place
            of grids around 0, which are the only ones that TFLite stores. Simulated only.
        equalized_rounding: For reproducing papers only. Round weights between the buffers of assumption-free equalization
            (Horton et al. 2021, eq. 3-9), then fold the buffers in: one step per tensor times a factor per channel.
            Simulated only.
    """

    weight_bits: int = 8
    depthwise_bits: int | None = None
    first_last_bits: int | None = None
    int4: bool | None = None
    activation_bits: int = 8
    per_channel: bool | None = None
    dense_per_channel: bool | None = None
    weight_ranges: Literal["max", "search"] = "max"
    rounding: Literal["feedback", "adaround", "nearest"] = "feedback"
    bias_correction: Literal["analytic", "empirical"] | bool = "analytic"
    edge_dtype: EdgeDtype | None = None
    split_outputs: bool = False
    # All choices of these but the default, or some, are for reproducing papers only.
    ranges: RangeMethod = "extreme_value"
    range_source: RangeSource = "images"
    activation_correction: bool = False
    symmetric_weights: bool = True
    equalized_rounding: bool = False

    def __post_init__(self):
        require_choice(self, "weight_bits", (4, 5, 6, 7, 8))
        require_choice(self, "depthwise_bits", (None, 4, 5, 6, 7, 8))
        require_choice(self, "first_last_bits", (None, 4, 5, 6, 7, 8))
        require_choice(self, "activation_bits", (4, 5, 6, 7, 8, 16))
        require_choice(self, "int4", (None, True, False))
        require_choice(self, "per_channel", (None, True, False))
        require_choice(self, "dense_per_channel", (None, True, False))
        require_choice(self, "symmetric_weights", (True, False))
        require_choice(self, "weight_ranges", ("max", "search"))
        require_choice(self, "rounding", ("feedback", "adaround", "nearest"))
        if self.weight_ranges == "search" and self.rounding == "nearest":
            raise ValueError(
                "weight_ranges='search' weighs errors by the layer's inputs, but rounding='nearest' does not look at inputs; "
                "choose rounding='feedback' or 'adaround', or weight_ranges='max'."
            )
        require_choice(self, "split_outputs", (True, False))
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
        """Whether a layer's weights have one step per output channel; `dense` says whether it is a dense layer."""
        if dense and self.dense_per_channel is not None:
            return self.dense_per_channel
        return self.per_channel is not False

    @property
    def simulated(self) -> str | None:
        """Why no integer file can hold the result, so that it is only simulated; None where a file can."""
        if self.activation_bits not in (8, 16):
            return f"TFLite stores activations in 8 or 16 bits, not {self.activation_bits}"
        if self.equalized_rounding:
            return "TFLite has no factors per channel on either side of a kernel"
        return None if self.symmetric_weights else "TFLite stores symmetric weights only"
