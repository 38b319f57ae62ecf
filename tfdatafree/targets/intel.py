"""Intel NPUs of Core Ultra, by LiteRT's plugin for OpenVINO.

The plugin hands over operators by kind, of every type. What OpenVINO's NPU compiler refuses is known only where it is
installed. The plugin itself was run on every operator that this package writes. A file with an input of six or more axes is
not compiled at all, which is no part of this profile.
"""

from tfdatafree.targets.target import DISPATCHED, Target, VendorCompiler, litert_source, names

_PLUGIN = litert_source(
    "intel_openvino/compiler/openvino_compiler_plugin.cc",
    "kSupportedOps; TILE, TOPK_V2 and UNPACK by the plugin of LiteRT 2.3.0",
)
_TYPES = litert_source("intel_openvino/utils.h", "MapLiteTypeToOV")

INTEL = Target(
    name="intel",
    title="Intel NPU (LiteRT's plugin for OpenVINO)",
    operators=names(
        "ABS ADD ARG_MAX AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CONCATENATION CONV_2D CONV_3D COS CUMSUM "
        "DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FLOOR_DIV FULLY_CONNECTED GATHER "
        "GATHER_ND GELU GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND "
        "LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NOT_EQUAL ONE_HOT PACK PAD PADV2 POW "
        "PRELU QUANTIZE RANGE REDUCE_MAX RELU RELU_0_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT "
        "SELECT SELECT_V2 SIN SLICE SOFTMAX SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE "
        "TOPK_V2 TRANSPOSE TRANSPOSE_CONV UNPACK"
    )
    | {DISPATCHED},
    float_files=("float32", "float16"),
    int4_weights=True,
    vendor_compiler=VendorCompiler(
        vendor="intel_openvino",
        packages=("openvino", "ai_edge_litert_sdk_intel"),
        install="Intel's SDK and the OpenVINO that LiteRT was built with: pip install ai-edge-litert-sdk-intel openvino",
    ),
    sources={"operators": _PLUGIN, "activation_bits": _TYPES, "float_files": _TYPES, "int4_weights": _TYPES},
)
