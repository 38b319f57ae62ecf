"""Checks whether images can be generated for a model, before any long work begins."""

from tfdatafree.canonical.resize import resize
from tfdatafree.errors import UnsupportedModelError
from tfdatafree.inputs.generate import input_specs
from tfdatafree.limits import require_inputs_fit
from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.recipe.recipe import Recover


def require_recoverable(graph: Graph, options: Recover) -> None:
    """Raises what recovery would raise.

    Args:
        graph: The canonical form of the user's model.

    Raises:
        UnsupportedModelError: No BatchNorm, or a layer or an input that allows no such images.
        ValueError: `image_size` does not fit this model.
    """
    if not any(is_batchnorm(layer) for layer in graph.layers.values()):
        raise UnsupportedModelError(
            f"'{graph.name}' has no BatchNormalization, by whose statistics recover could make images; leave recover out, "
            "and pass images of your own to feature_regression(compressed, model, images)."
        )
    specs = input_specs(graph, options.image_size)
    for spec in specs:
        require_inputs_fit(options.images, spec.example_shape)
    if options.image_size is not None:
        resize(graph, specs[0].example_shape)
