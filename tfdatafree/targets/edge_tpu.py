"""Google Edge TPU."""

from tfdatafree.targets.target import QUANTIZATION_SPEC, Limit, Source, Target, names


def _coral(section: str) -> Source:
    return Source(
        document="Coral, TensorFlow models on the Edge TPU",
        section=section,
        url="https://coral.ai/docs/edgetpu/models-intro/",
    )


_CORAL_OPERATORS = _coral("Supported operations")
EDGE_TPU = Target(
    name="edgetpu",
    title="Google Edge TPU (Coral)",
    operators=names(
        "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC "
        "MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE "
        "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQUARED_DIFFERENCE SQUEEZE "
        "STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM"
    ),
    limits=(
        Limit(fact="types", one_of=("int8", "uint8", "int32"), source=_coral("Model requirements"),
              reason="it reads or writes {value}", mend="take 8-bit activations and keep no layer in float"),
        Limit(fact="outer", high=1, source=_coral("Model requirements"),
              reason="a tensor has {value} entries outside its three innermost axes",
              mend="reshape it such that only three axes, the innermost ones, are longer than 1"),
        Limit(operators=("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION"), fact="activation", one_of=("NONE",),
              source=_CORAL_OPERATORS, reason="{value} is fused into it", mend="apply the activation before it"),
        Limit(operators=("CONV_2D", "DEPTHWISE_CONV_2D"), fact="square_dilation", one_of=(True,), source=_CORAL_OPERATORS,
              reason="it is dilated differently along height and width", mend="dilate both alike"),
        Limit(operators=("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), fact="reduces_batch", one_of=(False,),
              source=_CORAL_OPERATORS, reason="it reduces the batch", mend="reduce the other axes only"),
        Limit(operators=("MEAN",), fact="reduced_depth_over_4", one_of=(0,), source=_CORAL_OPERATORS,
              reason="it averages over channels, of which there are not a multiple of 4", mend="use a multiple of 4"),
        Limit(operators=("SOFTMAX",), fact="long_axes", high=1, source=_CORAL_OPERATORS,
              reason="its input has {value} axes longer than 1, and one is possible",
              mend="end the model in logits and apply softmax in the application"),
        Limit(operators=("SOFTMAX",), fact="elements", high=16000, source=_CORAL_OPERATORS,
              reason="its input has {value} elements, and at most 16000 are possible",
              mend="end the model in logits and apply softmax in the application"),
        Limit(operators=("STRIDED_SLICE",), fact="strided", one_of=(False,), source=_CORAL_OPERATORS,
              reason="it skips entries", mend="use a pooling or a convolution with stride in its place"),
        Limit(operators=("FULLY_CONNECTED",), fact="output_long_axes", high=1, source=_CORAL_OPERATORS,
              reason="its output has {value} axes longer than 1, and one is possible",
              mend="use a 1x1 convolution in its place"),
        Limit(operators=("PRELU",), fact="alpha_long_axes", high=1, source=_CORAL_OPERATORS,
              reason="its slopes differ along {value} axes, and only channels are possible",
              mend="give PReLU shared_axes=[1, 2]"),
    ),
    activation_bits=(8,),
    edge_dtypes=("int8", "uint8"),
    dense_per_channel=False,
    pooled_slices=True,
    one_piece=True,
    elsewhere="the CPU, and so does everything after the first such operator",
    sources={
        "operators": _CORAL_OPERATORS,
        "activation_bits": _coral("Model requirements"),
        "edge_dtypes": _coral("Model requirements"),
        "float_files": _coral("Model requirements"),
        "int4_weights": _coral("Model requirements"),
        "dense_per_channel": QUANTIZATION_SPEC,
        "pooled_slices": _CORAL_OPERATORS,
        "one_piece": _coral("Compiling"),
    },
)  # fmt: skip
