"""Qualcomm Hexagon NPUs from Snapdragon 8 on, by LiteRT's plugin for Qualcomm AI Engine Direct (QNN).

The document lists the operators that the plugin hands to QNN. QNN then validates each of them; its rules are known only where
the SDK is installed. Which Hexagon a chip has is no part of the profile.
"""

from tfdatafree.targets.target import DISPATCHED, Limit, Target, VendorCompiler, litert_source, names

_OPERATORS = litert_source("qualcomm/compiler/Qualcomm_QNN_Compiler.md", "Supported Operations")
_TYPES = litert_source("qualcomm/compiler/Qualcomm_QNN_Compiler.md", "Supported Data Types")
_QUANTIZATION = litert_source("qualcomm/compiler/Qualcomm_QNN_Compiler.md", "Supported Quantization Types")

QUALCOMM = Target(
    name="qualcomm",
    title="Qualcomm Hexagon (LiteRT's plugin)",
    operators=names(
        "ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CEIL CONCATENATION CONV_2D CONV_3D COS CUMSUM "
        "DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV "
        "FULLY_CONNECTED GATHER GATHER_ND GELU GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS "
        "LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG "
        "NOT_EQUAL PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_0_TO_1 "
        "RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT SELECT_V2 SIGN SIN SLICE "
        "SOFTMAX SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE "
        "TRANSPOSE_CONV UNPACK"
    )
    | {DISPATCHED},
    limits=(
        Limit(fact="types", source=_TYPES, reason="it reads or writes {value}", mend="take another type",
              one_of=("bool", "int4", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
                      "float32", "float64")),
    ),
    float_files=("float32", "float16"),
    int4_weights=True,
    vendor_compiler=VendorCompiler(
        vendor="qualcomm",
        packages=("ai_edge_litert_sdk_qualcomm",),
        install="the SDK under Qualcomm's licence, on Linux: pip install ai-edge-litert-sdk-qualcomm",
    ),
    sources={
        "operators": _OPERATORS,
        "activation_bits": _TYPES,
        "edge_dtypes": _TYPES,
        "float_files": _TYPES,
        "per_channel": _QUANTIZATION,
        "int4_weights": _QUANTIZATION,
    },
)  # fmt: skip
