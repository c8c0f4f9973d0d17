# SPDX-License-Identifier: Apache-2.0
"""What a container has written gets whole into another one."""

import fcntl
import os
import pathlib
import struct
import subprocess

import dockerd as dockerd_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.rootfs import overlay

WRITE = '''
set -e
mkdir -p /data/deep && cd /data
head -c 2000000 /dev/urandom >big
ln big deep/hard
ln -s /etc/passwd link
mkfifo fifo
mknod null c 1 3
echo text >owned && chown 1234:4321 owned && chmod 6711 owned
dd if=/dev/zero of=sparse bs=1 count=1 seek=50000000 2>/dev/null
touch "with space" -- -dash
printf 'x' >'new
line'
rm -rf /tmp && mkdir /tmp && echo new >/tmp/only
rm /bin/vi
'''
LOOK = '''
cd / && find data tmp bin/vi -exec stat -c \
    '%n|%F|%a|%u|%g|%h|%s|%Y|%t|%T' {} \\; 2>/dev/null | sort
sha256sum /data/big
readlink /data/link
'''


@pytest.fixture
def containers(dockerd):
    """Return what makes a container; all are removed."""
    made = []

    def make(name: str) -> dict:
        made.append(name)
        engine = dockerd.engine
        engine.create(name, {'Image': dockerd_fixture.IMAGE, 'Tty': True,
                             'HostConfig': {'NetworkMode': 'none'}})
        return engine.container(name)
    yield make
    for name in made:
        dockerd.engine.remove(name)


def inside(dockerd, name: str, command: str) -> str:
    done = dockerd.docker('exec', name, 'sh', '-c', command)
    assert done.stderr == ''
    return done.stdout


def changes(dockerd, name: str) -> list[str]:
    return sorted(dockerd.docker('diff', name).stdout.splitlines())


def test_all_that_was_written_arrives(dockerd, containers, tmp_path):
    engine, archive = dockerd.engine, str(tmp_path / 'layer.tar')
    source = containers('source')
    engine.start('source')
    inside(dockerd, 'source', WRITE)
    root = pathlib.Path(
        f'/proc/{engine.container("source")["State"]["Pid"]}/root')
    os.setxattr(root / 'data/owned', 'user.colour', b'blue')
    os.setxattr(root / 'data/big', 'trusted.mark', b'7')
    before = inside(dockerd, 'source', LOOK)
    engine.stop('source', 0)
    overlay.pack(overlay.upper(source), overlay.logs(source, 2), archive)
    # A hole is not sent.
    assert os.stat(archive).st_size < 10_000_000

    target = containers('target')
    overlay.unpack([archive], overlay.upper(target), overlay.log(target),
                   1 << 20)
    assert changes(dockerd, 'target') == changes(dockerd, 'source')
    engine.start('target')
    assert inside(dockerd, 'target', LOOK) == before
    root = pathlib.Path(
        f'/proc/{engine.container("target")["State"]["Pid"]}/root')
    assert os.getxattr(root / 'data/owned', 'user.colour') == b'blue'
    assert os.getxattr(root / 'data/big', 'trusted.mark') == b'7'
    assert not (root / 'bin/vi').exists()
    assert sorted(os.listdir(root / 'tmp')) == ['only']


def test_the_console_log_goes_on_where_it_ended(dockerd, containers,
                                                tmp_path):
    archive = str(tmp_path / 'layer.tar')
    source = containers('talker')
    log = pathlib.Path(overlay.log(source))
    line = '{"log":"%s\\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}\n'
    for path, text in ((f'{log}.2', 'oldest'), (f'{log}.1', 'older'),
                       (log, 'newest')):
        pathlib.Path(path).write_text(line % text)
    overlay.pack(overlay.upper(source), overlay.logs(source, 3), archive)
    target = containers('listener')
    overlay.unpack([archive], overlay.upper(target), overlay.log(target),
                   1 << 20)
    dockerd.engine.start('listener')
    told = dockerd.engine.container('listener')
    assert told['LogPath'] == overlay.log(target)
    told = dockerd.engine.logs('listener', 1000).decode().split()
    assert told[:3] == ['oldest', 'older', 'newest']


