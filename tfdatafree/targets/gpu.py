"""LiteRT's GPU delegate. It computes in float: 8-bit files, too, whose weights it unpacks and whose grids it imitates.

So quantization makes a file smaller there, and not faster. The profile has the delegate's rules about kinds, types and numbers
of axes. Its rules about broadcasting and about kinds of padding are no part of it.
"""

from tfdatafree.targets.target import Limit, Source, Target, names

_CHECKED = Source(
    document="TensorFlow Lite, gpu_compatibility.cc",
    section="CheckGpuDelegateCompatibility",
    url="https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/tools/versioning/gpu_compatibility.cc",
)
_GUIDE = Source(
    document="GPU delegates for LiteRT",
    section="Quantized models",
    url="https://ai.google.dev/edge/litert/performance/gpu",
)

GPU = Target(
    name="gpu",
    title="LiteRT's GPU delegate (computes in float)",
    operators=names(
        "ABS ADD ADD_N ATAN2 AVERAGE_POOL_2D BATCH_MATMUL CAST CEIL CONCATENATION CONV_2D COS CUMSUM DENSIFY DEPTHWISE_CONV_2D "
        "DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD "
        "FULLY_CONNECTED GATHER GELU GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGISTIC LSTM "
        "MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_MAX "
        "REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2 "
        "SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE "
        "TRANSPOSE TRANSPOSE_CONV"
    ),
    limits=(
        Limit(fact="types", one_of=("int8", "uint8", "int32", "float32", "float16", "bool"), source=_GUIDE,
              reason="it reads or writes {value}", mend="take 8-bit activations, or recipe 'float16'"),
        Limit(operators=("SELECT", "SELECT_V2"), fact="types", one_of=("float32", "float16", "bool"), source=_CHECKED,
              reason="it selects among {value}, and only float is possible", mend="take recipe 'float16'"),
        Limit(operators=("SLICE", "STRIDED_SLICE"), fact="rank", low=3, high=4, source=_CHECKED,
              reason="its tensors have {value} axes, and 3 or 4 are possible", mend="reshape before it"),
    ),
    activation_bits=(8,),
    edge_dtypes=("int8", "uint8", "float32"),
    float_files=("float32", "float16"),
    sources={
        "operators": _CHECKED,
        "activation_bits": _GUIDE,
        "edge_dtypes": _GUIDE,
        "float_files": _GUIDE,
        "int4_weights": _GUIDE,
    },
)  # fmt: skip
