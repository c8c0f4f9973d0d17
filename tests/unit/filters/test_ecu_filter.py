# SPDX-License-Identifier: Apache-2.0
"""Hosts that are too slow, too far apart or sold out are rejected."""

import logging

from hypothesis import given
from hypothesis import strategies as st
import pytest
import zoo

from nova_vcloud.filters import ecu_filter

FOUR = {'resources__CUSTOM_ECU': '4'}
SLOW = {'ecu_per_core': '2.5', 'ecu_total': '10', 'ecu_used': '0'}
FAST = {'ecu_per_core': '4', 'ecu_total': '16', 'ecu_used': '0'}


def passed(hosts, **kwargs):
    return zoo.passed(ecu_filter.EcuFilter, hosts, zoo.request(**kwargs))


def test_a_core_must_be_fast_enough(caplog):
    hosts = [zoo.host('slow', stats=SLOW), zoo.host('fast', stats=FAST)]
    with caplog.at_level(logging.INFO):
        assert passed(hosts, **FOUR) == ['fast']
    line, = [r.getMessage() for r in caplog.records]
    assert 'host slow rejected' in line
    assert 'needs 4 ECU a core, has 2.5' in line


def test_two_cores_may_share_it():
    assert passed([zoo.host('slow', stats=SLOW)], vcpus=2, **FOUR) == ['slow']


def test_a_flavor_without_ecu_goes_anywhere():
    assert passed([zoo.host('slow', stats=SLOW), zoo.host('dumb')]) == [
        'slow', 'dumb']


@pytest.mark.parametrize(('choice', 'expected'), [
    ('pass', ['dumb']), ('reject', [])])
def test_a_host_that_does_not_tell(options, choice, expected):
    options(unknown_ecu=choice)
    assert passed([zoo.host('dumb')], **FOUR) == expected


def test_an_aggregate_tells_for_its_hosts():
    libvirt = zoo.host('kvm', {'ecu_per_core': '3'}, {'ecu_per_core': '5'})
    assert passed([libvirt], **FOUR) == []
    assert passed([libvirt], resources__CUSTOM_ECU='3') == ['kvm']
    # What a host has measured goes before.
    assert passed([zoo.host('own', {'ecu_per_core': '1'}, stats=FAST)],
                  **FOUR) == ['own']


def test_the_ratio_of_an_aggregate():
    stats = dict(FAST, ecu_used='10')
    pools = {'ecu_allocation_ratio': '0.5'}, {'ecu_allocation_ratio': '1'}
    assert passed([zoo.host('half', *pools, stats=stats),
                   zoo.host('full', pools[1], stats=stats)],
                  **FOUR) == ['full']


@pytest.mark.parametrize('specs', [
    {'hw__cpu_policy': 'dedicated'}, {'vcloud__cpu_placement': 'bind'}])
def test_one_numa_node_must_be_large_enough(specs):
    hosts = [zoo.host('two', stats=dict(FAST, numa_node_cpus='4,2')),
             zoo.host('one', stats=dict(FAST, numa_node_cpus='8'))]
    wish = dict(FOUR, **specs)
    assert passed(hosts, vcpus=6, vcloud__numa_policy='require',
                  **wish) == ['one']
    assert passed(hosts, vcpus=6, **wish) == ['two', 'one']


def test_a_bad_value_names_its_key(caplog):
    with caplog.at_level(logging.INFO):
        assert passed([zoo.host('a', stats=FAST)],
                      resources__CUSTOM_ECU='many') == []
    assert 'resources:CUSTOM_ECU=many' in caplog.text


def test_many_hosts_make_few_lines(caplog):
    hosts = [zoo.host(f'h{n}', stats=SLOW) for n in range(100)]
    with caplog.at_level(logging.INFO):
        assert passed(hosts, **FOUR) == []
    assert len(caplog.records) == 21
    assert '80 more hosts' in caplog.records[-1].getMessage()


TEXTS = st.one_of(st.none(), st.text(max_size=8), st.sampled_from(
    ['', '0', '-1', 'nan', 'inf', '1e999', '2.5', '4,x', '4,,4', ' 3 ']))
STATS = st.one_of(st.none(), st.dictionaries(st.sampled_from(
    ['ecu_per_core', 'ecu_total', 'ecu_used', 'numa_node_cpus']), TEXTS))
METADATA = st.dictionaries(st.sampled_from(
    ['ecu_per_core', 'ecu_allocation_ratio']), st.text(max_size=6))


@given(STATS, st.lists(METADATA, max_size=3), st.dictionaries(
    st.sampled_from(['resources__CUSTOM_ECU', 'resources1__CUSTOM_ECU',
                     'vcloud__numa_policy', 'hw__cpu_policy']),
    st.text(max_size=6)), st.integers(0, 8))
def test_whatever_is_said_nothing_is_raised(stats, pools, specs, vcpus):
    found = passed([zoo.host('a', *pools, stats=stats)], vcpus=vcpus, **specs)
    assert found in ([], ['a'])


def test_a_host_that_was_never_updated():
    found = zoo.host('new')
    del found.stats
    assert passed([found], **FOUR) == ['new']
