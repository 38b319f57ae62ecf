"""How files are written: equal vectors only once, buffers at multiples of 16 bytes."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tiny_models import exported

from tfdatafree import Quantize
from tfdatafree.export.emit import quantize_file
from tfdatafree.export.float_model import convert
from tfdatafree.export.plan import Spec
from tfdatafree.numerics.range import Range
from tfdatafree.tflite.flatbuffer import File

OPTIONS = [Quantize(), Quantize(weight_bits=4, int4=True), Quantize(activation_bits=16)]


def place_of(table, field: int) -> int | None:
    """Position in the file at which the vector of `field` begins; None if there is none."""
    offset = table._tab.Offset(field)
    return table._tab.Vector(offset) if offset else None


@pytest.mark.parametrize("options", OPTIONS)
def test_the_data_of_buffers_begins_at_multiples_of_16_bytes(options):
    model = schema.Model.GetRootAs(exported("plain", options).built.content, 0)
    places = [place_of(model.Buffers(at), 4) for at in range(model.BuffersLength())]
    found = [place for place in places if place is not None]
    assert len(found) > 3 and all(place % 16 == 0 for place in found)


def test_zero_points_are_written_once_for_all_tensors_of_as_many_channels():
    content = exported("plain").built.content
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    places: dict[tuple, set[int]] = {}
    tensors = 0
    for at in range(graph.TensorsLength()):
        quantization = graph.Tensors(at).Quantization()
        if quantization is not None and quantization.ZeroPointLength():
            values = tuple(quantization.ZeroPointAsNumpy().tolist())
            places.setdefault(values, set()).add(place_of(quantization, 10))
            tensors += len(values) > 1
    assert all(len(found) == 1 for found in places.values())
    assert tensors > len([values for values in places if len(values) > 1]) > 0


def test_editing_a_copy_leaves_the_file_as_it_is():
    decided = exported("merges")
    file = convert(decided.rounded, [array[:1] for array in decided.inputs]).file
    before = file.serialize()
    spec = Spec(dict.fromkeys(range(len(file.tensors)), Range(-4, 4)), activation_bits=16, edge_dtype="int16")
    written = quantize_file(file, spec).content  # changes all that a copy holds
    assert file.serialize() == before == file.copy().serialize()
    assert quantize_file(file, spec).content == written != before


@pytest.mark.parametrize("options", OPTIONS)
def test_what_was_written_is_read(options):
    content = exported("plain", options).built.content
    file, again = File.parse(content), File.parse(File.parse(content).serialize())
    assert again.serialize() == file.serialize()
    for index in range(len(file.tensors)):
        assert (file.name(index), file.dtype(index)) == (again.name(index), again.dtype(index))
        for name in ("scale", "zeroPoint"):
            pair = [getattr(f.tensors[index].quantization, name, None) for f in (file, again)]
            assert np.array_equal(*pair) if pair[0] is not None else pair[1] is None
        before, after = file.constant(index), again.constant(index)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(after, before)
