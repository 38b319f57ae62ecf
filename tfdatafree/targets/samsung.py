"""Samsung Exynos, by LiteRT's plugin for Exynos AI LiteCore.

The plugin claims every operator of a file, and then fails at the first one that it cannot build. So it compiles a whole file
or nothing. What LiteCore refuses beyond that is known only where the SDK is installed.
"""

from tfdatafree.targets.target import DISPATCHED, Limit, Target, VendorCompiler, litert_source, names

_OPERATORS = litert_source("samsung/compiler/create_model.cc", "CreateModel")
_TYPES = litert_source("samsung/compiler/builders/utils.cc", "MapToElementTypeStr")
_QUANTIZATION = litert_source("samsung/compiler/create_model.cc", "GraphCreator::CreateQParam, MapToQuantTypeStr")

SAMSUNG = Target(
    name="samsung",
    title="Samsung Exynos NPU (LiteRT's plugin)",
    operators=names(
        "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DIV EQUAL EXP FLOOR "
        "FLOOR_DIV FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM "
        "MIRROR_PAD MUL PAD PADV2 REDUCE_MAX REDUCE_MIN RELU RESHAPE RESIZE_BILINEAR RSQRT SELECT SELECT_V2 SIN SLICE SOFTMAX "
        "SPACE_TO_DEPTH SPLIT SQRT SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TRANSPOSE TRANSPOSE_CONV"
    )
    | {DISPATCHED},
    limits=(
        Limit(fact="types", source=_TYPES, reason="it reads or writes {value}", mend="take another type",
              one_of=("bool", "int4", "int8", "int16", "int32", "int64", "uint8", "uint16", "float16", "float32")),
    ),
    float_files=("float32", "float16"),
    int4_weights=True,
    all_or_none=True,
    elsewhere="the CPU, and so does the whole file, because the plugin compiles all of it or nothing",
    vendor_compiler=VendorCompiler(
        vendor="samsung",
        packages=("ai_edge_litert_sdk_samsung",),
        install="the SDK under Samsung's licence, on Linux: pip install ai-edge-litert-sdk-samsung-nightly",
    ),
    sources={
        "operators": _OPERATORS,
        "activation_bits": _QUANTIZATION,
        "edge_dtypes": _TYPES,
        "float_files": _TYPES,
        "per_channel": _QUANTIZATION,
        "int4_weights": _QUANTIZATION,
        "all_or_none": litert_source("samsung/compiler/compiler_plugin.cc", "LiteRtCompilerPluginPartition"),
    },
)  # fmt: skip
