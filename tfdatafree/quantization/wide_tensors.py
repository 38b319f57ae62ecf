"""Tensors that get 16 bits in a file of 8-bit activations, where the target computes them so and no rule decides."""

from tfdatafree.model.graph import Graph
from tfdatafree.model.own_moments import own_moments
from tfdatafree.model.shares import fine_shares
from tfdatafree.targets.target import Target

# Operators that compute the inverse root of a variance in 16 bits (export/inverse_roots.py).
_ROOTS = frozenset(("RSQRT", "MINIMUM", "QUANTIZE"))
# Operators that compute the shares of a softmax, and with them.
_SHARES = frozenset(("SOFTMAX", "BATCH_MATMUL", "MUL", "QUANTIZE"))


def wide_tensors(graph: Graph, target: Target) -> frozenset[str]:
    """Moments by which the network normalizes its own values, and shares of softmaxes over many entries."""
    found = own_moments(graph) if target.computes_in_16_bits(_ROOTS) else frozenset()
    return found | fine_shares(graph) if target.computes_in_16_bits(_SHARES) else found
