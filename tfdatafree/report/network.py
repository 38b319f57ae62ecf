"""Assigns the tensors of a network to lanes, for a drawing from left to right.

A tensor occupies its lane from where it is computed to where it is read last, like a branch in a version history.
A chain stays in lane 0. A residual keeps lane 0 while its branch runs in lane 1,
so that no two tensors that will both still be read share a lane.
"""

from collections.abc import Sequence


def assign_lanes(names: Sequence[str], reads: Sequence[Sequence[str]]) -> list[int]:
    """Lane of each tensor, from 0.

    Args:
        names: Tensors in execution order.
        reads: For each tensor, the earlier tensors that it is computed from.
    """
    last_read = {name: at for at, name in enumerate(names)}
    for at, sources in enumerate(reads):
        last_read |= {source: at for source in sources}
    lanes: dict[str, int] = {}
    taken: set[int] = set()
    for at, (name, sources) in enumerate(zip(names, reads, strict=True)):
        for other, lane in lanes.items():
            if last_read[other] == at:
                taken.discard(lane)
        free = [lanes[source] for source in sources if lanes[source] not in taken]
        lane = min(free) if free else next(lane for lane in range(len(names)) if lane not in taken)
        lanes[name] = lane
        taken.add(lane)
    return list(lanes.values())
