"""Converts a graph to a float TFLite file, and finds each of its tensors again in that file.

Every node is traced inside a name scope of its own, and TFLite names a tensor after the operation that wrote it, so the
scope tells the node. A match by name counts only if both tensors also hold the same values on a probe input.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfdatafree.errors import ExportError
from tfdatafree.export.flatbuffer import File
from tfdatafree.export.runtime import Runner
from tfdatafree.graph import Graph

# Largest difference, relative to the largest value, between a Keras tensor and the same tensor of the float file.
_SAME_VALUES = 1e-3


@dataclass(frozen=True)
class FloatModel:
    """A float TFLite file and where the graph's tensors and layers are in it.

    Attributes:
        content: The file.
        tensor_of: Graph tensor -> index of the file tensor with the same values. Tensors that the converter fused away
            are absent.
        node_of: File tensor index -> name of the graph node whose operations wrote it.
    """

    content: bytes
    tensor_of: dict[str, int]
    node_of: dict[int, str]


def convert(graph: Graph, probe: Sequence[np.ndarray], *, float16: bool = False) -> FloatModel:
    """Float TFLite file of `graph` for batches of one.

    Args:
        probe: One input of batch 1 per graph input; tensors are matched on it.
        float16: Store weights as float16.

    Raises:
        ExportError: A shape is not static, or TFLite has no operator for a layer.
    """
    content = _convert(_trace(graph), float16)
    if float16:
        return FloatModel(content, {}, {})
    file = File.parse(content)
    candidates, node_of = _match_names(graph, file)
    return FloatModel(content, _match_values(graph, candidates, content, probe), node_of)


def _trace(graph: Graph):
    signature = []
    for tensor in graph.inputs:
        spec = graph.specs[tensor]
        if None in spec.shape[1:]:
            raise ExportError(
                f"input '{tensor}' has shape {spec.shape}; a TFLite file for NPUs needs static shapes: "
                "pass input_shape=(height, width, channels)."
            )
        signature.append(tf.TensorSpec((1, *spec.shape[1:]), spec.dtype, name=tensor))

    def call_scoped(node, live):
        with tf.name_scope(f"n{graph.nodes.index(node)}"):
            return graph.call(node, live)

    def function(*inputs):
        live = dict(zip(graph.inputs, inputs, strict=True))
        for _, live in graph.walk(inputs, call_scoped):
            pass
        # Identities, so that an output that is also an input, or is given twice, is still an output of its own.
        return [tf.identity(live[tensor], name=f"output_{i}") for i, tensor in enumerate(graph.outputs)]

    return tf.function(function, autograph=False).get_concrete_function(*signature)


def _convert(function, float16: bool) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    try:
        with _silence():
            return converter.convert()
    except Exception as error:  # the converter raises many types; all of them mean this
        operators = sorted(set(re.findall(r"(?:Flex|tf\.)\w+", str(error))))
        named = ", ".join(operators) or str(error).strip().splitlines()[0]
        raise ExportError(f"TFLite has no operator for {named}; replace the layer that uses it.") from error


@contextlib.contextmanager
def _silence():
    """Hides what the converter writes straight to the process's standard error while it works."""
    with tempfile.TemporaryFile() as sink, contextlib.redirect_stderr(io.StringIO()):
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _match_names(graph: Graph, file: File) -> tuple[dict[str, int], dict[int, str]]:
    """({graph tensor: file tensor} by name, {file tensor: node}); of several in one scope the last written is meant."""
    candidates: dict[str, int] = dict(zip(graph.inputs, file.inputs, strict=True))
    node_of: dict[int, str] = {}
    for operator in file.operators:
        for index in operator.outputs:
            scope = re.match(r"n(\d+)/", file.name(index))
            if scope is None:
                continue
            node = graph.nodes[int(scope.group(1))]
            node_of[index] = node.name
            if len(node.outputs) == 1:
                candidates[node.output] = index
    producers = graph.producers()
    for tensor, index in zip(graph.outputs, file.outputs, strict=True):
        candidates[tensor] = index
        if tensor in producers:
            node_of[index] = producers[tensor].name
    return candidates, node_of


def _match_values(
    graph: Graph, candidates: dict[str, int], content: bytes, probe: Sequence[np.ndarray]
) -> dict[str, int]:
    """The candidates whose values on `probe` agree between graph and file."""
    runner = Runner(content, keep_all=True)
    runner.run(probe)
    matched = {}
    for tensor in graph.inputs:
        matched[tensor] = candidates[tensor]
    for node, live in graph.walk(probe):
        for tensor in node.outputs:
            index = candidates.get(tensor)
            if index is None:
                continue
            expected, found = np.asarray(live[tensor]), runner.value(index)
            if found is None or found.shape != expected.shape:
                continue
            scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
            if np.abs(found - expected).max(initial=0.0) <= _SAME_VALUES * scale:
                matched[tensor] = index
    missing = [tensor for tensor in graph.outputs if tensor not in matched]
    if missing:
        raise ExportError(f"the converted float file computes another '{missing[0]}' than the Keras model.")
    return matched


