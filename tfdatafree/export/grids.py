"""Chooses one grid per activation tensor of a file: built into a kernel, shared with other tensors, or from the range.

Some kernels need the same grid for their inputs and outputs. A tensor that no other operator reads takes the common grid. A
tensor that others read keeps its own grid, and is requantized for the kernel. A group of tensors with a common grid has the
most bits that one of them needs; the model's inputs keep theirs.
"""

from collections.abc import Callable, Mapping, Sequence

from tfdatafree.numerics.affine import Quantizer, activation_quantizer
from tfdatafree.numerics.range import Range, with_room
from tfdatafree.tflite.flatbuffer import File
from tfdatafree.tflite.operators import Fixed, Operator


def choose_grids(
    file: File,
    rules: Sequence[Operator | None],
    operands: Callable[..., list[int]],
    float_tensors: set[int],
    ranges: Mapping[int, Range],
    bits: int,
    tensor_bits: Mapping[int, int] | None = None,
) -> dict[int, Quantizer]:
    """{tensor: grid} for every float tensor that is computed or a model input, and whose range is known.

    Args:
        rules: Row of each operator of the file; None for those that stay in float.
        operands: (operator, rule) -> positions of its float inputs.
        ranges: Tensor -> range.
        bits: 8, or 16 for symmetric grids.
        tensor_bits: Tensor -> bits, for tensors with other bits.
    """
    return _Groups(file, float_tensors, bits, tensor_bits or {}).grids(rules, operands, ranges)


class _Groups:
    """Groups of tensors with one grid each (union-find over tensor indices)."""

    def __init__(self, file: File, float_tensors: set[int], bits: int, tensor_bits: Mapping[int, int]):
        self.file, self.float_tensors, self.bits, self.tensor_bits = file, float_tensors, bits, tensor_bits
        self.parent = {index: index for index in float_tensors}
        self.members = {index: [index] for index in float_tensors}
        self.fixed: dict[int, Mapping[int, Fixed]] = {}
        self.readers: dict[int, int] = {}
        for operator in file.operators:
            for index in dict.fromkeys(operator.inputs):
                self.readers[index] = self.readers.get(index, 0) + 1
        for index in file.outputs:
            self.readers[index] = self.readers.get(index, 0) + 1

    def grids(self, rules, operands, ranges: Mapping[int, Range]) -> dict[int, Quantizer]:
        for operator, rule in zip(self.file.operators, rules, strict=True):
            if rule is not None:
                self.share(operator, rule, operands(operator, rule))
        produced = [index for operator in self.file.operators for index in operator.outputs]
        computed = [index for index in (*self.file.inputs, *produced) if index in self.float_tensors]
        group_ranges: dict[int, Range] = {}
        for index in computed:
            if index in ranges:
                root, own = self.root(index), ranges[index]
                others = group_ranges.get(root, own)
                group_ranges[root] = Range(min(others.low, own.low), max(others.high, own.high))
        width: dict[int, int] = {}
        for index in computed:
            root = self.root(index)
            width[root] = max(width.get(root, 0), self.tensor_bits.get(index, self.bits))
        # The model's inputs have the type of the file's edges, and so have tensors that only hold moved input values.
        width |= {self.root(index): self.bits for index in self.file.inputs if index in self.float_tensors}
        grids = {}
        for index in computed:
            root = self.root(index)
            bits = width[root]
            if root in self.fixed and bits in self.fixed[root]:
                fixed = self.fixed[root][bits]
                grids[index] = Quantizer(fixed.scale, fixed.zero_point, bits)
            elif root in group_ranges:
                range_ = group_ranges[root] if bits <= self.bits else with_room(group_ranges[root])
                grids[index] = activation_quantizer(range_.low, range_.high, bits, symmetric=bits == 16)
        return grids

    def share(self, operator, rule: Operator, positions: Sequence[int]) -> None:
        """Joins tensors for which the operator's kernel needs one grid, and records a grid that is built into it."""
        outputs = [index for index in operator.outputs if index in self.float_tensors]
        if rule.fixed:
            for index in outputs:
                self.fixed[self.root(index)] = rule.fixed
        wide = max((*self.tensor_bits.values(), self.bits))
        if rule.grid == "own" or not outputs or wide not in rule.versions:
            return
        for position in positions:
            source = operator.inputs[position]
            if self.file.constant(source) is None and (rule.grid == "input" or self.may_share(source, outputs[0])):
                for index in outputs:
                    self.join(index, source)

    def may_share(self, source: int, output: int) -> bool:
        """Whether `source` can take the grid of `output` without a change for other readers of it."""
        members = self.members[self.root(source)]
        return (
            all(self.readers.get(index, 0) <= 1 and index not in self.file.inputs for index in members)
            and self.root(source) not in self.fixed
            and self.root(output) not in self.fixed
        )

    def root(self, index: int) -> int:
        while self.parent[index] != index:
            index = self.parent[index]
        return index

    def join(self, index: int, source: int) -> None:
        a, b = self.root(index), self.root(source)
        if a == b:
            return
        self.parent[a] = b
        self.members[b] += self.members.pop(a)
        if a in self.fixed:
            self.fixed[b] = self.fixed.pop(a)
