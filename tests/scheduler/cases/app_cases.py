# SPDX-License-Identifier: Apache-2.0
"""AppAntiAffinityFilter: servers of an application are kept apart."""

import collections
import time

import cloud as cloud_module
import pytest

from nova_vcloud.filters import app_anti_affinity
from nova_vcloud.filters import app_index
from nova_vcloud.filters import app_reader

APP_FILTER = ('nova_vcloud.filters.app_anti_affinity.'
              'AppAntiAffinityFilter')
APP_WEIGHER = 'nova_vcloud.filters.weighers.AppAntiAffinityWeigher'
RAM = 'nova.scheduler.weights.ram.RAMWeigher'
NAME = 'AppAntiAffinityFilter'


@pytest.fixture(autouse=True)
def filters(cloud):
    cloud.scheduling([APP_FILTER])


def racks(cloud, **hosts):
    for name, members in hosts.items():
        cloud.aggregate(f'rack {name}', members, rack=name)


def zones(cloud, **hosts):
    for name, members in hosts.items():
        cloud.aggregate(f'zone {name}', members, zone=name)


def per_host(servers):
    return collections.Counter(server.host for server in servers)


def look_again():
    """Wait until what happened meanwhile was read from the databases."""
    time.sleep(4 * cloud_module.REFRESH)


# One level

def test_one_for_each_host(cloud, app):
    hints = {'app': app, 'app_max_per_host': '1'}
    servers = [cloud.boot(**hints) for _ in range(4)]
    assert sorted(server.host for server in servers[:3]) == cloud.hosts
    last = servers[3]
    assert last.refused
    for host in cloud.hosts:
        line = last.why(NAME, f'host {host} rejected', last.uuid)
        assert line.endswith(f'host {host} has 1 servers of application '
                             f'{app}, may have 1')


def test_an_administrators_default(cloud, app):
    cloud.flags('vcloud_scheduler', app_max_per_host='1')
    assert cloud.boot(app=app, host='host1').host
    assert cloud.boot(app=app, host='host1').refused
    assert cloud.boot(app=app, app_max_per_host='2', host='host1').host
    assert cloud.boot(host='host1').host


def test_a_flavor_says_it_and_a_hint_goes_before_it(cloud, app):
    flavor = cloud.flavor(vcloud__app=app, vcloud__app_max_per_host='1')
    assert cloud.boot(flavor, host='host1').host
    assert cloud.boot(flavor, host='host1').refused
    assert cloud.boot(flavor, host='host1', app_max_per_host='2').host


def test_one_for_each_rack(cloud, app):
    racks(cloud, r1=['host1', 'host2'], r2=['host3'])
    hints = {'app': app, 'app_max_per_rack': '1'}
    first, second, third = [cloud.boot(**hints) for _ in range(3)]
    assert {first.host, second.host} in (
        {'host1', 'host3'}, {'host2', 'host3'})
    assert third.refused
    assert third.why(NAME, 'host1', f'rack r1 has 1 servers of application '
                                    f'{app}, may have 1')
    assert third.why(NAME, 'host2', 'rack r1')
    assert third.why(NAME, 'host3', 'rack r2')


def test_a_host_without_a_rack_is_one(cloud, app):
    racks(cloud, r1=['host1', 'host2'])
    hints = {'app': app, 'app_max_per_rack': '1'}
    servers = [cloud.boot(**hints) for _ in range(3)]
    assert per_host(servers)['host3'] == 1
    assert servers[2].refused


def test_one_for_each_zone(cloud, app):
    zones(cloud, east=['host1', 'host2'], west=['host3'])
    hints = {'app': app, 'app_max_per_zone': '1'}
    servers = [cloud.boot(**hints) for _ in range(3)]
    assert per_host(servers)['host3'] == 1
    assert servers[2].refused
    assert servers[2].why(NAME, 'host2', 'zone east has 1')
    assert servers[2].why(NAME, 'host3', 'zone west has 1')


def test_hosts_of_no_zone_are_of_the_default_one(cloud, app):
    zones(cloud, east=['host1'])
    hints = {'app': app, 'app_max_per_zone': '1'}
    servers = [cloud.boot(**hints) for _ in range(3)]
    assert per_host(servers)['host1'] == 1
    assert servers[2].refused
    assert servers[2].why(NAME, 'host2', 'zone nova has 1')


def test_a_server_of_a_named_zone_counts_in_it(cloud, app):
    zones(cloud, east=['host1', 'host2'], west=['host3'])
    hints = {'app': app, 'app_max_per_host': '1'}
    found = [cloud.boot(zone='east', **hints) for _ in range(3)]
    assert per_host(found) == {'host1': 1, 'host2': 1, None: 1}
    assert cloud.boot(zone='west', **hints).host == 'host3'


