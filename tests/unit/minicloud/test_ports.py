# SPDX-License-Identifier: Apache-2.0
"""Free and taken ports, with real sockets."""

import os
import socket

import pytest

from mini import errors
from mini import ports


@pytest.fixture
def listener():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_listener_makes_its_port_taken_and_is_named(listener):
    assert not ports.is_free(listener)
    pid, command = ports.holder(listener)
    assert pid == os.getpid()
    assert 'python' in command or 'pytest' in command


def test_the_error_names_service_port_and_holder(listener):
    with pytest.raises(errors.MinicloudError) as caught:
        ports.require_free({'keystone': listener}, own=set())

    text = caught.value.report()
    assert f'port {listener} for keystone is held by pid {os.getpid()}' in text
    assert 'MINICLOUD_PORT_BASE' in text


def test_our_own_process_may_hold_it(listener):
    ports.require_free({'keystone': listener}, own={os.getpid()})


def test_a_closed_port_is_free_though_a_connection_lingers():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(('127.0.0.1', 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(('127.0.0.1', port))
        accepted, _ = server.accept()
        accepted.close()
        client.close()

    assert ports.is_free(port)
    assert ports.holder(port) is None


def test_listening_inodes_ignores_connections_and_other_ports():
    table = (
        '  sl  local_address rem_address st ...\n'
        '   0: 0100007F:3A98 00000000:0000 0A 0:0 0:0 0 0 0 111 1\n'
        '   1: 0100007F:3A98 0100007F:9999 01 0:0 0:0 0 0 0 222 1\n'
        '   2: 0100007F:3A99 00000000:0000 0A 0:0 0:0 0 0 0 333 1\n'
    )

    assert ports.listening_inodes(table, 15000) == {'111'}
