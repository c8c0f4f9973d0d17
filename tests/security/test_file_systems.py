# SPDX-License-Identifier: Apache-2.0
"""nova-compute waits for no program of a server that is a file system.

FUSE, on every path of a server that the host looks at: it never answers, and
no signal ends the wait of who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
import contextlib
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud.virt_docker.guest import etc_files
from nova_vcloud.virt_docker.guest import live_processes
from nova_vcloud.virt_docker.guest import server_files
from nova_vcloud.virt_docker.volumes import devicebinds
from nova_vcloud.virt_docker.volumes import nodes

LONG = 60.0  # seconds; what waits for FUSE waits for ever
#: Has mounts and a root of its own, as a server has, and FUSE at a place of
#: them. Ends with its standard input.
SERVER = textwrap.dedent('''
    import ctypes, os, sys
    place, = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    def check(result):
        if result:
            raise OSError(ctypes.get_errno(), 'x')
    def mount(source, target, kind, flags=0, data=''):
        check(libc.mount(source.encode(), target.encode(), kind.encode(),
                         flags, data.encode()))
    check(libc.unshare(0x20000))  # CLONE_NEWNS
    mount('none', '/', '', 0x40000 | 0x4000)  # private, all below
    os.makedirs('/run/nova-vcloud-test', exist_ok=True)
    top = '/run/nova-vcloud-test'
    mount('root', top, 'tmpfs')
    for name in ('dev', 'etc', 'fuse', 'up', 'work'):
        os.mkdir(f'{top}/{name}')
    mount('dev', f'{top}/dev', 'tmpfs')
    os.mkdir(f'{top}/dev/shm')
    mount('shm', f'{top}/dev/shm', 'tmpfs')
    for name in ('etc/hosts', 'etc/hostname', 'dev/vdb'):
        open(f'{top}/{name}', 'w').write('127.0.0.1 it')
    fuse = os.open('/dev/fuse', os.O_RDWR)
    target = f'{top}/{place}'
    mode = '40000' if os.path.isdir(target) else '100000'
    mount('fuse', target, 'fuse', 6,
          f'fd={fuse},rootmode={mode},user_id=0,group_id=0,allow_other')
    os.chroot(top)
    print('ready', flush=True)
    sys.stdin.read()
''')
PLACES = ['dev', 'dev/shm', 'dev/vdb', 'etc', 'etc/hosts', 'etc/hostname']


@contextlib.contextmanager
def serving(place: str) -> Iterator[int]:
    """Have a process in whose root FUSE is at a place."""
    server = subprocess.Popen(
        [sys.executable, '-c', SERVER, place], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert server.stdout
        assert server.stdout.readline() == 'ready\n'
        yield server.pid
    finally:
        # Its end answers all who wait.
        server.kill()
        server.communicate()


def in_time(call):
    """Return what a call does, which must not wait for ever."""
    pool = futures.ThreadPoolExecutor(1)
    try:
        done = pool.submit(call)
        assert not futures.wait((done,), LONG).not_done
        return done.result()
    finally:
        pool.shutdown(wait=False)  # it ends when the server does


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    privsep.in_process()
    # It is in no container: any process is the server's.
    monkeypatch.setattr(server_files.Process, 'groups', lambda _self: '0::/c')


@pytest.fixture(params=PLACES)
def pid(request) -> Iterator[int]:
    if not os.path.exists('/dev/fuse'):
        pytest.skip('no /dev/fuse on this host, which the attack opens')
    with serving(request.param) as found:
        yield found


def test_names_of_a_server(pid):
    in_time(lambda: etc_files.write(pid, 'c', 'it', 'other', [['10.0.0.1/8']]))


def test_shared_memory_of_a_server(pid):
    in_time(lambda: live_processes.apply(pid, 'c', 1 << 20, (0, 0), ()))


def test_devices_of_a_server(pid):
    def look():
        with nodes._dev(pid) as (process, folder):
            return nodes._is_ours(process, folder, 'vdb', (1, 1))

    with contextlib.suppress(exception.VolumeError, OSError):
        assert not in_time(look)
    with contextlib.suppress(OSError):
        in_time(lambda: devicebinds.hide(
            pid, 'vdb', lambda process, folder: nodes._is_ours(
                process, folder, 'vdb', (1, 1))))


def test_open_files_of_a_server(tmp_path):
    """Of FUSE too; the host looks for devices that are in use."""
    with serving('etc/hosts') as pid:
        (tmp_path / 'cgroup.procs').write_text(f'{pid}\n')
        assert not in_time(lambda: nodes._open_in(tmp_path, (7, 1)))


def test_what_the_host_has_mounted_is_found():
    with server_files.process(os.getpid()) as process, \
            process.folder('dev', 'shm') as shm:
        assert process.check(shm) == 'tmpfs'
    assert server_files.device('/dev/null') is None
    with pytest.raises(FileNotFoundError):
        server_files.device('/nowhere')
    assert pathlib.Path('/dev/null').is_char_device()
