"""Arm Ethos-U. `vela --supported-ops-report` writes the document of the installed version."""

from typing import Any

from tfdatafree.targets.target import Limit, Source, Target, names

# The operator that Vela writes in place of those that the NPU computes.
COMPILED_BY_VELA = "CUSTOM ethos-u"


def _vela(section: str) -> Source:
    return Source(
        document="Vela 5.2.0, SUPPORTED_OPS.md",
        section=section,
        url="https://gitlab.arm.com/artificial-intelligence/ethos-u/ethos-u-vela/-/blob/main/SUPPORTED_OPS.md",
    )


WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
_U55 = "Ethos-U55 and Ethos-U65 TFLite"
_U85 = "Ethos-U85 TFLite"


_TYPES = ("int8", "uint8", "int16", "int32")
# A 16-bit product of a weight and an activation leaves less room in the 40-bit accumulator; Ethos-U85 has a wider one.
_WEIGHT_SUM, _WEIGHT_SUM_U85_16 = 127 * 65536, 2130706432


def _pooling(family: str) -> tuple[Limit, ...]:
    average: dict[str, Any] = {
        "operators": ("AVERAGE_POOL_2D",),
        "source": _vela(f"{family} AVERAGE_POOL_2D Constraints"),
    }
    largest: dict[str, Any] = {"operators": ("MAX_POOL_2D",), "source": _vela(f"{family} MAX_POOL_2D Constraints")}
    split = "pool in two steps, or by a smaller window"
    return (
        Limit(fact="window", high=8, where={"padding": "SAME"}, mend="pad with 'valid', or pool by a smaller window",
              reason="its window is {value} wide or high, and at most 8 with 'same' padding", **average),
        Limit(fact="filter_area", high=65536, where={"padding": "VALID"}, mend=split,
              reason="its window has {value} elements, and at most 65536 are possible", **average),
        Limit(fact="filter_height", high=256, where={"padding": "VALID"}, mend=split,
              reason="its window is {value} high, and at most 256 are possible", **average),
        Limit(fact="filter_area", high=65536, mend=split,
              reason="its window has {value} elements, and at most 65536 are possible", **largest),
        Limit(fact="filter_height", high=256, mend=split,
              reason="its window is {value} high, and at most 256 are possible", **largest),
    )  # fmt: skip


def _ethos(family: str, types: tuple[str, ...], weight_sum_16: int) -> tuple[Limit, ...]:
    """Limits of every Ethos-U."""
    mean: dict[str, Any] = {"operators": ("MEAN",), "source": _vela(f"{family} MEAN Constraints")}
    return (
        Limit(fact="types", one_of=types, source=_vela(f"{family} Generic Constraints"),
              reason="it reads or writes {value}", mend="take integer edges (edge_dtype='int8') and keep no layer in float"),
        Limit(operators=WEIGHTED, fact="weight_type", one_of=("int8", "uint8"),
              source=_vela(f"{family} CONV_2D Constraints"),
              reason="its weights are {value}, and must be 8-bit constants", mend="store weights in 8 bits"),
        *(
            Limit(operators=WEIGHTED, fact="weight_sum", high=high, where={"input_type": dtype},
                  source=_vela(f"{family} CONV_2D Constraints"),
                  reason="the magnitudes of an output's weights add up to {value} steps, and at most {high} are possible",
                  mend="split its inputs among two layers and add their outputs")
            for dtype, high in (("int8", _WEIGHT_SUM), ("int16", weight_sum_16))
        ),
        *_pooling(family),
        Limit(fact="batch", high=1, reason="it reduces a batch of {value}", mend="give the model a batch of 1", **mean),
        Limit(fact="longest_reduced", high=4095, mend="average in two steps",
              reason="it averages over {value} elements along one axis, and fewer than 4096 are possible", **mean),
        Limit(fact="reduced", high=65536, where={"input_type": "int16"}, mend="average in two steps",
              reason="it averages over {value} elements, and at most 65536 are possible with 16-bit activations", **mean),
        Limit(fact="reduced", high=16777216, where={"input_type": "int8"}, mend="average in two steps",
              reason="it averages over {value} elements, and at most 16777216 are possible", **mean),
        Limit(fact="depth_with_map", one_of=(False,), mend="average over height and width only",
              reason="it averages over channels although height, width and channels are all more than 1", **mean),
        Limit(operators=("SOFTMAX",), fact="map_area", high=65535, source=_vela(f"{family} SOFTMAX Constraints"),
              reason="it normalizes {value} positions, and fewer than 65536 are possible", mend="reshape before it"),
        Limit(operators=("ELU",), fact="types", one_of=("int8",), source=_vela(f"{family} ELU Constraints"),
              reason="it computes with {value}, and only int8 is possible", mend="take 8-bit activations"),
        Limit(operators=("GELU",), fact="types", one_of=("int8", "uint8"), source=_vela(f"{family} GELU Constraints"),
              reason="it computes with {value}, and only 8 bits are possible", mend="take 8-bit activations"),
        Limit(operators=("STRIDED_SLICE",), fact="channel_stride", one_of=(1,),
              source=_vela(f"{family} STRIDED_SLICE Constraints"),
              reason="it takes every {value}th channel", mend="slice along height and width only"),
    )  # fmt: skip


