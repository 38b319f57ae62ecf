"""What a graph consists of: one call of a layer (`Node`), the tensors it reads (`Ref`), their shapes and types (`TensorSpec`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfdatafree.errors import UnsupportedModelError


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor inside the arguments of a node."""

    tensor: str


@dataclass(frozen=True)
class TensorSpec:
    """Static shape of a tensor (None where a size is unknown; the first axis is the batch) and the name of its dtype."""

    shape: tuple[int | None, ...]
    dtype: str

    def size(self, axis: int) -> int:
        """The size of one axis. Raises UnsupportedModelError if it is unknown."""
        size = self.shape[axis]
        if size is None:
            raise UnsupportedModelError(
                f"a tensor has the shape {self.shape}, and the size of its axis {axis} is not known; build the model on "
                "inputs of fixed sizes."
            )
        return size

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch. Raises UnsupportedModelError if a size is unknown."""
        return tuple(self.size(axis) for axis in range(1, len(self.shape)))


@dataclass(frozen=True)
class Node:
    """One call of a layer. `args` and `kwargs` hold a `Ref` wherever a tensor goes; `layer` is a key of `layers`."""

    name: str
    layer: str
    args: tuple
    kwargs: Mapping[str, Any]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that this node reads, in argument order."""
        tensors: list[str] = []
        map_refs((self.args, self.kwargs), lambda ref: tensors.append(ref.tensor))
        return tuple(tensors)

    @property
    def output(self) -> str:
        """The first output, usually the only one."""
        return self.outputs[0]


def map_refs(structure: Any, function: Callable[[Ref], Any]) -> Any:
    """`structure` with `function` applied to each Ref in nested lists, tuples and mappings."""
    if isinstance(structure, Ref):
        return function(structure)
    if structure is None or isinstance(structure, (str, int, float)):
        return structure
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_refs(item, function) for item in structure)
    if isinstance(structure, Mapping):
        return {key: map_refs(item, function) for key, item in structure.items()}
    return structure
