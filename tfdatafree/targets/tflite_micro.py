"""TensorFlow Lite Micro."""

from tfdatafree.targets.ethos_u import COMPILED_BY_VELA, WEIGHTED
from tfdatafree.targets.target import Limit, Source, Target, names


def _micro(path: str) -> Source:
    return Source(
        document=f"tflite-micro, {path.rsplit('/', 1)[-1]}",
        url=f"https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro/{path}",
    )


_MEASURED = Source(
    document="tflite-micro 0.dev20261023182759, operator by operator",
    url="https://github.com/tensorflow/tflite-micro/tree/main/tensorflow/lite/micro/kernels",
)

TFLITE_MICRO = Target(
    name="tflite-micro",
    title="TensorFlow Lite Micro",
    operators=names(
        "ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS "
        "BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV "
        "ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER "
        "GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT "
        "LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU "
        "QUANTIZE READ_VARIABLE REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 "
        "ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE "
        "SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV "
        "UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE"
    )
    | {COMPILED_BY_VELA},
    limits=(
        Limit(operators=("FULLY_CONNECTED",), fact="weight_steps", high=1, where={"input_type": "int16"},
              source=_micro("kernels/fully_connected_common.cc"),
              reason="its weights have {value} steps, which it takes with int8 activations only",
              mend="write the file with one step per tensor for dense layers"),
        Limit(operators=WEIGHTED, fact="weight_type", one_of=("float32",), where={"input_type": "float32"},
              source=_micro("kernels/conv.cc"), reason="its weights are {value}, and what it multiplies them by is float32",
              mend="quantize activations, too"),
        Limit(operators=("EXP", "LOG", "SQRT"), fact="types", one_of=("float32",), source=_MEASURED,
              reason="it computes with {value}, and only float32 is possible", mend="replace the layer"),
        Limit(operators=("BATCH_TO_SPACE_ND", "GATHER", "GATHER_ND", "MIRROR_PAD", "REDUCE_MAX", "REDUCE_MIN",
                         "RESIZE_BILINEAR", "RSQRT", "SPACE_TO_BATCH_ND"),
              fact="types", one_of=("int8", "int32", "float32"), source=_MEASURED,
              reason="it computes with {value}, and not in 16 bits", mend="take 8-bit activations"),
    ),
    float_files=("float32",),
    dense_per_channel=False,
    needs_all=True,
    elsewhere="nothing: the interpreter does not start",
    sources={
        "operators": _micro("micro_mutable_op_resolver.h"),
        "activation_bits": _micro("kernels/conv.cc"),
        "edge_dtypes": _micro("kernels/quantize_common.cc"),
        "float_files": _micro("kernels/dequantize_common.cc"),
        "dense_per_channel": _micro("kernels/fully_connected_common.cc"),
        "int4_weights": _micro("kernels/conv.cc"),
        "needs_all": _micro("micro_interpreter.cc"),
    },
)  # fmt: skip
