"""Everything that compression learns about a model's tensors without data, gathered in one place.

Three views of the same tensors: procedural images passed through the float network; the same images with every BatchNorm's
statistics put right on the way; and layer-wise normal samples from BatchNorm statistics alone. Real inputs need no such help:
all three views are then what the real inputs show.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tfdatafree.measuring.gaussian import gaussian_walk
from tfdatafree.measuring.patches import tap_covariances
from tfdatafree.measuring.tensor_statistics import Statistics, collect
from tfdatafree.measuring.walks import image_walk, normalized_walk, number_of_batches
from tfdatafree.model.graph import Graph
from tfdatafree.model.saturation import softmax_inputs


@dataclass(frozen=True)
class Observed:
    """What was seen of each tensor, by tensor name, and of each layer's input, by layer key.

    Attributes:
        images: Statistics over the inputs as they are.
        normalized: Statistics over the inputs with BatchNorm statistics put right.
        gaussian: Statistics of layer-wise samples; the model's own inputs as in `images`.
        covariances: Layer key -> covariance of its input patches, (groups, inputs, inputs).
        real: Whether the inputs are the user's own.
    """

    images: dict[str, Statistics]
    normalized: dict[str, Statistics]
    gaussian: dict[str, Statistics]
    covariances: dict[str, np.ndarray]
    real: bool = False

    @property
    def means(self) -> dict[str, np.ndarray]:
        """Tensor -> mean per channel on real inputs, as far as BatchNorm statistics tell it."""
        return {tensor: s.mean for tensor, s in self.gaussian.items()}

    @property
    def variances(self) -> dict[str, np.ndarray]:
        """Tensor -> variance per channel on the inputs put right, of those tensors whose moments were asked for."""
        return {tensor: s.variance for tensor, s in self.normalized.items() if s.moments is not None}


def observe(
    unfolded: Graph,
    folded: Graph,
    inputs: Sequence[np.ndarray],
    *,
    samples: int = 2000,
    standard: bool = False,
    moments: bool = True,
    real: bool = False,
    seed: int = 0,
) -> Observed:
    """Observes every tensor of a model.

    Args:
        unfolded: The separated graph with its BatchNorms.
        folded: The graph that will be compressed; tensors of equal name hold equal values.
        inputs: Generated (or representative) inputs, one array per graph input.
        samples: Rows of the layer-wise samples.
        standard: Layer-wise samples from N(0, 1) in place of BatchNorm statistics, and no covariances: an ablation.
        moments: Whether `images` and `normalized` know the channels' moments of all tensors, not of the inputs alone. These
            take longer than everything else; only ranges by "k_sigma" and searched steps of weights need them.
        real: The inputs are the user's own. Nothing of what they show is put right by stored statistics.
    """
    batches = number_of_batches(folded, len(inputs[0]))
    if real:
        return _observe_real(unfolded, folded, inputs, batches, seed)
    wanted = None if moments else folded.inputs
    peaks = softmax_inputs(folded)
    covariances: dict[str, np.ndarray] = {}
    # All inputs in one batch take the most memory. So this comes first, and nothing is done meanwhile.
    walk = tap_covariances(normalized_walk(unfolded, inputs), unfolded, covariances, seed=seed)
    normalized = collect(walk, seed=seed, moments=wanted, peaks=peaks)
    with ThreadPoolExecutor(1) as thread:
        # Drawing samples takes one core, and passing images on does not always take all others.
        walk = image_walk(folded, inputs)
        passed = thread.submit(collect, walk, batches=batches, seed=seed, moments=wanted, peaks=peaks)
        gaussian = _gaussian(unfolded, samples, standard, seed)
        images = passed.result()
    if standard:
        covariances.clear()
    gaussian |= {tensor: images[tensor] for tensor in folded.inputs}
    return Observed(images, normalized, gaussian, _of_same_inputs(covariances, unfolded, folded))


def _observe_real(unfolded: Graph, folded: Graph, inputs: Sequence[np.ndarray], batches: int, seed: int) -> Observed:
    covariances: dict[str, np.ndarray] = {}
    for _ in tap_covariances(normalized_walk(unfolded, inputs, restore=False), unfolded, covariances, seed=seed):
        pass
    seen = collect(image_walk(folded, inputs), batches=batches, seed=seed, peaks=softmax_inputs(folded))
    return Observed(seen, seen, seen, _of_same_inputs(covariances, unfolded, folded), real=True)


def _of_same_inputs(covariances: dict[str, np.ndarray], unfolded: Graph, folded: Graph) -> dict[str, np.ndarray]:
    """Those of the layers that read the same tensor in both graphs.

    A BatchNorm that was folded into the layer behind it changed what that layer sees.
    """
    same = _kernel_inputs(unfolded).items() & _kernel_inputs(folded).items()
    return {key: covariances[key] for key, _ in same if key in covariances}


def tensor_means(
    unfolded: Graph, inputs: Sequence[np.ndarray], *, samples: int = 2000, standard: bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """`Observed.means` alone: no input passes through the model. Arguments as for `observe`."""
    given = collect(zip(unfolded.inputs, inputs, strict=True), seed=seed)
    return {tensor: s.mean for tensor, s in (_gaussian(unfolded, samples, standard, seed) | given).items()}


def _gaussian(unfolded: Graph, samples: int, standard: bool, seed: int) -> dict[str, Statistics]:
    walk = gaussian_walk(
        unfolded, samples=samples, seed=seed, unknown="standard" if standard else "moments", batchnorm=not standard
    )
    return collect(walk, seed=seed)


def _kernel_inputs(graph: Graph) -> dict[str, str]:
    """Layer key -> the tensor that its first call reads."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.inputs:
            found.setdefault(node.layer, node.inputs[0])
    return found
