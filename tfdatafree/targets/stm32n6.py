"""ST Neural-ART, the NPU of the STM32N6."""

from tfdatafree.targets.target import Limit, Source, Target, names


def _neural_art(section: str) -> Source:
    return Source(
        document="ST Edge AI Core, ST Neural-ART NPU: supported operators and limitations",
        section=section,
        url="https://stedgeai-dc.st.com/assets/embedded-docs/stneuralart_operator_support.html",
    )


STM32N6 = Target(
    name="stm32n6",
    title="STM32N6 (ST Neural-ART)",
    operators=names(
        "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED HARD_SWISH LEAKY_RELU "
        "LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PAD PRELU QUANTIZE REDUCE_MAX RELU RELU6 RESHAPE SQUEEZE SUB TANH "
        "TRANSPOSE"
    ),
    limits=(
        Limit(fact="types", one_of=("int8", "uint8", "int32"), source=_neural_art("Quantized Model Format"),
              reason="it reads or writes {value}", mend="take 8-bit activations and integer edges, and keep no layer in float"),
        Limit(fact="rank", high=4, source=_neural_art("Inference Model Constraints"),
              reason="a tensor has {value} axes, and at most 4 are possible", mend="reshape it"),
        Limit(operators=("MEAN", "REDUCE_MAX"), fact="global_pooling", one_of=(True,), mend="pool over height and width",
              reason="it is not a pooling of the whole map", source=_neural_art("LiteRT operators support")),
    ),
    activation_bits=(8,),
    edge_dtypes=("int8", "uint8", "float32"),
    pooled_slices=True,
    elsewhere="the Cortex-M55, in software",
    sources={
        "operators": _neural_art("LiteRT operators support, mapped to hardware"),
        "activation_bits": _neural_art("Quantized Model Format"),
        "edge_dtypes": _neural_art("Quantized Model Format"),
        "float_files": _neural_art("Quantized Model Format"),
        "dense_per_channel": _neural_art("Quantized Model Format"),
        "int4_weights": _neural_art("Quantized Model Format"),
        "pooled_slices": _neural_art("LiteRT operators support, mapped to hardware"),
    },
)  # fmt: skip
