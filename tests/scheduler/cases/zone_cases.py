# SPDX-License-Identifier: Apache-2.0
"""ZoneFilter: projects stay out of zones that are not theirs."""

import pytest

ZONE_FILTER = 'nova_vcloud.filters.zone_filter.ZoneFilter'


@pytest.fixture(autouse=True)
def filters(cloud):
    """host1 is for blue and green, host2 for green; host3 for everybody."""
    cloud.scheduling([ZONE_FILTER])
    cloud.aggregate('gold', ['host1'], zone='gold',
                    filter_tenant_id='blue', filter_tenant_id_2='green')
    cloud.aggregate('silver', ['host2'], filter_tenant_id='green')


def test_a_project_is_let_into_its_zone(cloud):
    for project in ('blue', 'green'):
        assert cloud.client(project).boot(zone='gold').host == 'host1'


def test_another_project_is_not_and_the_log_says_why(cloud):
    server = cloud.client('red').boot(zone='gold')
    assert server.refused
    assert server.why('ZoneFilter', 'host1', server.uuid, 'red', 'gold')


def test_without_a_wish_it_goes_where_it_may(cloud):
    red = cloud.client('red')
    servers = [red.boot() for _ in range(2)]
    assert {server.host for server in servers} == {'host3'}
    assert servers[0].why('ZoneFilter', 'host1', 'red', 'gold')
    assert servers[0].why('ZoneFilter', 'host2', 'red', 'silver')
    green = cloud.client('green')
    # Nova prefers the two where nobody is.
    assert {green.boot().host for _ in range(2)} == {'host1', 'host2'}


def test_an_administrators_own_servers_may_be_anywhere(cloud):
    ops = cloud.client('ops', admin=True)
    assert ops.boot(zone='gold').host == 'host1'
    assert ops.boot(host='host2').host == 'host2'


def test_whom_he_moves_stays_out(cloud):
    server = cloud.client('red').boot()
    assert server.host == 'host3'
    moved = cloud.admin.live_migrate(server)
    assert (moved.host, moved.refused) == ('host3', True)
    assert moved.why('ZoneFilter', 'host1', 'red')


def test_a_dead_hosts_server_is_not_evacuated_into_anothers_zone(cloud):
    server = cloud.client('blue').boot(zone='gold')
    other = cloud.client('red').boot()
    cloud.fall('host1')
    cloud.fall('host3')
    for each in (server, other):
        assert cloud.admin.evacuate(each).refused
