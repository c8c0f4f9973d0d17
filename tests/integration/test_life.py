# SPDX-License-Identifier: Apache-2.0
"""A server keeps its IP and MAC through all that happens to it.

Nova's periodic sync of power states runs every ten minutes; a status that is
right within seconds was brought by an event.
"""

import time

from desk import Desk
from desk import until
import pytest

SOON = 60  # seconds; an event, not the periodic task


@pytest.fixture
def server(desk: Desk):
    """A server with the addresses it asked for, on the first host."""
    server = desk.boot('life', ip='10.77.0.104', host='compute1')
    assert desk.addresses(server)[4] == '10.77.0.104'
    desk.answers(server)
    return server


@pytest.fixture
def same_nic(desk: Desk, server):
    """Compare MAC and addresses, in Nova and in the kernel, at the end."""
    before = desk.nic(server)
    shown = desk.get(server).addresses
    assert before[0] == shown['lan'][0]['OS-EXT-IPS-MAC:mac_addr']
    assert before[1] == set(desk.addresses(server).values())
    yield
    assert desk.nic(server) == before
    assert desk.get(server).addresses == shown
    desk.answers(server)


def started_at(desk: Desk, server) -> str:
    return desk.container(server)['State']['StartedAt']


@pytest.mark.matrix('operation.reboot')
@pytest.mark.usefixtures('same_nic')
@pytest.mark.parametrize('kind', ['SOFT', 'HARD'])
def test_reboot(desk, server, kind):
    before = started_at(desk, server)
    desk.compute.reboot_server(server.id, kind)
    until(lambda: started_at(desk, server) != before, 30, 'restarted')
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('same_nic')
def test_stop_and_start(desk, server):
    desk.compute.stop_server(server.id)
    desk.wait(server, 'SHUTOFF')
    desk.silent(server)
    desk.compute.start_server(server.id)
    desk.wait(server, 'ACTIVE')


@pytest.mark.matrix(
    'operation.pause',
    'operation.unpause',
    'operation.suspend',
    'operation.resume')
@pytest.mark.usefixtures('same_nic')
@pytest.mark.parametrize(('freeze', 'thaw', 'status'), [
    ('pause_server', 'unpause_server', 'PAUSED'),
    ('suspend_server', 'resume_server', 'SUSPENDED')])
def test_frozen_servers_go_on_where_they_were(desk, server, freeze, thaw,
                                              status):
    before = started_at(desk, server)
    getattr(desk.compute, freeze)(server.id)
    desk.wait(server, status)
    assert desk.container(server)['State']['Paused']
    getattr(desk.compute, thaw)(server.id)
    desk.wait(server, 'ACTIVE')
    assert not desk.container(server)['State']['Paused']
    assert started_at(desk, server) == before


@pytest.mark.usefixtures('same_nic')
def test_kill_of_init_is_a_stop(desk, server):
    engine = desk.engine(desk.host_of(server))
    engine.kill(f'nova-{server.id}', 'SIGKILL')
    desk.wait(server, 'SHUTOFF', SOON)
    desk.silent(server)
    desk.compute.start_server(server.id)
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('same_nic')
def test_out_of_memory_inside(desk, server):
    # tail keeps all it reads: the kernel kills it, not the first process.
    out = desk.inside(server, 'tail /dev/zero; echo "tail ended with $?"')
    assert 'tail ended with 137' in out
    assert desk.get(server).status == 'ACTIVE'
    host = desk.host_of(server)
    until(lambda: 'reached its memory limit' in desk.log_since(host, 0)
          and server.id in desk.log_since(host, 0), SOON, 'OOM in the log')


@pytest.mark.usefixtures('same_nic')
def test_restart_behind_novas_back_is_no_stop(desk, server):
    before = started_at(desk, server)
    engine = desk.engine(desk.host_of(server))
    engine.restart(f'nova-{server.id}', timeout=0)
    assert started_at(desk, server) != before
    time.sleep(3)  # more than the delay after which a stop is told
    assert desk.get(server).status == 'ACTIVE'


@pytest.mark.matrix('operation.get-guest-info')
@pytest.mark.usefixtures('same_nic')
def test_stop_behind_novas_back_is_seen(desk, server):
    engine = desk.engine(desk.host_of(server))
    engine.stop(f'nova-{server.id}', timeout=0)
    desk.wait(server, 'SHUTOFF', SOON)
    desk.compute.start_server(server.id)
    desk.wait(server, 'ACTIVE')


def test_start_behind_novas_back_is_undone(desk, server):
    """Nova's rule: what it stopped stays stopped."""
    desk.compute.reboot_server(server.id, 'HARD')
    desk.wait(server, 'ACTIVE')
    desk.compute.stop_server(server.id)
    desk.wait(server, 'SHUTOFF')
    desk.engine(desk.host_of(server)).start(f'nova-{server.id}')
    until(lambda: not desk.container(server)['State']['Running'], SOON,
          'stopped again')
    desk.silent(server)


@pytest.mark.usefixtures('same_nic')
def test_killed_engine(desk, server):
    host = desk.host_of(server)
    before = started_at(desk, server)
    pid = desk.kill(f'dockerd-{host.name}')
    assert desk.pings(desk.addresses(server)[4])
    desk.wait_restarted(f'dockerd-{host.name}', pid)
    until(lambda: desk.engine_ready(host), 60, 'engine answers')
    assert started_at(desk, server) == before
    assert desk.get(server).status == 'ACTIVE'
    # Events flow again: a stop is told without any periodic task.
    mark = desk.log_mark(host)
    until(lambda: 'answers again' in desk.log_since(host, 0), 30,
          'nova-compute connected again')
    desk.engine(host).kill(f'nova-{server.id}', 'SIGKILL')
    desk.wait(server, 'SHUTOFF', SOON)
    assert 'Traceback' not in desk.log_since(host, mark)
    desk.compute.start_server(server.id)
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('same_nic')
def test_restarted_nova_compute(desk, server):
    host = desk.host_of(server)
    pid = desk.kill(f'nova-compute-{host.name}')
    desk.wait_restarted(f'nova-compute-{host.name}', pid)
    before = desk.last_report(host)
    assert desk.pings(desk.addresses(server)[4])
    until(lambda: desk.compute_ready(host, before), 60, 'nova-compute ready')
    assert desk.get(server).status == 'ACTIVE'
    desk.compute.reboot_server(server.id, 'HARD')
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('same_nic')
def test_stop_while_nova_compute_is_down_is_seen_at_its_start(desk, server):
    host = desk.host_of(server)
    with desk.stopped(f'nova-compute-{host.name}'):
        desk.engine(host).kill(f'nova-{server.id}', 'SIGKILL')
    # resume_guests_state_on_host_boot: Nova says it ran, so it runs again.
    until(lambda: desk.container(server)['State']['Running'], 60, 'running')
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('same_nic')
def test_lost_namespace_is_made_anew(desk, server):
    """What a reboot of the host takes away comes back with the server."""
    host = desk.host_of(server)
    desk.compute.stop_server(server.id)
    desk.wait(server, 'SHUTOFF')
    desk.lan('ip', 'netns', 'delete', host.server_prefix + server.id)
    desk.compute.start_server(server.id)
    desk.wait(server, 'ACTIVE')
