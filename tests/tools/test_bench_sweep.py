"""tools/bench_sweep.py: the queue that stands for a sweep on many workers."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from bench_sweep import simulate


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=40), st.integers(1, 9), st.floats(0.001, 1))
def test_a_sweep_takes_no_less_than_workers_and_server_need(durations, workers, service):
    found = simulate(np.array(durations), workers, service)
    least = max(sum(durations) / workers, max(durations), len(durations) * service)
    most = sum(durations) + 2 * len(durations) * service + 2 * workers * service
    assert least <= found["makespan"] * (1 + 1e-9) and found["makespan"] <= most * (1 + 1e-9)
    assert found["busy"] == pytest.approx(sum(durations) / workers / found["makespan"])


def test_a_free_server_keeps_every_worker_busy_and_a_slow_one_limits_all():
    jobs = np.full(1000, 2.0)
    assert simulate(jobs, 10, 0.0)["makespan"] == pytest.approx(200)
    assert min(simulate(jobs, workers, 0.1)["makespan"] for workers in (50, 500)) >= 1000 * 0.1
