# SPDX-License-Identifier: Apache-2.0
"""Who chooses a host: the administrator, Nova's weighers, or a resize."""

import pytest

SAME_HOST = 'nova_vcloud.filters.weighers.SameHostWeigher'


def test_nova_spreads_servers_over_hosts(cloud):
    assert sorted(cloud.boot().host for _ in range(3)) == cloud.hosts


def test_a_host_without_room_is_not_chosen(cloud):
    for host in cloud.hosts[:2]:
        cloud.tell(host, memory_mb=1024)
    flavor = cloud.flavor(memory_mb=2048)
    assert cloud.boot(flavor).host == 'host3'
    assert cloud.admin.boot_many(2, flavor)[1].host == 'host3'


def test_no_host_at_all_is_said_so(cloud):
    found = cloud.boot(cloud.flavor(vcpus=1000))
    assert (found.host, found.refused) == (None, True)


def test_an_administrator_names_the_host_and_no_filter_is_asked(cloud):
    cloud.aggregate('east', ['host2'], zone='east')
    # Nova's filter of capabilities has no host for this one.
    flavor = cloud.flavor(capabilities__hypervisor_type='nothing')
    assert cloud.boot(flavor).refused
    assert cloud.boot(flavor, zone='east:host2').host == 'host2'
    assert cloud.boot(flavor, zone='nova:host3').host == 'host3'


def test_host_of_the_request_goes_through_the_filters(cloud):
    assert cloud.boot(host='host2').host == 'host2'
    flavor = cloud.flavor(capabilities__hypervisor_type='nothing')
    assert cloud.boot(flavor, host='host2').refused


def test_a_zone_is_held_to(cloud):
    cloud.aggregate('east', ['host2'], zone='east')
    assert {cloud.boot(zone='east').host for _ in range(2)} == {'host2'}
    assert cloud.boot(zone='nova').host in ('host1', 'host3')


@pytest.mark.parametrize(('weighers', 'same'), [
    ([], False), ([SAME_HOST], True)])
def test_a_resize_prefers_the_servers_own_host(cloud, weighers, same):
    cloud.scheduling(weighers=weighers)
    cloud.flags(allow_resize_to_same_host=True)
    server = cloud.boot(cloud.flavor(memory_mb=1024), host='host2')
    moved = cloud.admin.resize(server, cloud.flavor(memory_mb=2048))
    assert not moved.fault
    # Nova alone goes where more memory is free.
    assert (moved.host == 'host2') is same


def test_a_resize_goes_elsewhere_when_there_is_no_room(cloud):
    cloud.scheduling(weighers=[SAME_HOST])
    cloud.flags(allow_resize_to_same_host=True)
    cloud.tell('host2', memory_mb=2048)
    server = cloud.boot(cloud.flavor(memory_mb=1024), host='host2')
    moved = cloud.admin.resize(server, cloud.flavor(memory_mb=3072))
    assert moved.host in ('host1', 'host3')


def test_a_live_migration_leaves_the_host(cloud):
    cloud.scheduling(weighers=[SAME_HOST])
    server = cloud.boot(host='host2')
    assert cloud.admin.live_migrate(server).host in ('host1', 'host3')
    moved = cloud.admin.live_migrate(server, 'host2')
    assert (moved.host, moved.fault) == ('host2', '')


def test_the_server_of_a_dead_host_is_evacuated(cloud):
    server = cloud.boot(host='host2')
    cloud.fall('host2')
    assert cloud.admin.evacuate(server).host in ('host1', 'host3')


def test_more_hosts_come_and_go(cloud):
    with cloud.more_hosts(2) as hosts:
        assert len(hosts) == 5
        assert cloud.boot(host=hosts[4]).host == hosts[4]
    assert cloud.hosts == ['host1', 'host2', 'host3']
    assert cloud.boot().host in cloud.hosts
