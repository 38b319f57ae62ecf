"""Android NNAPI."""

from tfdatafree.targets.target import Limit, Source, Target, names

_NNAPI_DELEGATE = Source(
    document="TensorFlow, nnapi_delegate.cc",
    section="NNAPIDelegateKernel::Validate, for NNAPI 1.3 (Android 11)",
    url="https://github.com/tensorflow/tensorflow/blob/v2.14.0/tensorflow/lite/delegates/nnapi/nnapi_delegate.cc",
)
_NNAPI_HEADER = Source(
    document="Android NDK, NeuralNetworks.h",
    section="ANEURALNETWORKS_FULLY_CONNECTED",
    url="https://developer.android.com/ndk/reference/group/neural-networks",
)


def _nnapi_version(operators: str, low: int | None, high: int) -> Limit:
    wanted = f"{high}" if low == high else f"at most {high}"
    return Limit(
        operators=tuple(operators.split()),
        fact="version",
        low=low,
        high=high,
        reason=f"it is of version {{value}}, and NNAPI's delegate takes {wanted}",
        mend="replace the layer, or let it run on the CPU",
        source=_NNAPI_DELEGATE,
    )


NNAPI = Target(
    name="nnapi",
    title="Android NNAPI 1.3 (Android 11 and later)",
    operators=names(
        "ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE "
        "DEQUANTIZE EQUAL EXPAND_DIMS FULLY_CONNECTED GATHER GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION LEAKY_RELU "
        "LESS LESS_EQUAL LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE REDUCE_MAX "
        "REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SLICE SOFTMAX "
        "SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SQUEEZE STRIDED_SLICE SUB TANH TILE TOPK_V2 TRANSPOSE TRANSPOSE_CONV"
    ),
    limits=(
        Limit(fact="types", one_of=("int8", "uint8", "int32", "float32", "bool"), source=_NNAPI_DELEGATE,
              reason="it reads or writes {value}", mend="take 8-bit activations"),
        Limit(fact="rank", high=4, source=_NNAPI_DELEGATE, reason="a tensor has {value} axes, and at most 4 are possible",
              mend="reshape it"),
        Limit(operators=("CONV_2D",), fact="inputs", low=3, high=3, source=_NNAPI_DELEGATE, reason="it has no bias",
              mend="give the layer a bias"),
        Limit(operators=("MEAN",), fact="same_grid", one_of=(True,), source=_NNAPI_DELEGATE,
              reason="its output has another grid than its input", mend="use a recipe of this package, which sees to it"),
        Limit(operators=("CONCATENATION", "L2_NORMALIZATION"), fact="activation", one_of=("NONE",), source=_NNAPI_DELEGATE,
              reason="{value} is fused into it", mend="apply the activation before it"),
        Limit(operators=("FULLY_CONNECTED",), fact="weight_steps", high=1, source=_NNAPI_HEADER,
              reason="its weights have {value} steps, and NNAPI has one for all of them",
              mend="write the file with one step per tensor for dense layers"),
        Limit(operators=("PACK",), fact="along_depth", one_of=(False,), source=_NNAPI_DELEGATE,
              reason="it stacks along the last axis", mend="stack along another axis"),
        _nnapi_version("CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV SUB MAXIMUM MINIMUM RESIZE_BILINEAR", None, 3),
        _nnapi_version("RESIZE_NEAREST_NEIGHBOR", None, 3),
        _nnapi_version("FULLY_CONNECTED", None, 5),
        _nnapi_version(
            "ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION EQUAL GREATER GREATER_EQUAL "
            "L2_NORMALIZATION LESS LESS_EQUAL LOGISTIC MAX_POOL_2D MEAN MUL NOT_EQUAL PAD PADV2 QUANTIZE REDUCE_MAX "
            "REDUCE_MIN RELU RELU6 RELU_N1_TO_1 SELECT SLICE SPACE_TO_BATCH_ND SPACE_TO_DEPTH STRIDED_SLICE TANH TOPK_V2 "
            "TRANSPOSE", None, 2),
        _nnapi_version("SOFTMAX GATHER PACK", 2, 2),
        _nnapi_version("SPLIT", 3, 3),
        _nnapi_version("EXPAND_DIMS LEAKY_RELU PRELU RESHAPE SQUEEZE TILE", 1, 1),
    ),
    activation_bits=(8,),
    edge_dtypes=("int8", "uint8", "float32"),
    float_files=("float32", "float16"),
    dense_per_channel=False,
    input_grid=("MEAN",),
    sources={
        "operators": _NNAPI_DELEGATE,
        "activation_bits": _NNAPI_DELEGATE,
        "edge_dtypes": _NNAPI_DELEGATE,
        "float_files": _NNAPI_DELEGATE,
        "dense_per_channel": _NNAPI_HEADER,
        "int4_weights": _NNAPI_HEADER,
        "input_grid": _NNAPI_DELEGATE,
    },
)  # fmt: skip
