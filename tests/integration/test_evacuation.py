# SPDX-License-Identifier: Apache-2.0
"""A host is lost: its servers come up elsewhere, and it comes back clean."""

import contextlib
import os
import signal
import subprocess

from desk import Desk
from desk import until
import pytest

COUNT = 5


def service(desk: Desk, host):
    return next(s for s in desk.compute.services(binary='nova-compute')
                if s.host == host.name)


def lose_power(desk: Desk, host) -> None:
    """End all that runs on a host, and its network, as a power cut does."""
    engine = desk.engine(host)
    pids = [engine.inspect_container(each['Id'])['State']['Pid']
            for each in engine.containers()]
    control = desk.supervision._rpc()
    control.stopProcess(f'nova-compute-{host.name}', True)
    control.stopProcess(f'dockerd-{host.name}', True)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    found = subprocess.check_output(['ip', 'netns'], text=True)
    for name in (line.split()[0] for line in found.splitlines()):
        if name.startswith(host.server_prefix):
            subprocess.run(['ip', 'netns', 'del', name], check=True)


def boot(desk: Desk, host) -> None:
    """Have a host again."""
    control = desk.supervision._rpc()
    control.startProcess(f'dockerd-{host.name}', True)
    until(lambda: desk.engine_ready(host), 30, 'engine is back')
    before = desk.last_report(host)
    control.startProcess(f'nova-compute-{host.name}', True)
    until(lambda: desk.compute_ready(host, before), 60, 'it reports')


@contextlib.contextmanager
def lost(desk: Desk, host):
    """Have a host without power, and its service forced down."""
    def force_down(forced: bool) -> None:
        desk.compute.update_service_forced_down(
            service(desk, host), host.name, 'nova-compute', forced)
    lose_power(desk, host)
    try:
        force_down(True)
        yield
    finally:
        boot(desk, host)
        # Nova lets nobody do so before the host has been cleaned.
        force_down(False)


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


@pytest.mark.matrix('operation.evacuate')
def test_servers_of_a_lost_host_come_up_elsewhere(desk: Desk):
    gone, other = desk.cloud.hosts
    servers = [desk.boot(f'refugee-{n}', host=gone.name)
               for n in range(COUNT)]
    stays = desk.boot('bystander', host=gone.name)
    addresses = [desk.addresses(s) for s in (*servers, stays)]
    nics = [desk.nic(s) for s in servers]
    with marked(desk, servers[-1]), lost(desk, gone):
        for server in servers:
            # Later ones leave it stopped.
            answer = desk.compute.post(
                f'/servers/{server.id}/action', microversion='2.94',
                json={'evacuate': {}})
            assert answer.ok, answer.text
        for server in servers:
            desk.wait(server, 'ACTIVE', 120)
            assert desk.host_of(server).name == other.name
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