def test_an_archive_that_is_cut_off(dockerd, containers, tmp_path):
    archive = tmp_path / 'layer.tar'
    source = containers('short')
    overlay.pack(overlay.upper(source), [], str(archive))
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(exception.MoveFailed, match='tar: '):
        overlay.unpack([str(archive)], overlay.upper(source),
                       str(tmp_path / 'log'), 1 << 20)


def test_a_disk_that_is_too_small_is_said(tmp_path):
    layer, small = tmp_path / 'diff', tmp_path / 'small'
    for folder in (layer, small):
        folder.mkdir()
    (layer / 'file').write_bytes(os.urandom(3_000_000))
    overlay.pack(str(layer), [], str(tmp_path / 'layer.tar'))
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2M', 'tmpfs', small],
                   check=True)
    try:
        with pytest.raises(exception.MoveFailed, match='does not fit'):
            overlay.unpack([str(tmp_path / 'layer.tar')], str(small),
                           str(tmp_path / 'log'), 1 << 20)
    finally:
        subprocess.run(['umount', small], check=True)


def test_another_storage_driver_is_named():
    with pytest.raises(exception.MoveFailed, match='has btrfs; '):
        overlay.upper({'GraphDriver': {'Name': 'btrfs', 'Data': None}})


def test_no_more_is_packed_than_was_announced(tmp_path):
    """Small files, long names, holes and attributes take more than on disk."""
    layer = tmp_path / 'diff'
    (layer / ('d' * 200) / ('e' * 200)).mkdir(parents=True)
    for number in range(2000):
        (layer / f'{number}').write_bytes(b'')
    for number in range(200):
        path = layer / ('d' * 200) / ('e' * 200) / f'{"f" * 200}{number}'
        path.write_text('x')
        os.setxattr(path, 'user.colour', b'blue')
    (layer / 'big').write_bytes(os.urandom(3_000_000))
    with (layer / 'hole').open('wb') as f:
        f.truncate(1 << 40)
        for number in range(1000):
            f.seek(number << 20)
            f.write(b'x')
    told = overlay.packed_size(str(layer))
    overlay.pack(str(layer), [], str(tmp_path / 'layer.tar'))
    assert os.stat(tmp_path / 'layer.tar').st_size <= told < 20 << 20
    with pytest.raises(exception.MoveFailed, match='no directory'):
        overlay.packed_size(str(tmp_path / 'none'))


#: linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS; FS_IMMUTABLE_FL, FS_APPEND_FL
GET, SET = 0x80086601, 0x40086602
FLAGS = {'immutable': 0x10, 'append': 0x20}


def flags(path: pathlib.Path, more: int = 0) -> int:
    """Return the flags of a file, after some were added."""
    with open(path, 'rb') as f:
        found, = struct.unpack('l', fcntl.ioctl(f, GET, b'\0' * 8))
        if more:
            fcntl.ioctl(f, SET, struct.pack('l', found | more))
            found, = struct.unpack('l', fcntl.ioctl(f, GET, b'\0' * 8))
    return found & sum(FLAGS.values())


def test_files_that_cannot_be_changed_arrive_so(dockerd, containers,
                                                tmp_path):
    """Of a server that may make them: overlayfs notes it in an attribute.

    So the layer can be removed from the host as any other.
    """
    engine, archive = dockerd.engine, str(tmp_path / 'layer.tar')
    source = containers('source')
    engine.start('source')
    inside(dockerd, 'source', 'echo text >/immutable; echo text >/append')

    def root(name: str) -> pathlib.Path:
        return pathlib.Path(
            f'/proc/{engine.container(name)["State"]["Pid"]}/root')
    for name, flag in FLAGS.items():
        assert flags(root('source') / name, flag) == flag
    overlay.pack(overlay.upper(source), [], archive)
    target = containers('target')
    overlay.unpack([archive], overlay.upper(target), overlay.log(target), 1024)
    engine.start('target')
    for name, flag in FLAGS.items():
        assert flags(root('target') / name) == flag
        assert (root('target') / name).read_text() == 'text\n'
    with pytest.raises(PermissionError):
        (root('target') / 'immutable').unlink()
