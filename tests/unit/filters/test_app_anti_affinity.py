# SPDX-License-Identifier: Apache-2.0
"""Servers of an application are kept apart: hard, or as far as it goes."""

from concurrent import futures
import logging
import time

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from oslo_utils.fixture import uuidsentinel as uuids
import pytest
import zoo

from nova_vcloud.filters import app_anti_affinity
from nova_vcloud.filters import app_index
from nova_vcloud.filters import turns
from nova_vcloud.filters import weighers
from nova_vcloud.flavor import applications

WEB = {'app': 'web', 'app_max_per_host': '1'}


@pytest.fixture(autouse=True)
def index(index):
    return index


def passed(hosts, hints=WEB, **kwargs):
    return zoo.passed(app_anti_affinity.AppAntiAffinityFilter, hosts,
                      zoo.request(hints=hints, **kwargs))


def best(hosts, hints, **kwargs):
    return zoo.best(weighers.AppAntiAffinityWeigher, hosts,
                    zoo.request(hints=hints, **kwargs))


@pytest.fixture
def running(databases):
    """Return a setter of where servers of an application are."""
    def put(app='web', project='p', **places):
        for server, host in places.items():
            uuid = getattr(uuids, server)
            databases.requests.append(
                (uuid, applications.Key(project, app)))
            databases.now.append(app_index.Place(uuid, host))
    return put


def hosts(*names):
    return [zoo.host(name) for name in names]


def test_a_host_that_has_one_takes_no_other(running, caplog):
    running(one='a')
    with caplog.at_level(logging.INFO):
        assert passed(hosts('a', 'b')) == ['b']
    assert 'host a rejected' in caplog.text
    assert ('host a has 1 servers of application web, may have 1'
            in caplog.text)


def test_no_application_no_rule(running):
    running(one='a')
    assert passed(hosts('a'), {}) == ['a']
    assert passed(hosts('a'), {'app': 'other', 'app_max_per_host': '1'}) == [
        'a']


def test_another_projects_application_is_another(running):
    running(one='a')
    assert passed(hosts('a'), project='q') == ['a']


def test_a_flavor_says_it_too(running):
    running(one='a')
    specs = {'vcloud__app': 'web', 'vcloud__app_max_per_host': '1'}
    assert passed(hosts('a', 'b'), {}, **specs) == ['b']
    # A hint goes before.
    assert passed(hosts('a', 'b'), {'app_max_per_host': '2'}, **specs) == [
        'a', 'b']


def test_an_option_says_it_for_all(running, options):
    running(one='a')
    options(app_max_per_host='1')
    assert passed(hosts('a', 'b'), {'app': 'web'}) == ['b']


def test_one_that_moves_is_not_in_its_own_way(running):
    running(one='a', two='b')
    assert passed(hosts('a', 'b', 'c'), server='one') == ['a', 'c']


def test_a_rack_has_a_maximum(running):
    running(one='a')
    rack = zoo.aggregate('a', 'b', rack='r1')
    found = [zoo.host('b', rack), zoo.host('c', {'rack': 'r2'}),
             zoo.host('d')]
    # Host a is no candidate; its server counts in the rack all the same.
    assert passed(found, {'app': 'web', 'app_max_per_rack': '1'}) == [
        'c', 'd']


def test_a_zone_has_a_maximum(running):
    running(one='a', two='x')
    zone = zoo.aggregate('a', 'b', availability_zone='z1')
    found = [zoo.host('b', zone), zoo.host('c')]
    # Host x is in no zone that we know of: so it is in the default one.
    assert passed(found, {'app': 'web', 'app_max_per_zone': '1'}) == []
    assert passed(found, {'app': 'web', 'app_max_per_zone': '2'}) == [
        'b', 'c']


@pytest.mark.parametrize(('share', 'left'), [
    ('25%', ['c']), ('50%', ['b', 'c']), ('75%', ['a', 'b', 'c'])])
def test_a_share_is_of_all_servers(running, share, left):
    # The new one is the fourth; a share is rounded up.
    running(one='a', two='a', three='b')
    assert passed(hosts('a', 'b', 'c'), {
        'app': 'web', 'app_max_per_host': share}) == left


def test_a_share_of_one_request_for_many():
    assert applications.Cap(25, percent=True).of(20) == 5
    assert applications.Cap(25, percent=True).of(1) == 1


def test_what_was_chosen_counts_before_it_is_built():
    found = hosts('a', 'b')
    spec = zoo.request('one', hints=WEB)
    kind = app_anti_affinity.AppAntiAffinityFilter
    assert zoo.passed(kind, found, spec) == ['a', 'b']
    found[0].consume_from_request(spec)
    assert found[0].vcpus_used == 1  # Nova's own part was done
    assert zoo.passed(kind, hosts('a', 'b'), zoo.request(
        'two', hints=WEB)) == ['b']


@pytest.mark.parametrize('hints', [WEB, {'app': 'web'}])
def test_of_many_at_once_each_finds_a_host_of_its_own(hints):
    names = [f'h{number}' for number in range(20)]

    def place(number):
        found, spec = hosts(*names), zoo.request(f's{number}', hints=hints)
        left = app_anti_affinity.AppAntiAffinityFilter().filter_all(
            found, spec)
        time.sleep(0.01)  # other filters
        liked = zoo.scores(weighers.AppAntiAffinityWeigher, left, spec)
        time.sleep(0.02)  # the claim
        host = max(left, key=lambda each: liked[each.host])
        host.consume_from_request(spec)
        return host.host

    with futures.ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(place, range(20))) == sorted(names)


