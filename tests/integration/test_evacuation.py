# SPDX-License-Identifier: Apache-2.0
"""A host is lost: its servers come up elsewhere, and it comes back clean."""

import contextlib

from desk import Desk
from desk import until
import power
import pytest

COUNT = 5


def names(desk: Desk, host) -> set[str]:
    return {name for each in desk.engine(host).containers(all=True)
            for name in each['Names']}


@contextlib.contextmanager
def marked(desk: Desk, server):
    """Have a snapshot of a server, which says so; what comes later is lost."""
    desk.inside(server, 'echo kept > /kept')
    with desk.snapshot(server, 'refugee'):
        desk.inside(server, 'echo lost > /lost')
        yield


@pytest.fixture
def flavor(desk: Desk):
    """One with an ephemeral disk."""
    with desk.flavor('refugee.disk', ephemeral=1) as name:
        yield name
        desk.delete(*desk.compute.servers(flavor=name))


@pytest.mark.matrix('operation.evacuate')
def test_an_ephemeral_disk_of_a_lost_host_is_made_anew(desk: Desk, flavor):
    gone, other = desk.cloud.hosts
    server = desk.boot('refugee-disk', host=gone.name, flavor=flavor)
    desk.inside(server, 'echo lost >/volumes/vdb/note; sync')
    old = desk.disks(server)
    with power.lost(desk, gone):
        power.evacuate(desk, server)
        power.wait_evacuated(desk, server, gone)
        desk.answers(server)
        found = desk.inside(
            server, 'grep -c vdb /proc/mounts; ls /volumes/vdb')
        assert found.startswith('1\n')
        assert 'note' not in found
        desk.inside(server, 'echo new >/volumes/vdb/note')
    until(lambda: not old & desk.disks(server), 30, 'the old disk is gone')
    assert desk.inside(server, 'cat /volumes/vdb/note').strip() == 'new'
    assert desk.host_of(server) == other


@pytest.mark.matrix('operation.evacuate')
def test_servers_of_a_lost_host_come_up_elsewhere(desk: Desk):
    gone, other = desk.cloud.hosts
    servers = [desk.boot(f'refugee-{n}', host=gone.name)
               for n in range(COUNT)]
    stays = desk.boot('bystander', host=gone.name)
    addresses = [desk.addresses(s) for s in (*servers, stays)]
    nics = [desk.nic(s) for s in servers]
    with marked(desk, servers[-1]), power.lost(desk, gone):
        for server in servers:
            power.evacuate(desk, server)
        for server in servers:
            power.wait_evacuated(desk, server, gone)
            desk.answers(server)
        assert [desk.nic(s) for s in servers] == nics
        there = {s.id: desk.container(s)['Id'] for s in servers}
        assert [desk.inside(s, 'cat /kept /lost 2>&- || :').strip()
                for s in servers] == [*[''] * (COUNT - 1), 'kept']
    desk.wait(stays, 'ACTIVE', 60)
    desk.answers(stays, 30)
    until(lambda: names(desk, gone) == {f'/nova-{stays.id}'}, 30,
          'the host has the one that stayed')
    for server in servers:
        assert desk.wait(server, 'ACTIVE').compute_host == other.name
        assert desk.container(server)['Id'] == there[server.id]
        desk.answers(server)
    assert [desk.addresses(s) for s in (*servers, stays)] == addresses
