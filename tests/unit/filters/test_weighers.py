# SPDX-License-Identifier: Apache-2.0
"""A resize prefers the host that the server is on."""

from nova import objects
from nova.scheduler import host_manager
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud.filters import weighers

objects.register_all()


def host(name, *servers, **metadata):
    found = host_manager.HostState(name, name, uuids.cell)
    found.instances = {server: objects.Instance(uuid=server)
                       for server in servers}
    found.aggregates = [objects.Aggregate(metadata=metadata)] \
        if metadata else []
    return found


def chosen(hosts, server):
    """Return the weights of hosts, as the scheduler computes them."""
    spec = objects.RequestSpec(instance_uuid=server)
    weigher = weighers.SameHostWeigher()
    found = weigher.weigh_objects(
        [host_manager.weights.WeighedHost(h, 0.0) for h in hosts], spec)
    return [weigher.weight_multiplier(h) * weight
            for h, weight in zip(hosts, found, strict=True)]


def test_the_servers_own_host_wins():
    assert chosen([host('a', uuids.other), host('b', uuids.mine)],
                  uuids.mine) == [0, 1000]


def test_a_new_server_has_no_preference():
    assert chosen([host('a', uuids.other), host('b')], uuids.new) == [0, 0]


def test_an_aggregate_may_say_otherwise():
    found = host('a', uuids.mine, same_host_weight_multiplier='2.5')
    assert chosen([found, host('b')], uuids.mine) == [2.5, 0]


@pytest.mark.parametrize('instances', [None, {}])
def test_a_host_that_tells_of_no_server(instances):
    found = host('a')
    found.instances = instances
    assert chosen([found], uuids.mine) == [0]
