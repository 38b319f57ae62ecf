"""XNNPACK, which LiteRT hands operators to on a CPU. LiteRT's own kernels compute the rest there, which are slower.

Its document is older than the library. So these rules are what the delegate of LiteRT 2.3.0 took on x86-64, operator by operator.
"""

from tfdatafree.targets.target import Limit, Source, Target, names

_TAKEN = Source(
    document="XNNPACK's delegate in LiteRT 2.3.0 on x86-64, operator by operator",
    url="https://github.com/google-ai-edge/LiteRT/blob/main/tflite/delegates/xnnpack/README.md",
)
# In 8 bits and in float.
_BOTH = (
    "ADD CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE ELU FULLY_CONNECTED LEAKY_RELU LOGISTIC "
    "MAX_POOL_2D MEAN MUL PAD QUANTIZE REDUCE_MAX REDUCE_MIN RESHAPE RESIZE_BILINEAR SLICE SPACE_TO_DEPTH SPLIT STRIDED_SLICE "
    "SUB SUM TANH TRANSPOSE TRANSPOSE_CONV"
)
_FLOAT = (
    "ABS AVERAGE_POOL_2D BATCH_MATMUL CEIL DIV EXP FLOOR GELU HARD_SWISH LOG MAXIMUM MINIMUM NEG PRELU RELU RELU6 "
    "RELU_N1_TO_1 ROUND RSQRT SOFTMAX SQRT SQUARE SQUARED_DIFFERENCE"
)
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")

XNNPACK = Target(
    name="xnnpack",
    title="XNNPACK (LiteRT on a CPU)",
    operators=names(f"{_BOTH} {_FLOAT}"),
    limits=(
        Limit(fact="types", one_of=("int8", "uint8", "float32", "float16"), source=_TAKEN,
              reason="it reads or writes {value}", mend="take 8-bit activations"),
        Limit(operators=tuple(_FLOAT.split()), fact="types", one_of=("float32", "float16"), source=_TAKEN,
              reason="it computes with {value}, and only float is possible", mend="another layer in its place may be faster"),
        Limit(operators=_CONVOLUTIONS, fact="weight_type", one_of=("int8", "uint8", "float32", "computed"), source=_TAKEN,
              reason="its weights are {value}, which are unpacked at every run", mend="store 4-bit weights in int8 (int4=False)"),
        Limit(operators=("FULLY_CONNECTED",), fact="weight_type", one_of=("int8", "uint8", "int4", "float32", "computed"),
              source=_TAKEN, reason="its weights are {value}", mend="store weights in 4 or 8 bits"),
        Limit(operators=("MAX_POOL_2D",), fact="stride", high=1, where={"filter_area": 1}, source=_TAKEN,
              reason="its window has one element and a stride of {value}", mend="slice in its place"),
        Limit(operators=("SPLIT",), fact="outputs", high=4, source=_TAKEN,
              reason="it has {value} outputs, and at most 4 are possible", mend="split in two steps"),
        Limit(operators=("STRIDED_SLICE",), fact="strided", one_of=(False,), source=_TAKEN, reason="it skips entries",
              mend="use a pooling or a convolution with stride in its place"),
    ),
    float_files=("float32", "float16"),
    int4_weights=True,
    elsewhere="the same CPU, in LiteRT's own kernels, which are slower",
    sources={"operators": _TAKEN},
)  # fmt: skip
