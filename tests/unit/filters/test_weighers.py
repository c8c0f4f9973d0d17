# SPDX-License-Identifier: Apache-2.0
"""Which host is liked best, and by how much."""

import logging
import time

from hypothesis import given
from hypothesis import strategies as st
from nova.scheduler import weights
from oslo_utils.fixture import uuidsentinel as uuids
import pytest
import zoo

from nova_vcloud import host_stats
from nova_vcloud.filters import weighers


def same_host(hosts, server):
    return list(zoo.scores(weighers.SameHostWeigher, hosts,
                           zoo.request(server)).values())


def test_the_servers_own_host_wins():
    assert same_host([zoo.host('a', servers=[uuids.other]),
                      zoo.host('b', servers=[uuids.mine])],
                     'mine') == [0, 1000]


def test_a_new_server_has_no_preference():
    assert same_host([zoo.host('a', servers=[uuids.other]), zoo.host('b')],
                     'new') == [0, 0]


def test_an_aggregate_may_say_otherwise():
    found = zoo.host('a', {'same_host_weight_multiplier': '2.5'},
                     servers=[uuids.mine])
    assert same_host([found, zoo.host('b')], 'mine') == [2.5, 0]


@pytest.mark.parametrize('instances', [None, {}])
def test_a_host_that_tells_of_no_server(instances):
    found = zoo.host('a')
    found.instances = instances
    assert same_host([found], 'mine') == [0]


def best(hosts, **kwargs):
    return zoo.best(weighers.UsageWeigher, hosts, zoo.request(**kwargs))


def loaded(cpu, memory, servers=0, age=0):
    return host_stats.Load(cpu, memory, servers,
                           time.time() - age).to_stats()


def test_the_least_claimed_host_is_best():
    assert best([zoo.host('cpu', used=3), zoo.host('memory', free=512),
                 zoo.host('little', used=1, free=3072)]) == 'little'


def test_what_is_measured_goes_before_what_is_claimed():
    assert best([
        zoo.host('busy', stats=loaded(0.9, 0.1)),
        zoo.host('claimed', used=3, stats=loaded(0.1, 0.1))]) == 'claimed'


def test_a_measurement_of_long_ago_is_none():
    assert best([
        zoo.host('busy', stats=loaded(0.9, 0.1, age=301)),
        zoo.host('claimed', used=3, stats=loaded(0.1, 0.1))]) == 'busy'


def test_servers_since_the_measurement_count():
    assert best([
        zoo.host('calm', stats=loaded(0.0, 0.0, servers=1), instances=4),
        zoo.host('busy', stats=loaded(0.3, 0.0, servers=1), instances=1),
    ]) == 'busy'


def test_equals_take_turns(recent):
    pool = {'vcloud:policy': 'performance'}
    chosen = []
    for _round in range(6):
        hosts = [zoo.host(name, pool) for name in 'abc']
        chosen.append(best(hosts))
        spec = zoo.request()
        next(h for h in hosts if h.host == chosen[-1]).consume_from_request(
            spec)
    assert sorted(chosen[:3]) == ['a', 'b', 'c']
    assert chosen[:3] == chosen[3:]


def test_a_progressive_pool_fills_one_host_before_the_next():
    pool = zoo.aggregate(vcloud__policy='progressive')
    used, chosen = dict.fromkeys('abc', 0), []
    for _round in range(6):
        hosts = [zoo.host(name, pool, vcpus=2, used=used[name])
                 for name in 'abc' if used[name] < 2]
        chosen.append(best(hosts))
        used[chosen[-1]] += 1
        hosts[[h.host for h in hosts].index(chosen[-1])].consume_from_request(
            zoo.request())
    assert [chosen[n] == chosen[n + 1] for n in (0, 2, 4)] == [True] * 3
    assert len(set(chosen)) == 3


def test_an_idle_host_that_is_full_of_claims_is_still_full():
    pool = {'vcloud:policy': 'progressive'}
    assert best([zoo.host('full', pool, used=3, stats=loaded(0.0, 0.0)),
                 zoo.host('empty', pool, stats=loaded(0.5, 0.5))]) == 'full'


