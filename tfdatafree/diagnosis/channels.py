"""What BatchNorm statistics say about a network: which channels are dead, and how often caps are reached.

With y_c ~ N(mean_c, sd_c^2) before an activation, on training data:

    constant    gamma_c = 0, from training or set by `preconditioning/constant_channels.py`
    off         P(y_c > 0) < 1e-6 before a ReLU
    cap         P(y_c > m) before min(., m)
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from tfdatafree.model.batchnorm import is_batchnorm
from tfdatafree.model.graph import Graph
from tfdatafree.model.operations import cap_of, rectifier_of
from tfdatafree.preconditioning.caps import CAP_PROBABILITY, batchnorm_moments

# A cap that every channel exceeds with a smaller probability counts as not reached.
_NEVER = 1e-4


@dataclass(frozen=True)
class Findings:
    """What was found, in words for the user.

    Attributes:
        dead: Layer with channels that carry no information -> how many.
        caps: Layer with a cap -> how often it is reached.
    """

    dead: dict[str, str]
    caps: dict[str, str]


def channel_findings(unfolded: Graph) -> Findings:
    """The findings for a separated graph with its BatchNorms, in which the gamma of constant channels is 0 already."""
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
        operation = unfolded.operation_of(node)
        rectifier, cap = rectifier_of(operation), cap_of(operation)
        if rectifier is not None and rectifier.is_clip:
            off = int((stats.norm.sf(0, mean, sd) < CAP_PROBABILITY).sum())
            if off:
                dead[node.name] = f"{off} of {len(mean)} channels are practically never above 0"
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
