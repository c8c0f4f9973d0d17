# SPDX-License-Identifier: Apache-2.0
"""IP for life: what happens to a container, its network outlives."""

from collections.abc import Iterator
import contextlib
import json
import os
import signal
import subprocess
import uuid

import dockerd as dockerd_fixture
import lan as lan_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud import userns
from nova_vcloud.virt_docker.vif.network import Network

INIT = 'trap exit TERM; while :; do sleep 1 & wait; done'


class Server:
    """A container in a namespace, wired as the driver does it."""

    def __init__(self, lan, dockerd, *nics, command=INIT, **host_config):
        self.uuid = str(uuid.uuid4())
        self.nics = nics
        self.lan = lan
        self.dockerd = dockerd
        ids = userns.of_engine(dockerd.engine.info())
        self.network = Network(str(dockerd.links), lan.name, lan.prefix,
                               ids=lambda: ids)
        self.network.plug(self.uuid, nics)
        self.id = dockerd.engine.create(f'nova-{self.uuid}', {
            'Image': dockerd_fixture.IMAGE,
            'Cmd': ['/bin/sh', '-c', command],
            'HostConfig': {
                'Runtime': 'nova-vcloud', 'NetworkMode': 'none',
                **host_config}})
        self.network.join(self.uuid, self.id)

    def start(self):
        self.network.plug(self.uuid, self.nics)
        self.dockerd.engine.start(self.id)

    def stop(self):
        self.dockerd.engine.stop(self.id, 5)
        self.network.set_carrier(self.uuid, False)

    def remove(self):
        self.dockerd.engine.remove(self.id)
        self.network.forget(self.id)
        self.network.destroy(self.uuid)

    @property
    def container_state(self):
        return self.dockerd.engine.container(self.id)['State']

    def wait(self, **wanted):
        """Wait until the container's state is as given."""
        return lan_fixture.wait_until(
            lambda: wanted.items() <= self.container_state.items()
            and self.container_state, timeout=60)

    def inside(self):
        """Return the NICs as processes in the container see them."""
        pid = self.container_state['Pid']
        out = subprocess.check_output(
            ['nsenter', f'--net=/proc/{pid}/ns/net', 'ip', '-j', 'addr'])
        return [(link['ifname'], link['address'],
                 [f'{a["local"]}/{a["prefixlen"]}' for a in link['addr_info']
                  if a['scope'] == 'global'])
                for link in json.loads(out) if link['ifname'] != 'lo']

    def check(self):
        """Fail unless the running server has its addresses and answers."""
        assert self.inside() == [
            (nic.name, nic.mac, list(nic.addresses)) for nic in self.nics]
        assert self.lan.pings_all(*self.nics)


@pytest.fixture
def made(lan, dockerd) -> Iterator:
    """A maker of servers; they are removed at the end."""
    with contextlib.ExitStack() as undo:
        def make(*nics, **kwargs):
            found = Server(lan, dockerd, *(nics or (lan.nic(),)), **kwargs)
            undo.callback(found.remove)
            return found
        yield make


@pytest.fixture
def server(made):
    found = made()
    found.start()
    return found


def test_answers_at_once(server):
    server.check()


def test_the_first_process_sees_its_nics(made, dockerd):
    server = made(command='ip -o addr; ip route; ping -c1 -W1 '
                          + lan_fixture.GATEWAY)
    server.start()
    assert server.wait(Status='exited')['ExitCode'] == 0
    log = dockerd.engine.logs(server.id, 10000).decode()
    assert server.nics[0].addresses[0] in log
    assert 'default via 10.77.0.1 dev eth0' in log


def test_several_nics(made, lan):
    server = made(lan.nic(), lan.nic(
        name='eth1', addresses=('10.78.0.7/16',), routes=()))
    server.start()
    server.check()


def test_docker_restart(server, dockerd):
    before = os.stat(f'/proc/{server.container_state["Pid"]}/ns/net').st_ino
    dockerd.docker('restart', '-t', '1', server.id)
    server.check()
    pid = server.container_state['Pid']
    assert os.stat(f'/proc/{pid}/ns/net').st_ino == before