# Shares

def test_a_share_is_of_all_that_there_are(cloud, app):
    hints = {'app': app, 'app_max_per_host': '50%'}
    first, second = (cloud.boot(**hints).host for _ in range(2))
    assert first != second
    # Of three, two may be together; of four, still two.
    assert cloud.boot(host=first, **hints).host == first
    assert cloud.boot(host=first, **hints).refused


def test_a_share_of_one_request_is_of_all_its_servers(cloud, app):
    servers = cloud.admin.boot_many(3, app=app, app_max_per_host='33%')
    assert per_host(servers) == dict.fromkeys(cloud.hosts, 1)


# Many in one request

def test_servers_of_one_request_count(cloud, app):
    hints = {'app': app, 'app_max_per_host': '1'}
    servers = cloud.admin.boot_many(3, **hints)
    assert per_host(servers) == dict.fromkeys(cloud.hosts, 1)
    assert cloud.boot(**hints).refused


def test_a_request_for_too_many_gets_none(cloud, app):
    hints = {'app': app, 'app_max_per_host': '1'}
    servers = cloud.admin.boot_many(4, **hints)
    assert per_host(servers) == {None: 4}
    for server in servers:
        cloud.delete(server.uuid)
    look_again()
    # What was chosen for them does not count.
    assert per_host(cloud.admin.boot_many(3, **hints)) == dict.fromkeys(
        cloud.hosts, 1)


# Soft rules

def test_a_soft_rule_gives_way(cloud, app):
    zones(cloud, east=['host1', 'host2'])
    hints = {'app': app, 'app_max_per_host': '1', 'app_policy': 'soft',
             'zone': 'east'}
    servers = [cloud.boot(**hints) for _ in range(3)]
    assert per_host(servers[:2]) == {'host1': 1, 'host2': 1}
    assert all(not server.why('soft') for server in servers[:2])
    assert servers[2].host
    assert servers[2].why(servers[2].uuid, app, 'host', 'soft')


def test_the_maximum_of_a_zone_gives_way_first(cloud, app):
    zones(cloud, east=['host1', 'host2'], west=['host3'])
    racks(cloud, r1=['host1'], r2=['host2'], r3=['host3'])
    hints = {'app': app, 'app_policy': 'soft', 'app_max_per_zone': '1',
             'app_max_per_rack': '1', 'app_max_per_host': '1'}
    assert cloud.boot(host='host1', **hints).host == 'host1'
    assert cloud.boot(**hints).host == 'host3'
    third = cloud.boot(**hints)
    assert third.host == 'host2'
    assert third.why(app, 'maxima of zone, which are soft')


def test_then_that_of_a_rack_and_then_that_of_a_host(cloud, app):
    zones(cloud, east=['host1', 'host2'], west=['host3'])
    racks(cloud, r1=['host1', 'host2'], r2=['host3'])
    hints = {'app': app, 'app_policy': 'soft', 'app_max_per_zone': '1',
             'app_max_per_rack': '1', 'app_max_per_host': '1'}
    assert cloud.boot(host='host1', **hints).host == 'host1'
    assert cloud.boot(**hints).host == 'host3'
    third, fourth = [cloud.boot(**hints) for _ in range(2)]
    assert third.host == 'host2'
    assert third.why(app, 'maxima of zone, rack, which are soft')
    assert fourth.host
    assert fourth.why(app, 'maxima of zone, rack, host, which are soft')


# Whose application it is, and what counts

def test_an_application_is_of_its_project(cloud, app):
    zones(cloud, east=['host1'])
    hints = {'app': app, 'app_max_per_host': '1', 'zone': 'east'}
    blue, green = cloud.client('blue'), cloud.client('green')
    assert blue.boot(**hints).host == green.boot(**hints).host == 'host1'
    assert blue.boot(**hints).refused


def test_servers_of_no_application_do_not_count(cloud, app):
    assert cloud.boot(host='host1').host
    assert cloud.boot(host='host1', app=app, app_max_per_host='1').host


def test_a_server_that_is_deleted_does_not_count(cloud, app):
    hints = {'app': app, 'app_max_per_host': '1', 'host': 'host1'}
    server = cloud.boot(**hints)
    assert cloud.boot(**hints).refused
    cloud.delete(server.uuid)
    look_again()
    assert cloud.boot(**hints).host == 'host1'


def test_another_scheduler_knows_them_by_the_databases(
        cloud, app, monkeypatch):
    hints = {'app': app, 'app_max_per_host': '1'}
    first = cloud.boot(**hints).host
    monkeypatch.setattr(app_anti_affinity, 'INDEX', app_index.listening(
        app_index.Index(app_reader.Reader, lambda: cloud_module.REFRESH)))
    second = cloud.boot(**hints).host
    assert second not in (None, first)
    for host in (first, second):
        assert cloud.boot(host=host, **hints).refused


