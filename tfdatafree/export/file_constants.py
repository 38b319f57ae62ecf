"""Gives the simulation the constants of the file: matrices that the network multiplies by, which no layer holds as weights.

C_q = scale * (q - zero_point)   in place of C in the arguments of a node
so that the node computes with the values that the file has.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfdatafree.export.constants import Constant
from tfdatafree.model.graph import Graph
from tfdatafree.tflite.flatbuffer import File

# Operators that multiply two tensors as matrices: an error of a constant adds up along an axis.
_PRODUCTS = ("BATCH_MATMUL", "FULLY_CONNECTED")


def with_file_constants(
    graph: Graph, file: File, constants: Mapping[int, Constant], node_of: Mapping[int, str]
) -> Graph:
    """`graph` with the constant matrices in the arguments of its nodes as `file` has them.

    Args:
        constants: Tensor of the file -> integers and grid of a constant.
        node_of: Tensor of the file -> the node that writes it.
    """
    graph = graph.copy()
    for operator in file.operators:
        name = node_of.get(int(operator.outputs[0]))
        if name is None or file.operator_name(operator) not in _PRODUCTS:
            continue
        for index in operator.inputs:
            if index in constants:
                node, constant = graph.node(name), constants[index]
                replaced = dataclasses.replace(node, args=_replaced(node.args, constant))
                graph.nodes[graph.nodes.index(node)] = replaced
    return graph


def _replaced(argument: Any, constant: Constant) -> Any:
    """`argument` with those arrays in it, of which `constant` is the rounded form, replaced by its values."""
    if isinstance(argument, (list, tuple)):
        return type(argument)(_replaced(part, constant) for part in argument)
    if not (isinstance(argument, np.ndarray) or keras.ops.is_tensor(argument)):
        return argument
    values, written = np.asarray(argument), constant.quantizer.dequantize(constant.values)
    within = float(np.max(constant.quantizer.scale))
    for turned in (written, np.swapaxes(written, -1, -2) if written.ndim > 1 else written):
        if turned.size == values.size and np.abs(turned.reshape(values.shape) - values).max(initial=0) <= within:
            return turned.reshape(values.shape).astype(values.dtype)
    return argument
