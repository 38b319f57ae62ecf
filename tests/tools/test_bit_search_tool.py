import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import bit_search
import zoo
from tiny_models import build

SCORES = {"n": 9, "top1": 0.5, "agreement": 0.75}
ROWS = [
    {"name": "float", "n": 9, "top1": 0.6},
    {"name": "8 bits", "size": None, "bytes": 1000, **SCORES, "few": None},
    {"name": "searched", "size": 0.7, "bytes": 690, **SCORES, "few": {"n": 3, "top1": 0.4, "agreement": 0.7}},
    {"name": "random 0", "size": 0.7, "bytes": 680, "n": 3, "top1": 0.3, "agreement": 0.6, "few": None},
    {"name": "random 1", "size": 0.7, "bytes": 699, "n": 3, "top1": 0.1, "agreement": 0.2, "few": None},
]


def test_random_bits_fill_the_size_and_never_more():
    weights = {f"layer_{at}": size for at, size in enumerate((14_000, 12_000, 9_000, 300, 16_000))}
    drawn = set()
    for seed in range(20):
        bits = bit_search.random_bits(weights, 12_000, np.random.default_rng(seed))
        spent = 256 + sum(weights[layer] // 2 + 16 for layer, width in bits.items() if width == 8)
        assert spent <= 12_000 and bits.keys() == weights.keys()
        assert all(spent + weights[layer] // 2 + 16 > 12_000 for layer, width in bits.items() if width == 4)
        drawn.add(tuple(bits.values()))
    assert len(drawn) > 2
    assert set(bit_search.random_bits(weights, 0, np.random.default_rng(0)).values()) == {4}


def test_the_table_puts_random_files_together():
    assert bit_search.markdown(ROWS).splitlines()[2:] == [
        "| float |  |  | 9 | 60.00 % |  |",
        "| 8 bits | 1,000 | 100.0 % | 9 | 50.00 % | 0.7500 |",
        "| searched | 690 | 69.0 % | 9 | 50.00 % | 0.7500 |",
        "| searched, on the random ones' images | 690 | 69.0 % | 3 | 40.00 % | 0.7000 |",
        "| 2 random, median | up to 699 | 69.9 % | 3 | 20.00 (10.00 to 30.00) % | 0.4000 (0.2000 to 0.6000) |",
    ]


@pytest.mark.slow
def test_every_file_is_of_the_size_asked_for(tmp_path):
    build("plain").save(tmp_path / "net.keras")
    random = np.random.default_rng(0)
    model = build("plain")
    x = random.integers(0, 256, (6, *model.input_shape[1:]), np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=np.zeros(6, np.int64))
    subject = zoo.Subject(name="net", file="net.keras", data="set.npz", preprocess="tf", calibration="")
    rows = list(bit_search.measure(subject, tmp_path, [1.0], 2, (6, 3), 0))
    assert [row["name"] for row in rows] == ["float", "8 bits", "4 bits", "searched", "random 0", "random 1"]
    whole, narrow = rows[1], rows[2]
    assert set(narrow["bits"].values()) == {4} and narrow["bytes"] < whole["bytes"]
    assert all(row["bytes"] <= whole["bytes"] for row in rows[3:])
    assert rows[3]["bits"] == whole["bits"] and rows[3]["few"]["n"] == rows[4]["n"] == 3
    assert rows[3]["top1"] == pytest.approx(whole["top1"])
