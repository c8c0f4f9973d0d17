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


def at_once(cloud, count=COUNT, **wishes):
    """Boot servers at once; return {host: how many}."""
    flavor = cloud.flavor()
    with futures.ThreadPoolExecutor(count) as pool:
        uuids = list(pool.map(
            lambda _: cloud.admin.request(flavor, **wishes), range(count)))
    servers = [cloud.settled(uuid) for uuid in uuids]
    for server in servers:
        assert server.host or server.refused, server
    return collections.Counter(server.host for server in servers)


def test_at_once_and_then_one_more(cloud, hosts, app):
    """Without turns for an application all twenty would go to one host."""
    cloud.scheduling([APP_FILTER], [APP_WEIGHER])
    hints = {'app': app, 'app_max_per_host': '1'}
    found = at_once(cloud, **hints)
    assert found == dict.fromkeys(hosts, 1)
    assert cloud.boot(**hints).refused


def test_at_once_without_a_maximum(cloud, app):
    cloud.scheduling([APP_FILTER], [APP_WEIGHER])
    found = at_once(cloud, app=app, count=6)
    assert found == dict.fromkeys(cloud.hosts, 2)