def _ethos_u85() -> tuple[Limit, ...]:
    up: dict[str, Any] = {"fact": "factor", "mend": "enlarge by a power of two"}
    return (
        *_ethos(_U85, (*_TYPES, "int64", "bool"), _WEIGHT_SUM_U85_16),
        Limit(operators=("GATHER",), fact="axis_behind_batch", high=0, mend="gather along the first axis behind the batch axes",
              reason="it gathers along an axis {value} behind its batch axes", source=_vela(f"{_U85} GATHER Constraints")),
        Limit(operators=("RESIZE_BILINEAR",), one_of=tuple(2**n for n in range(11)),
              reason="it enlarges by {value}, and only powers of two up to 1024 are possible",
              source=_vela(f"{_U85} RESIZE_BILINEAR Constraints"), **up),
        Limit(operators=("RESIZE_NEAREST_NEIGHBOR",), one_of=tuple(range(1, 1025)),
              reason="it enlarges by {value}, and only whole numbers up to 1024 are possible",
              source=_vela(f"{_U85} RESIZE_NEAREST_NEIGHBOR Constraints"), **up),
    )  # fmt: skip


def _ethos_u55() -> tuple[Limit, ...]:
    small = "use a stride of at most 3"
    strided = ("CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
    up: dict[str, Any] = {
        "fact": "factor",
        "reason": "it enlarges by {value}, and only {one_of} are possible",
        "mend": "enlarge in steps, or by a transposed convolution with stride 2",
    }
    return (
        *_ethos(_U55, _TYPES, _WEIGHT_SUM),
        Limit(operators=strided, fact="stride", high=3, where={"padding": "SAME"}, mend=f"{small}, or pad with 'valid'",
              reason="its stride is {value}, and with 'same' padding at most 3", source=_vela(f"{_U55} CONV_2D Constraints")),
        Limit(operators=strided, fact="stride", high=3, where={"dilated": True}, mend=f"{small}, or no dilation",
              reason="its stride is {value}, and with a dilation at most 3", source=_vela(f"{_U55} CONV_2D Constraints")),
        Limit(operators=("DEPTHWISE_CONV_2D",), fact="stride", high=3, mend=small, reason="its stride is {value}",
              source=_vela(f"{_U55} DEPTHWISE_CONV_2D Constraints")),
        Limit(operators=("TRANSPOSE_CONV",), fact="stride", high=2, mend="use a stride of 1 or 2",
              reason="its stride is {value}", source=_vela(f"{_U55} TRANSPOSE_CONV Constraints")),
        Limit(operators=("BATCH_MATMUL",), fact="types", one_of=("int8",), mend="take 8-bit activations",
              reason="it computes with {value}, and only int8 is possible",
              source=_vela(f"{_U55} BATCH_MATMUL Constraints")),
        Limit(operators=("RESIZE_BILINEAR",), one_of=(1, 2), where={"half_pixel": True},
              source=_vela(f"{_U55} RESIZE_BILINEAR Constraints"), **up),
        Limit(operators=("RESIZE_BILINEAR",), one_of=(1, 2, 4, 8), where={"half_pixel": False},
              source=_vela(f"{_U55} RESIZE_BILINEAR Constraints"), **up),
        Limit(operators=("RESIZE_NEAREST_NEIGHBOR",), one_of=(1, 2, 4, 8),
              source=_vela(f"{_U55} RESIZE_NEAREST_NEIGHBOR Constraints"), **up),
        Limit(operators=("ARG_MAX",), fact="depth", high=127, mend="take the argmax in the application",
              reason="it compares {value} channels, and at most 127 are possible",
              source=_vela(f"{_U55} ARG_MAX Constraints")),
        Limit(operators=("ARG_MAX",), fact="along_depth", one_of=(True,), mend="compare channels, the last axis",
              reason="it compares along another axis than channels", source=_vela(f"{_U55} ARG_MAX Constraints")),
    )  # fmt: skip


# Vela lists REVERSE_V2 for the Ethos-U55, too, but without its axis, which every such operator has.
_ETHOS_BOTH = (
    "ABS ADD ARG_MAX AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D ELU EXP EXPAND_DIMS "
    "FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD "
    "PADV2 PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM "
    "TANH TILE TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK"
)
_ETHOS_U85_ALSO = (
    "ASSIGN_VARIABLE CAST DIV EQUAL GATHER GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND LOGICAL_NOT LOGICAL_OR "
    "NOT_EQUAL READ_VARIABLE REDUCE_ALL REDUCE_ANY REVERSE_V2 SCATTER_ND SELECT SELECT_V2"
)


def _ethos_target(name: str, operators: str, limits: tuple[Limit, ...], family: str, macs: tuple[int, ...]) -> Target:
    """The profile of a family. The first of `macs` is the number of multipliers if the name gives none."""
    return Target(
        name=name,
        title=name.replace("ethos-u", "Arm Ethos-U"),
        operators=names(operators) | {COMPILED_BY_VELA},
        limits=limits,
        accelerator=f"{name}-{macs[0]}",
        macs=macs,
        sources={
            "operators": _vela(f"{family} Summary Table"),
            "activation_bits": _vela(f"{family} Generic Constraints"),
            "edge_dtypes": _vela(f"{family} Generic Constraints"),
            "float_files": _vela(f"{family} Generic Constraints"),
            "dense_per_channel": _vela(f"{family} Generic Constraints"),
            "int4_weights": _vela(f"{family} CONV_2D Constraints"),
        },
    )


ETHOS_U55 = _ethos_target("ethos-u55", _ETHOS_BOTH, _ethos_u55(), _U55, (128, 32, 64, 256))
ETHOS_U65 = _ethos_target("ethos-u65", _ETHOS_BOTH, _ethos_u55(), _U55, (256, 512))
ETHOS_U85 = _ethos_target(
    "ethos-u85", f"{_ETHOS_BOTH} {_ETHOS_U85_ALSO}", _ethos_u85(), _U85, (256, 128, 512, 1024, 2048)
)
