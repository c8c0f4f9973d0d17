# SPDX-License-Identifier: Apache-2.0
"""Ports of consoles: who reaches them, and what a viewer can do to others."""

import contextlib
import os
import re
import resource
import socket
import subprocess
import time
import uuid

import dockerd as dockerd_fixture
import lan as lan_fixture
import pytest

from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker.guest import serial_console

PATIENCE = 60  # seconds
#: Addresses of the two ends of a link between this host and another.
OURS, THEIRS = '198.51.100.1', '198.51.100.2'
FLOOD = 8 << 20  # bytes that a server writes
CONNECT = ('import socket,sys; s=socket.create_connection(("{}",{}),9);'
           's.settimeout(20); s.sendall(b"echo $((6*7))\\r"); t=b"";\n'
           'while b"42" not in t:\n'
           '    d=s.recv(4096); t+=d\n'
           '    if not d: break\n'
           'print("seen" if b"42" in t else "refused")')


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
def other_host():
    """The name of a namespace that reaches this host from elsewhere."""
    name = f'nvc-{uuid.uuid4().hex[:8]}'
    link = name[:14]
    lan_fixture.ip('netns', 'add', name)
    try:
        lan_fixture.ip('link', 'add', link, 'type', 'veth', 'peer', 'name',
                       'eth0', 'netns', name)
        lan_fixture.ip('address', 'add', f'{OURS}/30', 'dev', link)
        lan_fixture.ip('link', 'set', link, 'up')
        for words in (('address', 'add', f'{THEIRS}/30', 'dev', 'eth0'),
                      ('link', 'set', 'eth0', 'up')):
            lan_fixture.ip(*words, netns=name)
        yield name
    finally:
        lan_fixture.ip('netns', 'delete', name)


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as s:
        return int(s.getsockname()[1])


@pytest.fixture
def serve(dockerd):
    """Make Consoles, which are closed at the end."""
    made: list[serial_console.Consoles] = []

    def make(address: str = '127.0.0.1', **more) -> serial_console.Consoles:
        made.append(serial_console.Consoles(
            Engine(dockerd.engine.url), address, free_port,
            lambda _address, _port: None, **more))
        return made[-1]
    yield make
    for each in made:
        each.close('server')


def from_there(name: str, where: tuple[str, int]) -> str:
    """Return what somebody on another host has of a console."""
    done = subprocess.run(
        ['ip', 'netns', 'exec', name, 'python3', '-c',
         CONNECT.format(*where)], capture_output=True, text=True,
        check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_another_host_has_no_console(serve, container, other_host):
    service = serve(OURS)
    where = service.open('server', container)
    assert re.search('refused|reset by peer|Broken pipe',
                     from_there(other_host, where))
    # This host itself has one, such as a proxy beside nova-compute.
    with socket.create_connection(where, timeout=PATIENCE) as viewer:
        answer(viewer)


def test_a_host_that_is_listed_has_one(serve, container, other_host):
    for listed in (THEIRS, '198.51.100.0/30'):
        service = serve(OURS, peers=[listed])
        assert from_there(other_host,
                          service.open('server', container)) == 'seen'
        service.close('server')


def answer(viewer: socket.socket, words: bytes = b'echo $((6*7))\r',
           wanted: bytes = b'42') -> None:
    """Type something and wait for what the shell says."""
    viewer.sendall(words)
    found = b''
    while wanted not in found:
        data = viewer.recv(4096)
        assert data, found
        found += data


def test_a_viewer_who_does_not_read_stops_nobody(serve, container, dockerd):
    where = serve().open('server', container)
    with socket.create_connection(where, timeout=PATIENCE) as viewer:
        answer(viewer)
        # What a server writes now, nobody reads.
        viewer.sendall(b'head -c %d /dev/zero | tr "\\0" x; touch /written\r'
                       % FLOOD)
        lan_fixture.wait_until(lambda: dockerd.engine.run(
            container, ['test', '-e', '/written'])[0] == 0, PATIENCE)
    with socket.create_connection(where, timeout=PATIENCE) as viewer:
        answer(viewer)


def test_a_server_that_does_not_read_holds_nobody(serve, container):
    """What is typed waits, and so does who types; others look on."""
    where = serve().open('server', container)
    with socket.create_connection(where, timeout=PATIENCE) as typist:
        answer(typist, b'stty raw -echo; echo $((6*7)); sleep 1000\r')
        typist.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 << 20:
                sent += typist.send(b'x' * 65536)
                if sent > 4 << 20:
                    time.sleep(0.01)
        assert sent < 64 << 20


def test_descriptors_above_1023_are_as_good_as_others(serve, container):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2048
    if hard < wanted:
        pytest.fail(f'this needs {wanted} files, of {hard} allowed')
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    null = os.open(os.devnull, os.O_RDONLY)
    held = [null, *(os.dup(null) for _ in range(1100))]
    try:
        where = serve().open('server', container)
        with socket.create_connection(where, timeout=PATIENCE) as viewer:
            answer(viewer)
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_port_that_nobody_uses_is_closed(serve, container):
    service = serve(idle=0.5)
    where = service.open('server', container)
    with socket.create_connection(where, timeout=PATIENCE) as viewer:
        time.sleep(1)  # longer than the port would be open without him
        answer(viewer)
    lan_fixture.wait_until(lambda: closed(where), PATIENCE)
    with socket.create_connection(service.open('server', container),
                                  timeout=PATIENCE) as viewer:
        answer(viewer)


def closed(where: tuple[str, int]) -> bool:
    """Tell whether nobody listens, without being a viewer."""
    with socket.socket() as s:
        try:
            s.bind(where)
        except OSError:
            return False
        return True


@pytest.mark.parametrize(('peer', 'networks', 'may'), [
    ('127.0.0.1', (), True), ('::1', (), True),
    ('::ffff:127.0.0.1', (), True), ('203.0.113.9', (), False),
    ('::ffff:203.0.113.9', (), False), ('fe80::1%eth0', (), False),
    ('203.0.113.9', ('203.0.113.0/24',), True),
    ('::ffff:203.0.113.9', ('203.0.113.0/24',), True),
    ('203.0.114.9', ('203.0.113.0/24',), False),
    ('2001:db8::5', ('2001:db8::/64',), True),
    ('2001:db8:1::5', ('2001:db8::/64', '203.0.113.0/24'), False)])
def test_who_may_look(peer, networks, may):
    known = serial_console.Consoles(
        None, '127.0.0.1', free_port, lambda _a, _p: None, networks)
    assert serial_console.allowed(peer, known._peers) is may
