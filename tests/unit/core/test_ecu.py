# SPDX-License-Identifier: Apache-2.0
"""An ECU is the same work everywhere."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import ecu
from nova_vcloud import exception

SPEEDS = st.floats(0.5, 50)


@given(st.integers(1, 200), SPEEDS, st.sampled_from([20_000, 100_000]))
def test_a_quota_gives_the_work_that_was_bought(units, per_core, period):
    try:
        quota = ecu.quota_us(units, per_core, period)
    except exception.InvalidLimit:
        assert period * units / per_core < ecu.LEAST_QUOTA
        return
    # The kernel counts whole microseconds.
    assert quota == pytest.approx(period * units / per_core, abs=0.5)


def test_less_than_the_kernel_counts_is_refused():
    with pytest.raises(exception.InvalidLimit, match='longer period'):
        ecu.quota_us(1, 50.0, 20_000)


@pytest.mark.parametrize(('cpus', 'per_core', 'total'), [
    (2, 2.5, 5), (2, 4.0, 8), (3, 2.4, 7), (10, 0.1, 1), (3, 1.1, 3),
    (1, 0.9, 0), (100, 0.29, 29)])
def test_capacity_is_whole(cpus, per_core, total):
    assert ecu.capacity(cpus, per_core) == total


def test_inventory():
    assert ecu.inventory(2, 2.5, 4.0, 1) == {'CUSTOM_ECU': {
        'total': 5, 'reserved': 1, 'min_unit': 1, 'max_unit': 5,
        'step_size': 1, 'allocation_ratio': 4.0}}
    assert ecu.inventory(2, 2.5, 1.0, 99)['CUSTOM_ECU']['reserved'] == 5
    assert ecu.inventory(1, 0.5, 1.0, 0) == {}  # Placement refuses 0
