# SPDX-License-Identifier: Apache-2.0
"""Twenty users at once, on twenty hosts, one server for each host."""

import collections
from concurrent import futures

import pytest

APP_FILTER = ('nova_vcloud.filters.app_anti_affinity.'
              'AppAntiAffinityFilter')
APP_WEIGHER = 'nova_vcloud.filters.weighers.AppAntiAffinityWeigher'
COUNT = 20


@pytest.fixture
def hosts(cloud):
    with cloud.more_hosts(COUNT - len(cloud.hosts)) as found:
        yield found


def at_once(cloud, **wishes):
    """Boot servers at once; return {host: how many}."""
    flavor = cloud.flavor()
    with futures.ThreadPoolExecutor(COUNT) as pool:
        uuids = list(pool.map(
            lambda _: cloud.admin.request(flavor, **wishes), range(COUNT)))
    servers = [cloud.settled(uuid) for uuid in uuids]
    for server in servers:
        assert server.host or server.refused, server
    return collections.Counter(server.host for server in servers)


def test_at_once_and_then_one_more(cloud, hosts, app, record_property):
    """What threads of a scheduler decide at once none of them can know.

    A Docker host refuses the second; hosts that are made up take it. So what
    must hold is that every server has an end, and that all that came of it
    counts for the one that comes later.
    """
    cloud.scheduling([APP_FILTER], [APP_WEIGHER])
    hints = {'app': app, 'app_max_per_host': '1'}
    found = at_once(cloud, **hints)
    print(f'servers per host: {sorted(found.values(), reverse=True)}')
    record_property('most servers on a host', max(found.values()))
    assert sum(found.values()) == COUNT
    free = set(hosts) - set(found)
    later = cloud.boot(**hints)
    assert later.host in free if free else later.refused
