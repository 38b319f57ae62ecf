"""Google Tensor, the chips of Pixel phones, by LiteRT's plugin.

No list of what the TPU computes was found, only the plugin's list of operators that it never hands to the SDK's compiler.
Neither was one of types, nor of limits. So what this profile lets pass, the compiler may still leave to the CPU.
"""

from tfdatafree.targets.target import DISPATCHED, Target, VendorCompiler, litert_source, names
from tfdatafree.tflite.flatbuffer import OPERATOR_CODES

_PLUGIN = litert_source("google_tensor/compiler/compiler_plugin.cc", "kUnSupportedOps")
_OPTIONS = litert_source("google_tensor/compiler/compiler_plugin.cc", "LiteRtOpaqueOptionsToGoogleTensorOptions")
_REFUSED = (
    "ASSIGN_VARIABLE BIDIRECTIONAL_SEQUENCE_LSTM BROADCAST_ARGS BUCKETIZE CALL_ONCE COMPLEX_ABS CONV_3D CONV_3D_TRANSPOSE "
    "DENSIFY FAKE_QUANT HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE IMAG LOCAL_RESPONSE_NORMALIZATION MATRIX_DIAG "
    "MATRIX_SET_DIAG MULTINOMIAL NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANK "
    "READ_VARIABLE REAL REDUCE_PROD REVERSE_SEQUENCE RFFT2D SEGMENT_SUM SHAPE SPARSE_TO_DENSE STABLEHLO_COMPOSITE "
    "STABLEHLO_SCATTER SVDF UNIDIRECTIONAL_SEQUENCE_RNN UNIQUE UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN "
    "UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM VAR_HANDLE WHERE CUSTOM"
)

GOOGLE_TENSOR = Target(
    name="google-tensor",
    title="Google Tensor (LiteRT's plugin)",
    operators=frozenset(OPERATOR_CODES) - names(_REFUSED) | {DISPATCHED},
    float_files=("float32", "float16"),
    vendor_compiler=VendorCompiler(
        vendor="google_tensor",
        packages=("ai_edge_litert_sdk_google_tensor",),
        variable="GOOGLE_TENSOR_COMPILER_LIB",
        install="the SDK under Google's licence, on Linux: pip install ai-edge-litert-sdk-google-tensor",
    ),
    sources={"operators": _PLUGIN, "float_files": _OPTIONS, "int4_weights": _OPTIONS},
)
