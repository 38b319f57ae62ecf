"""MediaTek NPUs (Dimensity, Genio), by LiteRT's plugin for NeuroPilot.

The document lists the operators and types that the plugin hands to the Neuron compiler, which decides about each; its rules
are known only where the SDK is installed. The document also lists one step per channel. But Neuron refused such weights, and
then the whole file is not compiled. A correction was under way in August 2026. So weights get one step per tensor, unless the
recipe says per_channel=True.
"""

from tfdatafree.targets.ethos_u import WEIGHTED
from tfdatafree.targets.target import DISPATCHED, Limit, Source, Target, VendorCompiler, litert_source, names

_OPERATORS = litert_source("mediatek/compiler/MediaTek_Neuro_Compiler.md", "Supported Operations")
_TYPES = litert_source("mediatek/compiler/MediaTek_Neuro_Compiler.md", "Supported Data Types")
_PER_TENSOR = Source(
    document="LiteRT issue 7603, of May 2026",
    url="https://github.com/google-ai-edge/LiteRT/issues/7603",
)

MEDIATEK = Target(
    name="mediatek",
    title="MediaTek NPU (LiteRT's plugin)",
    operators=names(
        "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE DIV FULLY_CONNECTED GELU "
        "GREATER HARD_SWISH L2_NORMALIZATION LEAKY_RELU LESS LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PAD PADV2 PRELU "
        "QUANTIZE REDUCE_MAX RELU RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPLIT SQRT "
        "SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE TRANSPOSE_CONV UNPACK"
    )
    | {DISPATCHED},
    limits=(
        Limit(fact="types", source=_TYPES, reason="it reads or writes {value}", mend="take 8-bit activations",
              one_of=("bool", "int4", "int8", "int16", "int32", "uint8", "float16", "float32")),
        Limit(operators=WEIGHTED, fact="weight_steps", high=1, source=_PER_TENSOR,
              reason="its weights have {value} steps, which MediaTek's compiler refused",
              mend="leave per_channel out of the recipe, or take recipe 'int8_per_tensor'"),
    ),
    float_files=("float32", "float16"),
    per_channel=False,
    dense_per_channel=False,
    int4_weights=True,
    vendor_compiler=VendorCompiler(
        vendor="mediatek",
        packages=("ai_edge_litert_sdk_mediatek",),
        install="the SDK under MediaTek's licence, on Linux: pip install ai-edge-litert-sdk-mediatek",
    ),
    sources={
        "operators": _OPERATORS,
        "activation_bits": _TYPES,
        "edge_dtypes": _TYPES,
        "float_files": _TYPES,
        "per_channel": _PER_TENSOR,
        "dense_per_channel": _PER_TENSOR,
        "int4_weights": _TYPES,
    },
)  # fmt: skip