def test_alternatives_hold_nobody_up(index):
    found, spec = hosts('a', 'b'), zoo.request('one', hints=WEB)
    kind = app_anti_affinity.AppAntiAffinityFilter
    zoo.passed(kind, found, spec)
    found[0].consume_from_request(spec)
    assert zoo.passed(kind, found, spec) == ['a', 'b']
    with futures.ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        assert pool.submit(passed, hosts('a', 'b')).result() == ['b']
        assert time.monotonic() - start < turns.TIMEOUT / 2


def test_a_request_that_comes_to_nothing_holds_nobody_up(running, index):
    running(one='a')
    index._turns = turns.Turns(timeout=1.0)
    with futures.ThreadPoolExecutor(1) as pool:
        # Rejected: over at once. Passed and never chosen: over in a while.
        for name, least, most in (('a', 0, 0.7), ('b', 0.9, 5)):
            assert pool.submit(passed, hosts(name)).result() == (
                ['b'] if name == 'b' else [])
            start = time.monotonic()
            passed(hosts('b'), server='two')
            assert least <= time.monotonic() - start < most
            index.end(applications.Key('p', 'web'))


def test_soft_gives_way_from_the_widest_to_the_narrowest(running, caplog):
    running(one='a')
    soft = {'app': 'web', 'app_max_per_zone': '1', 'app_max_per_rack': '1',
            'app_max_per_host': '1', 'app_policy': 'soft'}
    zone = zoo.aggregate('a', 'b', 'c', availability_zone='z')
    rack = zoo.aggregate('a', 'b', rack='r')
    a, b = zoo.host('a', zone, rack), zoo.host('b', zone, rack)
    c, d = zoo.host('c', zone), zoo.host('d')
    assert passed([a, b, c, d], soft) == ['d']
    with caplog.at_level(logging.INFO):
        assert passed([a, b, c], soft) == ['c']
    assert 'no host is within its maxima of zone, which are soft' \
        in caplog.text
    assert passed([a, b], soft) == ['b']
    assert passed([a], soft) == ['a']


@pytest.mark.parametrize('hints', [
    {'app': 'web', 'app_max_per_host': 'x'},
    {'app': 'web', 'app_max_per_rack': '0'},
    {'app': 'web', 'app_max_per_zone': '101%'},
    {'app': 'web', 'app_max_per_zone': ['1', '2']},
    {'app': 'web', 'app_policy': 'firm'},
    {'app': 'a b'}, {'app': ''}])
def test_a_bad_hint_is_named(hints, caplog):
    with caplog.at_level(logging.INFO):
        assert passed(hosts('a'), hints) == []
    assert f'hint {list(hints)[-1]}=' in caplog.text


def test_nothing_of_a_rebuild(running):
    running(one='a')
    hints = dict(WEB, _nova_check_type='rebuild')
    assert passed(hosts('a'), hints) == ['a']


def test_far_is_better(running):
    running(one='a')
    zone = zoo.aggregate('a', 'b', 'c', availability_zone='z')
    rack = zoo.aggregate('a', 'b', rack='r')
    a, b = zoo.host('a', zone, rack), zoo.host('b', zone, rack)
    c, d = zoo.host('c', zone), zoo.host('d')
    assert best([a, b, c, d], {'app': 'web'}) == 'd'
    assert best([a, b, c], {'app': 'web'}) == 'c'
    assert best([a, b], {'app': 'web'}) == 'b'
    assert zoo.scores(weighers.AppAntiAffinityWeigher, [a, b],
                      zoo.request()) == {'a': 0, 'b': 0}


def test_fewest_is_next(running):
    running(one='a', two='a', three='b')
    assert best(hosts('a', 'b'), {'app': 'web'}) == 'b'


HINTS = st.dictionaries(st.sampled_from(
    ['app', 'app_max_per_host', 'app_max_per_rack', 'app_max_per_zone',
     'app_policy']), st.one_of(
         st.sampled_from(['web', '1', '3', '50%', 'soft', 'hard']),
         st.text(max_size=5), st.lists(st.text(max_size=3), max_size=3)))
AGGREGATES = st.lists(st.dictionaries(st.sampled_from(
    ['rack', 'availability_zone', 'app_weight_multiplier']),
    st.text(max_size=4)), max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HINTS, st.lists(AGGREGATES, min_size=1, max_size=4))
def test_whatever_is_said_nothing_is_raised(running, hints, pools):
    running(one='h0')
    found = [zoo.host(f'h{n}', *pool) for n, pool in enumerate(pools)]
    left = passed(found, hints)
    assert set(left) <= {each.host for each in found}
    zoo.scores(weighers.AppAntiAffinityWeigher, found,
               zoo.request(hints=hints))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from('abcd'), st.integers(0, 3)),
       st.integers(1, 3))
def test_soft_never_leaves_none(index, counts, cap):
    key = applications.Key('p', 'web')
    for host, count in counts.items():
        for number in range(count):
            uuid = f'{host}{number}'
            index.note_request(uuid, key)
            index.note_choice(uuid, host)
    assert passed(hosts(*'abcd'), {
        'app': 'web', 'app_max_per_host': str(cap), 'app_policy': 'soft'})
