# SPDX-License-Identifier: Apache-2.0
"""Tables of the kernel that all servers share: one leaves room for others.

With the bounds of etc/nova-vcloud/sysctl.example; without them each of
these attacks works.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import pathlib
import subprocess
import sys

import computehost
import pytest

from nova_vcloud import host_checks
from nova_vcloud.cmd import manage

#: Asks for many neighbours at once; a socket has room for the packets of
#: some hundred that wait for theirs.
ASKER = '''
import socket
asked = []
for number in range(0x1000, 0x1000 + 3000):
    if not asked or number % 200 == 0:
        asked.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    asked[-1].sendto(b'', (f'fd00:77::{number:x}', 9))
print('asked', flush=True)
input()
'''
WATCHER = '''
import ctypes, sys
count = int(sys.argv[1])
made = [ctypes.CDLL(None).inotify_init() for _ in range(count)]
print(sum(each >= 0 for each in made), 'of', count, flush=True)
input()
'''
INSTANCES = 200  # more than the 128 that Linux gives a user by itself


@pytest.fixture
def recommended() -> Iterator[None]:
    """Have the bounds that the operator is told to set."""
    places = {pathlib.Path('/proc/sys', bound.name.replace('.', '/')): bound
              for bound in host_checks.BOUNDS
              if bound.name.startswith(('net.', 'fs.inotify.'))}
    before = {path: path.read_text() for path in places}
    try:
        for path, bound in places.items():
            if host_checks.sysctl(bound, int(before[path])).problem:
                path.write_text(str(bound.value))
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.fixture
def host(dockerd, lan, tmp_path) -> Iterator[computehost.ComputeHost]:
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)


def spawn(host, **specs):
    instance = host.instance(**specs)
    host.spawn(instance, host.ports())
    return instance


@pytest.mark.usefixtures('recommended')
def test_pending_neighbours_of_one_server_leave_room(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)
    asker = subprocess.Popen(
        ['ip', 'netns', 'exec', lan.prefix + server, sys.executable, '-c',
         ASKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert asker.stdout
        assert asker.stdout.readline() == 'asked\n'
        waiting = json.loads(lan.server_ip(
            server, '-j', '-6', 'neigh', 'show', 'nud', 'incomplete',
            'nud', 'failed'))
        assert len(waiting) > 1024
        # The gateway and another server have to find one another anew.
        other = f'{server[:-4]}beef'
        try:
            fresh = lan.nic()
            lan.network.plug(other, (fresh,))
            assert lan.pings_all(fresh)
        finally:
            lan.network.destroy(other)
    finally:
        asker.kill()
        asker.communicate()


@pytest.mark.usefixtures('recommended')
def test_inotify_instances_of_one_server_leave_room():
    """By processes of root, which all servers have in common."""
    with subprocess.Popen(
            [sys.executable, '-c', WATCHER, str(INSTANCES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as all_:
        assert all_.stdout
        assert all_.stdout.readline() == f'{INSTANCES} of {INSTANCES}\n'
        one = subprocess.run([sys.executable, '-c', WATCHER, '1'], input='\n',
                             stdout=subprocess.PIPE, text=True, check=True)
        assert one.stdout == '1 of 1\n'
        all_.communicate('\n')


def test_the_operator_is_told(host, tmp_path, capsys):
    """By ``nova-vcloud-manage host check``, with the lines to set."""
    conf = tmp_path / 'nova.conf'
    conf.write_text(f'[docker]\nurl = {host.dockerd.url}\n')
    spawn(host)
    code = manage.main(['--config-file', str(conf), 'host', 'check'])
    printed = capsys.readouterr()
    assert not printed.err
    lines = printed.out.splitlines()
    wrong = [line for line in lines if line.startswith('WARN')]
    assert code == bool(wrong)
    assert all(line.startswith(('WARN ', 'ok   ')) for line in lines)
    assert any('seccomp profile is' in line and line.startswith('ok')
               for line in lines)
    for bound in host_checks.BOUNDS:
        line, = (line for line in lines if f' {bound.name} ' in line)
        assert line.startswith('ok') or bound.line in line
