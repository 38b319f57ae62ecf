"""layer_inputs(): what each layer reads, drawn from BatchNorm statistics alone."""

import keras
import numpy as np

from tfdatafree.canonical.separate import separate
from tfdatafree.limits import require_seed
from tfdatafree.measuring.gaussian import gaussian_walk
from tfdatafree.model.graph import Graph
from tfdatafree.model.kernels import find_layout
from tfdatafree.recipe.check import require_whole


def layer_inputs(model: keras.Model, *, samples: int = 2000, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of each layer with weights, generated from BatchNorm statistics alone.

    Args:
        model: A Functional or Sequential model; it is not changed.
        samples: Number of rows; a model with very wide tensors gets fewer.
        seed: The same seed gives the same samples.

    Returns:
        Layer name -> float32 array (samples, channels) of what its first call reads.
    Source: Horton et al. 2021, eq. 10-12.
    """
    seed = require_seed(seed)
    require_whole("samples", samples, 1)
    graph = separate(Graph.from_keras(model)).graph
    keys: dict[str, list[str]] = {}
    for key, node in graph.first_calls().items():
        if find_layout(graph.layers[key]):
            keys.setdefault(node.inputs[0], []).append(key)
    inputs = {}
    for tensor, values in gaussian_walk(graph, samples=samples, seed=seed):
        inputs.update((key, values) for key in keys.get(tensor, ()))
    return inputs