# Moves

@pytest.mark.parametrize('policy', ['hard', 'soft'])
def test_a_server_does_not_stand_in_its_own_way(cloud, app, policy):
    cloud.flags(allow_resize_to_same_host=True)
    zones(cloud, east=['host1'])
    server = cloud.boot(app=app, app_max_per_host='1', app_policy=policy,
                        zone='east')
    look_again()
    moved = cloud.admin.resize(server, cloud.flavor(memory_mb=256))
    assert (moved.host, moved.fault) == ('host1', '')
    assert not moved.why('soft')


def test_a_live_migration_holds_to_the_rule(cloud, app):
    hints = {'app': app, 'app_max_per_host': '1'}
    first, second = [cloud.boot(**hints) for _ in range(2)]
    [free] = set(cloud.hosts) - {first.host, second.host}
    look_again()
    assert cloud.admin.live_migrate(first).host == free
    cloud.boot(host=first.host, **hints)
    stays = cloud.admin.live_migrate(second)
    assert stays.host == second.host
    assert stays.refused
    assert stays.why(NAME, free, app)


def test_an_evacuation_goes_to_the_host_that_is_free(cloud, app):
    hints = {'app': app, 'app_max_per_host': '1'}
    first, second = [cloud.boot(**hints) for _ in range(2)]
    [free] = set(cloud.hosts) - {first.host, second.host}
    cloud.fall(first.host)
    assert cloud.admin.evacuate(first).host == free


@pytest.mark.parametrize('policy', ['hard', 'soft'])
def test_an_evacuation_when_all_hosts_are_full(cloud, app, policy):
    zones(cloud, east=['host1', 'host2'])
    hints = {'app': app, 'app_max_per_host': '1', 'app_policy': policy,
             'zone': 'east'}
    first, second = [cloud.boot(**hints) for _ in range(2)]
    cloud.fall(first.host)
    moved = cloud.admin.evacuate(first)
    if policy == 'soft':
        assert moved.host == second.host
        assert moved.why(app, 'host', 'soft')
    else:
        assert moved.refused
        assert moved.why(NAME, second.host, app)


# Wishes that cannot be

def test_a_hint_that_cannot_be_is_named(cloud, app):
    for hint, value in (
            ('app', 'two words'), ('app', ''),
            ('app_max_per_host', 'many'), ('app_max_per_host', '0'),
            ('app_max_per_host', '-1'), ('app_max_per_rack', '101%'),
            ('app_max_per_zone', '1.5'), ('app_policy', 'firm')):
        server = cloud.boot(**{'app': app, hint: value})
        assert server.refused, hint
        assert server.why(NAME, 'host1', f'hint {hint}={value}')


def test_hints_of_any_form_do_no_harm(cloud, app):
    for value in (['1', '2'], [], True):
        server = cloud.boot(app=app, app_max_per_host=value)
        assert server.refused, value
        assert server.why(NAME, 'hint app_max_per_host=')
    # A number is one, in quotes or not.
    assert cloud.boot(app=app, app_max_per_host=1, host='host1').host
    assert cloud.boot(app=app, app_max_per_host=1, host='host1').refused


# Without maxima, by weight

def test_the_weigher_goes_far_away(cloud, app):
    cloud.scheduling([APP_FILTER], [APP_WEIGHER])
    zones(cloud, east=['host1', 'host2'], west=['host3'])
    racks(cloud, r1=['host1'], r2=['host2'], r3=['host3'])
    cloud.tell('host1', memory_mb=80000)
    hosts = [cloud.boot(app=app).host for _ in range(4)]
    # More memory; another zone; another rack; the zone with fewer.
    assert hosts == ['host1', 'host3', 'host2', 'host3']


def test_the_weigher_prefers_another_rack_to_another_host(cloud, app):
    cloud.scheduling([APP_FILTER], [APP_WEIGHER])
    racks(cloud, r1=['host1', 'host2'], r2=['host3'])
    cloud.tell('host1', memory_mb=80000)
    cloud.tell('host2', memory_mb=80000)
    hosts = [cloud.boot(app=app).host for _ in range(3)]
    assert hosts[0] in ('host1', 'host2')
    assert hosts[1] == 'host3'
    assert set(hosts) == set(cloud.hosts)


def test_the_weigher_does_nothing_for_others(cloud):
    cloud.scheduling([APP_FILTER], [APP_WEIGHER, RAM], nova_weighers=False)
    cloud.tell('host1', memory_mb=80000)
    assert {cloud.boot().host for _ in range(3)} == {'host1'}
