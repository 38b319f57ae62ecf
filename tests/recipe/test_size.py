"""Sizes as text: parts stay parts, bytes get their unit, everything else is refused."""

import pytest

from tfdatafree.recipe.size import is_part, parse_bytes, parse_size


@pytest.mark.parametrize(
    "text, size",
    [
        ("0.6", 0.6),
        (".5", 0.5),
        ("1", 1),
        ("1.0", 1),
        ("2", 2),
        ("250000", 250_000),
        ("250kB", 250_000),
        ("1.5MB", 1_500_000),
    ]
    + [("250KB", 250_000), ("256KiB", 262_144), ("1 MiB", 1_048_576), ("0.5kB", 500)],
)
def test_texts_mean_parts_or_bytes(text, size):
    assert parse_size("size", text) == size
    assert is_part(size) or parse_bytes("size", text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "half", "1e3kB", "5 apples", "1.0001kB", "kB", "inf", "nan", "0.5B"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(
        ValueError, match="^size is .*give a part of the int8 file's bytes, e.g. 0.6, or a number of bytes"
    ):
        parse_size("size", text)