def test_kill_of_init(server):
    os.kill(server.container_state['Pid'], signal.SIGKILL)
    assert server.wait(Running=False)['ExitCode'] == 137
    server.start()
    server.check()


def test_out_of_memory(made, dockerd):
    # Nobody but the eater asks for memory: until that of a process which was
    # killed is free, the kernel kills the next one that asks, or its init.
    server = made(Memory=32 << 20, MemorySwap=32 << 20,
                  command='trap exit TERM; sleep 1000 & wait')
    server.start()
    dockerd.docker('exec', server.id, 'tail', '/dev/zero', check=False)
    server.check()
    eater = made(Memory=16 << 20, MemorySwap=16 << 20, command=(
        'test -e /tmp/ate && exec sleep 1000; touch /tmp/ate; '
        'exec tail /dev/zero'))
    eater.start()
    # That it was for memory (OOMKilled) reaches the engine by another way,
    # and may come too late.
    assert eater.wait(Running=False)['ExitCode'] == 137
    eater.start()
    eater.check()


def test_stop_and_start(server):
    server.stop()
    assert not any(server.lan.pings(address)
                   for address in server.nics[0].addresses)
    server.start()
    server.check()


def test_pause_and_unpause(server, dockerd):
    dockerd.engine.pause(server.id)
    dockerd.engine.unpause(server.id)
    server.check()


def test_dockerd_killed_and_restarted(server, dockerd):
    pid = server.container_state['Pid']
    dockerd.kill()
    # The kernel answers pings; that the process lives is another matter.
    assert server.lan.pings_all(*server.nics)
    dockerd.start()
    assert server.container_state['Pid'] == pid
    server.check()
    dockerd.docker('restart', '-t', '1', server.id)
    server.check()


def test_namespace_lost_and_made_again(server, lan):
    """What a reboot of the host does to it."""
    server.stop()
    server.network.destroy(server.uuid)
    assert not os.listdir(server.dockerd.links)
    server.network.plug(server.uuid, server.nics)
    server.network.join(server.uuid, server.id)
    server.dockerd.engine.start(server.id)
    server.check()


def test_hot_plug(server, lan):
    more = lan.nic(name='eth1', addresses=('10.78.0.9/16',), routes=())
    server.network.plug(server.uuid, (more,))
    server.nics += (more,)
    server.check()
    server.network.unplug(server.uuid, (more,))
    server.nics = server.nics[:1]
    server.check()


def test_counters_of_a_running_server(server, lan):
    before = server.network.counters(server.uuid)[0]
    server.check()
    after = server.network.counters(server.uuid)[0]
    assert after['rx_packets'] > before['rx_packets']


# Failing closed

def test_no_start_without_mapping(made, lan, dockerd):
    server = made()
    server.network.forget(server.id)
    with pytest.raises(exception.EngineError, match=(
            f'nova-vcloud-runtime: container {server.id} has no network '
            'namespace')):
        dockerd.engine.start(server.id)
    assert not server.container_state['Running']


def test_no_start_without_namespace(made, dockerd):
    server = made()
    server.network.destroy(server.uuid)
    server.network.join(server.uuid, server.id)  # leads nowhere
    with pytest.raises(exception.EngineError, match='no network namespace'):
        dockerd.engine.start(server.id)


def test_no_start_in_a_file_that_is_no_namespace(made, dockerd):
    server = made()
    link = dockerd.links / server.id
    link.unlink()
    link.touch()
    with pytest.raises(exception.EngineError):
        dockerd.engine.start(server.id)
    assert not server.container_state['Running']


def test_a_failed_start_can_be_repeated(made, dockerd):
    server = made()
    server.network.forget(server.id)
    with pytest.raises(exception.EngineError):
        dockerd.engine.start(server.id)
    server.network.join(server.uuid, server.id)
    server.start()
    server.check()


def test_containers_of_others_are_not_concerned(dockerd):
    done = dockerd.docker('run', '--rm', '--network=none',
                          dockerd_fixture.IMAGE, 'ip', '-o', 'link')
    assert 'eth0' not in done.stdout
