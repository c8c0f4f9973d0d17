# SPDX-License-Identifier: Apache-2.0
"""The words of cgroup v1 and v2."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud.qos import convert
from nova_vcloud.qos import limits

SHARES = st.integers(*convert.SHARES)
WEIGHTS = st.integers(*convert.WEIGHT)
NUMBERS = st.one_of(st.just(limits.UNLIMITED), st.integers(1, 2**60))


@given(WEIGHTS)
def test_a_weight_survives_the_way_over_shares(weight):
    assert convert.weight_of(convert.shares_of(weight)) == weight


@given(SHARES, SHARES)
def test_more_shares_are_never_less_weight(one, other):
    low, high = sorted((one, other))
    assert convert.weight_of(low) <= convert.weight_of(high)
    assert convert.curved_weight_of(low) <= convert.curved_weight_of(high)


@pytest.mark.parametrize(('shares', 'straight', 'curved'), [
    (2, 1, 1), (1024, 39, 100), (2048, 79, 174), (262144, 10000, 10000)])
def test_known_weights(shares, straight, curved):
    # runc 1.1 and systemd; opencontainers/cgroups 0.0.3.
    assert convert.weight_of(shares) == straight
    assert convert.curved_weight_of(shares) == curved


@given(SHARES)
def test_both_ways_of_engines_are_taken_for_the_same(shares):
    for weight in (convert.weight_of(shares),
                   convert.curved_weight_of(shares)):
        assert convert.same_weight(shares, convert.shares_of(weight))


def test_another_weight_is_not():
    assert not convert.same_weight(1024, convert.shares_of(500))


@given(NUMBERS, st.integers(1000, 10**6))
def test_bandwidth(quota, period):
    assert convert.parse_cpu_max(convert.cpu_max(quota, period)) == (
        quota, period)


def test_io_max():
    text = '8:0 rbps=max wbps=1000 riops=5 wiops=max\n8:16 rbps=7'
    assert convert.parse_io_max(text, '8:0', 'io.write_bps') == 1000
    assert convert.parse_io_max(text, '8:0', 'io.read_iops') == 5
    for device, kind in (('8:0', 'io.read_bps'), ('8:16', 'io.write_bps'),
                         ('9:0', 'io.read_bps')):
        assert convert.parse_io_max(text, device, kind) is limits.UNLIMITED
    assert convert.io_max('8:0', 'io.read_bps', limits.UNLIMITED) == (
        '8:0 rbps=max')


def test_memory_and_swap_of_v1():
    assert convert.memory_and_swap(5, 3) == 8
    assert convert.memory_and_swap(limits.UNLIMITED, 3) == -1
    assert convert.memory_and_swap(5, limits.UNLIMITED) == -1
