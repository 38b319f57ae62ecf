"""What BatchNorm statistics tell of a network's channels, in plain words: those that are dead, and caps that are reached.

With y_c ~ N(mean_c, sd_c^2) before an activation, on training data:

    constant    gamma_c = 0, in training or by `preconditioning/constant_channels.py`
    off         P(y_c > 0) < 1e-6 before a ReLU
    cap         P(y_c > m) before min(., m)
"""

from dataclasses import dataclass

import keras
import numpy as np
from scipy import stats

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.preconditioning.caps import CAP_PROBABILITY, batchnorm_moments, cap_of

# A cap that no channel exceeds with a larger probability is said not to be reached.
_NEVER = 1e-4


@dataclass(frozen=True)
class Findings:
    """What was found, by layer.

    Attributes:
        dead: Layers with channels that carry nothing, and how many.
        caps: Layers with a cap, and how often it is reached.
    """

    dead: dict[str, str]
    caps: dict[str, str]


def channel_findings(unfolded: Graph) -> Findings:
    """What BatchNorm statistics say of the layers of a separated graph whose constant channels are frozen."""
    dead: dict[str, str] = {}
    caps: dict[str, str] = {}
    for node in unfolded.nodes:
        layer = unfolded.layer_of(node)
        gamma = layer.weight("gamma") if is_batchnorm(layer) else None
        if gamma is not None and (gamma == 0).any():
            dead[node.name] = (
                f"{int((gamma == 0).sum())} of {len(gamma)} channels are constant, as far as integers can tell"
            )
    moments = batchnorm_moments(unfolded)
    for node in unfolded.nodes:
        if not node.inputs or node.inputs[0] not in moments:
            continue
        mean, sd = moments[node.inputs[0]]
        sd = np.maximum(sd, 1e-12)
        if _cuts_negative(unfolded.operation_of(node)):
            off = int((stats.norm.sf(0, mean, sd) < CAP_PROBABILITY).sum())
            if off:
                dead[node.name] = f"{off} of {len(mean)} channels are practically never above 0"
        cap = cap_of(unfolded.operation_of(node))
        if cap is not None:
            caps[node.name] = _cap_text(cap, stats.norm.sf(cap, mean, sd))
    return Findings(dead, caps)


def _cap_text(cap: float, reached: np.ndarray) -> str:
    if reached.max() < _NEVER:
        return f"its cap at {cap:g} is practically never reached"
    return (
        f"its cap at {cap:g} is reached with probability {100 * reached.mean():.2g} % "
        f"({100 * reached.max():.2g} % in the channel that reaches it most)"
    )


def _cuts_negative(operation) -> bool:
    """Whether the operation is 0 for every number below 0."""
    if isinstance(operation, keras.layers.ReLU):
        return not operation.negative_slope and not operation.threshold
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in (keras.activations.relu, keras.activations.relu6)
    return type(operation).__name__ in ("Relu", "Relu6")
