"""Where the tensors of a network stand when it is drawn as lines that run from left to right.

Each tensor gets a lane that is its own from where it is computed to where it is read last, as a branch does in the graph of
a version history:
    a chain stays in lane 0; a residual keeps lane 0 while its branch runs in lane 1
so that no two tensors that are both still to be read share a lane.
"""

from collections.abc import Sequence


def lanes(names: Sequence[str], reads: Sequence[Sequence[str]]) -> list[int]:
    """Lane of each tensor, from 0.

    Args:
        names: Tensors in execution order.
        reads: For each, the earlier tensors that it is computed from.
    """
    last_read = {name: at for at, name in enumerate(names)}
    for at, sources in enumerate(reads):
        last_read |= {source: at for source in sources}
    found: dict[str, int] = {}
    taken: set[int] = set()
    for at, (name, sources) in enumerate(zip(names, reads, strict=True)):
        for other, lane in found.items():
            if last_read[other] == at:
                taken.discard(lane)
        free = [found[source] for source in sources if found[source] not in taken]
        lane = min(free) if free else next(lane for lane in range(len(names)) if lane not in taken)
        found[name] = lane
        taken.add(lane)
    return list(found.values())
