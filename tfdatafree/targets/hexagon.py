"""Qualcomm Hexagon."""

from tfdatafree.targets.target import QUANTIZATION_SPEC, Limit, Source, Target, names

_HEXAGON_DELEGATE = Source(
    document="TensorFlow, delegates/hexagon/utils.cc",
    section="IsNodeSupportedByHexagon, CheckOpVersion",
    url="https://github.com/tensorflow/tensorflow/blob/v2.14.0/tensorflow/lite/delegates/hexagon/utils.cc",
)
_HEXAGON_GUIDE = Source(
    document="TensorFlow Lite Hexagon delegate",
    section="Supported models",
    url="https://www.tensorflow.org/lite/performance/hexagon_delegate",
)


def _hexagon(operators: str, fact: str, reason: str, mend: str, **limit) -> Limit:
    return Limit(
        operators=tuple(operators.split()), fact=fact, reason=reason, mend=mend, source=_HEXAGON_DELEGATE, **limit
    )


_HEXAGON_OPERATORS = (
    "ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE FULLY_CONNECTED HARD_SWISH "
    "L2_NORMALIZATION LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD QUANTIZE RELU RELU6 RESHAPE "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SLICE SOFTMAX SPACE_TO_DEPTH SPLIT STRIDED_SLICE SUB TANH TRANSPOSE "
    "TRANSPOSE_CONV"
)
_HEXAGON_VERSION_1 = ("DEPTH_TO_SPACE", "HARD_SWISH", "NEG", "RESHAPE")
_HEXAGON_VERSION_3_AND_4 = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4}
_HEXAGON_VERSION_2 = sorted(names(_HEXAGON_OPERATORS) - {*_HEXAGON_VERSION_1, *_HEXAGON_VERSION_3_AND_4})
_NEWER = "it is of version {value}, which the delegate does not take"
HEXAGON = Target(
    name="hexagon",
    title="Qualcomm Hexagon 680 to 690 (TensorFlow Lite's delegate)",
    operators=names(_HEXAGON_OPERATORS),
    limits=(
        _hexagon("", "types", "it reads or writes {value}", "take 8-bit activations", one_of=("int8", "uint8", "int32")),
        _hexagon("", "rank", "a tensor has {value} axes, and at most 4 are possible", "reshape it", high=4),
        _hexagon("CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV", "stride", "its stride is {value}", "use at most 3", high=3),
        _hexagon("CONV_2D", "dilated", "it is dilated", "use a larger kernel without a dilation", one_of=(False,)),
        _hexagon("DEPTHWISE_CONV_2D", "stride", "it is dilated and has a stride", "leave one of them out", high=1,
                 where={"dilated": True}),
        _hexagon("DEPTHWISE_CONV_2D", "multiplied_depth", "its depth multiplier is {value}",
                 "use a depth multiplier of 1", high=1),
        _hexagon("CONV_2D DEPTHWISE_CONV_2D", "inputs", "it has no bias", "give the layer a bias", low=3, high=3),
        _hexagon("AVERAGE_POOL_2D MAX_POOL_2D L2_NORMALIZATION", "activation", "{value} is fused into it",
                 "apply the activation before it", one_of=("NONE",)),
        _hexagon("FULLY_CONNECTED", "keeps_axes", "it keeps the leading axes", "flatten before it, reshape behind it",
                 one_of=(False,)),
        _hexagon("RESIZE_BILINEAR", "output_side", "its output is {value} wide or high", "enlarge to at most 65",
                 high=65),
        _hexagon(" ".join(_HEXAGON_VERSION_1), "version", _NEWER, "replace the layer", high=1),
        _hexagon(" ".join(_HEXAGON_VERSION_2), "version", _NEWER, "replace the layer", high=2),
        *(_hexagon(name, "version", _NEWER, "replace the layer", high=version)
          for name, version in _HEXAGON_VERSION_3_AND_4.items()),
        Limit(operators=("FULLY_CONNECTED",), fact="weight_steps", high=1, source=QUANTIZATION_SPEC,
              reason="its weights have {value} steps, and the specification has one for all of them",
              mend="write the file with one step per tensor for dense layers"),
    ),
    activation_bits=(8,),
    edge_dtypes=("int8", "uint8", "float32"),
    dense_per_channel=False,
    sources={
        "operators": _HEXAGON_DELEGATE,
        "activation_bits": _HEXAGON_DELEGATE,
        "edge_dtypes": _HEXAGON_GUIDE,
        "float_files": _HEXAGON_GUIDE,
        "int4_weights": _HEXAGON_DELEGATE,
        "dense_per_channel": QUANTIZATION_SPEC,
    },
)  # fmt: skip
