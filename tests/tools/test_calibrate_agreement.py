"""Tests of the fit of real agreement."""

import sys
from pathlib import Path

import numpy as np
from scipy.special import ndtr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import calibrate_agreement as tool


def _rows(noise: float) -> list[dict]:
    random = np.random.default_rng(0)
    rows = []
    for model in range(10):
        for recipe in range(12):
            x = random.normal(1.0, 1.0, size=2)
            real = float(ndtr(0.3 + x @ (0.8, 0.4) + noise * random.normal()))
            rows.append({"model": f"m{model}", "recipe": str(recipe), "n": 500, "real": real, "generated": 0.5,
                         "features": x.tolist()})  # fmt: skip
    return rows


def test_a_law_that_holds_is_found():
    found = tool.calibrate(_rows(0.0))
    np.testing.assert_allclose(found["coefficients"], (0.3, 0.8, 0.4), atol=0.05)
    assert found["mean_error"] < 0.01 and found["half_width"] < 0.2


def test_the_interval_holds_the_wanted_part_and_grows_with_the_noise():
    small, large = (tool.calibrate(_rows(noise)) for noise in (0.1, 0.4))
    assert all(tool.COVERAGE <= found["coverage"] < 1 for found in (small, large))
    assert small["half_width"] < large["half_width"]


def test_a_model_does_not_judge_itself():
    rows = _rows(0.0)
    odd = [row | {"real": 1 - row["real"]} if row["model"] == "m3" else row for row in rows]
    found = tool.calibrate(odd)
    assert found["by_model"]["m3"][1] > 0.3 > found["by_model"]["m4"][1]
    assert tool.markdown(found).count("\n") == 13
