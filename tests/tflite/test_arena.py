"""The planned arena: what meets in time has places apart, and the plan is between its bounds."""

import numpy as np
import pytest
from tiny_models import exported

from tfdatafree.runtimes.tflite_micro import TFLITE_MICRO, arena_bytes
from tfdatafree.tflite import arena
from tfdatafree.tflite.arena import Tenant, planned_bytes, tenants
from tfdatafree.tflite.flatbuffer import File


def widest(found: list[Tenant]) -> int:
    """Bytes that live at one time, at most."""
    times = range(max(tenant.last for tenant in found) + 1)
    return max(sum(tenant.size for tenant in found if tenant.first <= time <= tenant.last) for time in times)


def test_a_chain_needs_the_largest_pair_of_neighbours():
    chain = [Tenant(size, at, at + 1) for at, size in enumerate((64, 160, 320, 32, 16))]
    assert planned_bytes(chain) == 160 + 320 == widest(chain)
    skipped = [*chain, Tenant(96, 0, 5)]
    assert planned_bytes(skipped) == 160 + 320 + 96


def test_sizes_are_rounded_up_and_nothing_takes_nothing():
    assert planned_bytes([Tenant(1, 0, 1), Tenant(17, 1, 2)]) == 16 + 32
    assert planned_bytes([]) == 0


def test_every_plan_is_between_its_bounds():
    random = np.random.default_rng(0)
    for _ in range(50):
        starts = random.integers(0, 20, 30)
        found = [Tenant(16 * int(random.integers(1, 99)), int(at), int(at + random.integers(0, 6))) for at in starts]
        assert widest(found) <= planned_bytes(found) <= sum(tenant.size for tenant in found)


@pytest.mark.parametrize("name", ["plain", "branch_add", "two_outputs"])
def test_tensors_of_a_file_live_from_their_writer_to_their_last_reader(name):
    file = File.parse(exported(name).built.content)
    found = tenants(file)
    assert len(found) == len(file.inputs) + len({index for operator in file.operators for index in operator.outputs})
    assert widest(found) <= arena.arena_bytes(file) <= sum(-(-tenant.size // 16) * 16 for tenant in found)
    assert sum(tenant.first == 0 for tenant in found) >= len(file.inputs)
    assert sum(tenant.last == len(file.operators) for tenant in found) == len(file.outputs)


@pytest.mark.skipif(bool(TFLITE_MICRO.missing()), reason="compared with: pip install tflite-micro")
@pytest.mark.parametrize("name", ["plain", "branch_add"])
def test_tflite_micro_needs_what_is_planned_and_its_own_data(name):
    content = exported(name).built.content
    assert arena_bytes(content) > arena.arena_bytes(File.parse(content))
