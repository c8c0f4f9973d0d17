# SPDX-License-Identifier: Apache-2.0
"""Device nodes where the host reads files of a server: none is opened.

An image may have them, and root in a server puts them where it likes, also
without the capability to make one. Opening is enough to do harm: a watchdog
that is opened, say, resets the host a minute later.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import os
import pathlib
import stat
import tarfile

import computehost
import pytest

from nova_vcloud import exception
from nova_vcloud import idmounts
from nova_vcloud import regular_files
from nova_vcloud import userns
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import etc_files
from nova_vcloud.virt_docker.rootfs import received

NULL = os.makedev(1, 3)
IN_OPEN = 0x20  # inotify(7)
IDS = userns.IdMap(((0, 100000, 65536),), ((0, 100000, 65536),))


@pytest.fixture
def host(dockerd, lan, tmp_path) -> Iterator[computehost.ComputeHost]:
    found = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records',
        capabilities=('CHOWN', 'KILL', 'DAC_OVERRIDE', 'MKNOD'))
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)


@contextlib.contextmanager
def opens(path: str) -> Iterator[Callable[[], bool]]:
    """Have what tells whether a file was opened since it told last."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder, name = os.path.split(path)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, folder.encode(), IN_OPEN) > 0

    def seen() -> bool:
        try:
            # The name is padded, so that others are not part of it.
            return f'{name}\0'.encode() in os.read(watch, 1 << 16)
        except BlockingIOError:
            return False
    try:
        yield seen
    finally:
        os.close(watch)


def node(path: pathlib.Path) -> str:
    os.mknod(path, 0o666 | stat.S_IFCHR, NULL)
    return str(path)


@pytest.mark.parametrize('name', ['hosts', 'hostname'])
def test_a_node_instead_of_a_file_that_is_renewed(host, name):
    instance = host.instance()
    host.spawn(instance, host.ports())
    host.dockerd.docker(
        'exec', container_spec.container_name(instance.uuid), 'sh', '-c',
        f'rm -f /etc/{name} && mknod /etc/{name} c 1 3')
    container = host.container(instance)
    pid = container['State']['Pid']
    path = f'/proc/{pid}/root/etc/{name}'
    with opens(path) as seen:
        os.close(os.open(path, os.O_RDONLY))
        assert seen()  # nothing keeps the host from it
        etc_files.write(pid, container['Id'], 'test', 'other', [])
        assert not seen()


def test_a_node_that_another_host_sends_as_a_disk(tmp_path):
    path, folder = tmp_path / 'spool' / 'disk.tar', tmp_path / 'into'
    path.parent.mkdir()
    folder.mkdir()
    member = tarfile.TarInfo('disk')
    member.type = tarfile.CHRTYPE
    member.devmajor, member.devminor = os.major(NULL), os.minor(NULL)
    with tarfile.open(path, 'w') as packed:
        packed.addfile(member)
    with opens(str(folder / 'disk')) as seen:
        with pytest.raises(exception.MoveFailed, match='has come as no file'):
            received.unpack_file(str(path), str(folder), 'disk', 1 << 20)
        assert stat.S_ISCHR(os.stat(folder / 'disk').st_mode)
        assert not seen()


@pytest.mark.parametrize('ids', [None, IDS], ids=['host', 'mapped'])
def test_none_opens_where_tar_reads_what_a_server_changes(tmp_path, ids):
    """tar looks at a file, and opens it when it may be another one."""
    path = node(tmp_path / 'node')
    (tmp_path / 'plain').write_text('text')
    for each in (tmp_path, tmp_path / 'node', tmp_path / 'plain'):
        os.chown(each, 100000, 100000)
    os.close(os.open(path, os.O_RDONLY))  # nothing else forbids it
    with idmounts.view(str(tmp_path), ids) as seen:
        assert stat.S_ISCHR(os.lstat(f'{seen}/node').st_mode)
        assert pathlib.Path(seen, 'plain').read_text() == 'text'
        with pytest.raises(PermissionError):
            os.open(f'{seen}/node', os.O_RDONLY)


@pytest.mark.parametrize('kind', ['node', 'pipe', 'link', 'folder', 'gone'])
def test_only_a_regular_file_is_opened(tmp_path, kind):
    path = tmp_path / 'it'
    {'node': lambda: node(path), 'pipe': lambda: os.mkfifo(path),
     'link': lambda: path.symlink_to('/etc/passwd'),
     'folder': path.mkdir, 'gone': lambda: None}[kind]()
    with pytest.raises(OSError, match='No such file' if kind == 'gone'
                       else 'not a regular file'):
        regular_files.open_to_read('it', folder := os.open(
            tmp_path, os.O_RDONLY))
    os.close(folder)
