# SPDX-License-Identifier: Apache-2.0
"""Consoles of containers: bytes both ways, for some, until they end."""

import collections
import contextlib
import os
import queue
import socket
import threading
import time

import dockerd as dockerd_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker.guest import password
from nova_vcloud.virt_docker.guest import serial_console

UUID = '1a2b3c4d-0000-4000-8000-00000000c0de'


@pytest.fixture
def container(dockerd):
    """A container with a shell at its terminal; its id."""
    found = dockerd.engine.create('console', {
        'Image': dockerd_fixture.IMAGE, 'Tty': True, 'OpenStdin': True,
        'Cmd': ['/bin/sh']})
    dockerd.engine.start(found)
    yield found
    dockerd.engine.remove(found)


@pytest.fixture
def desk(dockerd, container):
    """Consoles, whose threads and sockets are gone at the end."""
    engine = Engine(dockerd.engine.url)
    drain(dockerd.engine)
    before = open_now()
    ports = set()

    def acquire(address):
        with socket.create_server((address, 0)) as s:
            ports.add(s.getsockname()[1])
            return s.getsockname()[1]
    found = serial_console.Consoles(engine, '127.0.0.1', acquire,
                                    lambda _address, port: ports.remove(port))
    yield found
    found.close(UUID)
    assert ports == set()
    time.sleep(0.2)  # for the last viewer to give its client back
    drain(engine)
    drain(dockerd.engine)
    deadline = time.monotonic() + 60
    while open_now() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(open_now() - before) == []


def drain(engine):
    """Close what an engine keeps for the next call."""
    with contextlib.suppress(queue.Empty):
        while True:
            engine._idle.get_nowait().close()


def open_now():
    """Return how many of which threads and files this process has."""
    found = [thread.name for thread in threading.enumerate()]
    for number in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f'/proc/self/fd/{number}').partition(
                ':')[0])
    return collections.Counter(found)


class Viewer:
    """What nova-serialproxy is to us."""

    def __init__(self, where):
        self.socket = socket.create_connection(where, timeout=10)

    def type(self, text):
        self.socket.sendall(text)

    def until(self, text):
        found = b''
        while text not in found:
            data = self.socket.recv(4096)
            assert data, found
            found += data
        return found

    def ended(self):
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(4096):
                pass
        self.socket.close()


@pytest.mark.usefixtures('no_leaks')
class TestConsole:
    """A shell at the other end."""

    def test_what_is_typed_is_answered(self, desk, container):
        viewer = Viewer(desk.open(UUID, container))
        viewer.type(b'echo $((6*7))\r')
        viewer.until(b'42')
        # Docker's own keys to let go are keys like others.
        viewer.type(b'\x10\x11echo still $((6*7))\r')
        viewer.until(b'still 42')
        viewer.socket.close()

    def test_all_viewers_see_the_same(self, desk, container):
        where = desk.open(UUID, container)
        assert desk.open(UUID, container) == where
        viewers = [Viewer(where) for _ in range(3)]
        for viewer in viewers:
            viewer.type(b'echo me $((6*7))\r')
            viewer.until(b'me 42')
        viewers[0].type(b'echo to $((7*7)) all\r')
        for viewer in viewers:
            viewer.until(b'to 49 all')
            viewer.socket.close()

    def test_one_too_many_is_let_go(self, desk, container):
        where = desk.open(UUID, container)
        viewers = []
        for _ in range(serial_console.MAX_VIEWERS):
            viewers.append(Viewer(where))
            viewers[-1].type(b'\r')
            viewers[-1].until(b'#')
        Viewer(where).ended()
        viewers.pop().socket.close()
        for _ in range(50):
            with contextlib.suppress(AssertionError, ConnectionError):
                viewer = Viewer(where)
                viewer.type(b'\r')
                viewer.until(b'#')
                break
            time.sleep(0.05)
        for each in (*viewers, viewer):
            each.socket.close()

    def test_a_server_that_ends_lets_its_viewers_go(self, desk, container,
                                                    dockerd):
        where = desk.open(UUID, container)
        viewer = Viewer(where)
        viewer.type(b'\r')
        viewer.until(b'#')
        dockerd.engine.stop(container, 0)
        viewer.ended()
        # There is nothing to see until it runs again.
        Viewer(where).ended()
        dockerd.engine.start(container)
        viewer = Viewer(where)
        viewer.type(b'echo $((6*7))\r')
        viewer.until(b'42')
        desk.close(UUID)
        viewer.ended()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where, timeout=1)

    def test_500_times_leave_nothing(self, desk, container):
        where = desk.open(UUID, container)
        for number in range(500):
            viewer = Viewer(where)
            if number % 50 == 0:
                viewer.type(b'echo $((6*7))\r')
                viewer.until(b'42')
            # A busy machine may still have the last ones: no more than some
            # may be there at a time.
            viewer.socket.shutdown(socket.SHUT_WR)
            viewer.ended()
            if number % 100 == 0:
                desk.close(UUID)
                where = desk.open(UUID, container)


class Instance:
    """What of a server's record the password needs."""

    uuid = UUID

    class image_meta:  # noqa: N801, D106
        properties: dict = {}  # noqa: RUF012


def test_a_program_reads_and_writes(dockerd, container):
    assert dockerd.engine.run(container, ['cat'], b'text\n') == (
        0, b'text\n')
    code, said = dockerd.engine.run(
        container, ['sh', '-c', 'echo bad >&2; exit 3'])
    assert (code, said) == (3, b'bad\n')


@pytest.mark.parametrize('command', [
    'sleep 1000', 'yes', 'cat >/dev/null; while :; do echo; sleep 0.2; done'])
def test_a_program_without_end_holds_nobody(dockerd, container, command):
    """A tenant's chpasswd may be anything."""
    engine = Engine(dockerd.engine.url, timeout=2)
    begin = time.monotonic()
    with pytest.raises(exception.EngineError, match='does not end'):
        engine.run(container, ['sh', '-c', command], b'text\n')
    assert time.monotonic() - begin < 15


def test_a_program_that_does_not_read_is_no_error(dockerd, container):
    assert dockerd.engine.run(container, ['true'], b'x' * 100)[0] == 0


def test_a_guest_without_the_program_is_not_supported(dockerd, container):
    dockerd.engine.run(container, ['sh', '-c', 'rm -f $(which chpasswd)'])
    with pytest.raises(password.nova_exception.SetAdminPasswdNotSupported):
        password.set_admin(dockerd.engine, container, Instance(), 'new')