def ecu(**kwargs):
    return host_stats.Ecu(4.0, **kwargs).to_stats()


def test_free_ecu_is_liked_by_those_who_ask_for_some():
    hosts = [zoo.host('half', stats=ecu(total=16, used=8)),
             zoo.host('free', stats=ecu(total=8, used=0)),
             zoo.host('sold', {'ecu_allocation_ratio': '0.5'},
                      stats=ecu(total=16, used=8)), zoo.host('dumb')]
    kind = weighers.EcuWeigher
    assert zoo.scores(kind, hosts, zoo.request(
        resources__CUSTOM_ECU='1')) == {
            'half': 0.5, 'free': 1.0, 'sold': 0.0, 'dumb': 0.0}
    assert set(zoo.scores(kind, hosts, zoo.request()).values()) == {0.0}


TEXTS = st.none() | st.text(max_size=5) | st.sampled_from(
    ['nan', '-1', '0.5', 'inf'])
STATS = st.none() | st.dictionaries(st.sampled_from(
    ['load_cpu', 'load_memory', 'load_servers', 'load_time', 'ecu_total',
     'ecu_used', 'ecu_per_core']), TEXTS)
METADATA = st.dictionaries(st.sampled_from(
    ['vcloud:policy', 'usage_weight_multiplier', 'ecu_weight_multiplier',
     'ecu_allocation_ratio']), st.text(max_size=5))
NUMBERS = st.none() | st.integers(-10, 10**6)


@given(st.lists(st.tuples(STATS, METADATA, NUMBERS, NUMBERS), min_size=1,
                max_size=4))
def test_whatever_is_said_nothing_is_raised(said):
    hosts = []
    for number, (stats, pool, vcpus, free) in enumerate(said):
        found = zoo.host(f'h{number}', pool, stats=stats, vcpus=vcpus,
                         free=free)
        found.cpu_allocation_ratio = None
        hosts.append(found)
    for kind in weighers.all_weighers():
        found = zoo.scores(kind, hosts, zoo.request(
            resources__CUSTOM_ECU='1'))
        assert len(found) == len(hosts)


KINDS = st.fixed_dictionaries({
    'cpu': st.floats(0, 1), 'used': st.integers(0, 160),
    'multiplier': st.sampled_from([None, '0', '2.5', '-1', 'x']),
    'mine': st.booleans()})


@given(st.lists(KINDS, min_size=1, max_size=6))
def test_one_weigher_to_nova_says_what_each_would(said):
    hosts = []
    for number, each in enumerate(said):
        pool = {} if each['multiplier'] is None else {
            'usage_weight_multiplier': each['multiplier'],
            'ecu_weight_multiplier': each['multiplier']}
        hosts.append(zoo.host(
            f'h{number}', pool, servers=[uuids.mine] if each['mine'] else [],
            stats=ecu(total=160, used=each['used']) | loaded(each['cpu'], 0)))
    spec = {'server': 'mine', 'resources__CUSTOM_ECU': '1'}
    found = zoo.scores(weighers.VcloudWeigher, hosts, zoo.request(**spec))
    apart = [zoo.scores(kind, hosts, zoo.request(**spec))
             for kind in weighers.KINDS]
    assert found == {host.host: pytest.approx(sum(
        each[host.host] for each in apart)) for host in hosts}


def test_what_is_zero_for_all_costs_nova_nothing():
    hosts = [zoo.host(name, {'usage_weight_multiplier': '0'}) for name in 'ab']
    weigher = weighers.VcloudWeigher()
    assert weigher.weigh_objects(
        [weights.WeighedHost(each, 0.0) for each in hosts],
        zoo.request()) == []


def test_the_log_has_the_score_of_each_weigher(caplog):
    hosts = [zoo.host('a', used=3), zoo.host('b')]
    with caplog.at_level(logging.DEBUG, 'nova_vcloud.filters.weighers'):
        zoo.scores(weighers.VcloudWeigher, hosts, zoo.request())
    line, = [each.getMessage() for each in caplog.records
             if 'score' in each.getMessage()]
    assert line.startswith('UsageWeigher: score (multiplier * weight) ')
    assert "('b', 'b'): '1.0 * 1.0'" in line
