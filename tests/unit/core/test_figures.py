# SPDX-License-Identifier: Apache-2.0
"""What a host tells is read as it was meant, or not at all."""

from hypothesis import given
from hypothesis import strategies as st

from nova_vcloud import host_stats

SHARES = st.integers(0, 1000).map(lambda n: n / 1000)


@given(st.builds(host_stats.Load, SHARES, SHARES, st.integers(0, 500),
                 st.integers(0, 2**32)))
def test_load_comes_back(load):
    assert host_stats.load(load.to_stats()) == load


@given(st.builds(
    host_stats.Ecu, st.none() | st.sampled_from([0.5, 2.5, 4.0]),
    st.none() | st.integers(1, 1000), st.none() | st.integers(0, 1000),
    st.lists(st.integers(0, 128), max_size=4).map(tuple)))
def test_ecu_comes_back(ecu):
    stats = ecu.to_stats()
    assert host_stats.ecu_per_core(stats) == ecu.per_core
    assert host_stats.node_cpus(stats) == ecu.node_cpus
    told = ecu.total is not None and ecu.used is not None
    assert host_stats.ecu_sold(stats) == (
        (ecu.used, ecu.total) if told else None)


@given(st.none() | st.dictionaries(st.sampled_from(
    ['load_cpu', 'load_memory', 'load_servers', 'load_time',
     'ecu_per_core', 'ecu_total', 'ecu_used', 'numa_node_cpus']),
    st.none() | st.text() | st.floats() | st.integers()))
def test_anything_else_is_nothing(stats):
    host_stats.load(stats)
    host_stats.ecu_per_core(stats)
    host_stats.ecu_sold(stats)
    host_stats.node_cpus(stats)
