# SPDX-License-Identifier: Apache-2.0
"""Directories that a guest, or another host, has nested too deep."""

import collections
import contextlib
import os
import pathlib
import resource
import subprocess
import sys

import pytest
import transfers

from nova_vcloud import exception
from nova_vcloud.transfer import spool as spools
from nova_vcloud.virt_docker.guest import disk_copies
from nova_vcloud.virt_docker.rootfs import changed_files
from nova_vcloud.virt_docker.rootfs import overlay
from nova_vcloud.virt_docker.volumes import ephemeral

MIB = 1 << 20
DEEP = 1900  # Python calls 1000, and tar takes 4096 bytes of names
SERVER = '11111111-2222-4333-8444-555566667777'


def nest(top: pathlib.Path, depth: int, name: str) -> None:
    """Make directories in each other, as whoever is inside can."""
    program = ('import os, sys\n'
               'for _ in range(int(sys.argv[1])):\n'
               '    os.mkdir(sys.argv[2]); os.chdir(sys.argv[2])\n')
    subprocess.run([sys.executable, '-c', program, str(depth), name],
                   cwd=top, check=True)


@pytest.fixture
def layer(tmp_path):
    path = tmp_path / 'diff'
    path.mkdir()
    yield path
    subprocess.run(['rm', '-rf', '--', path], check=True)


@contextlib.contextmanager
def memory(size: int):
    """Let this process take so many bytes more."""
    pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (
        pages * resource.getpagesize() + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize('look', [
    lambda path, _notes: overlay.packed_size(path), overlay.look,
    lambda path, _notes: disk_copies.apparent(path)],
    ids=['move', 'copy', 'snapshot'])
def test_a_look_takes_no_memory_for_paths(layer, tmp_path, budget, look):
    """1500 directories had 274 MiB of paths, and ten times as many 27 GiB."""
    nest(layer, budget.count(1500, 6000), 'd' * 255)
    with memory(64 * MIB), pytest.raises(
            exception.MoveFailed, match='more than 4093 bytes'):
        look(str(layer), str(tmp_path / 'seen'))


@pytest.mark.parametrize(('bound', 'size'), [
    ('MAX_BYTES', 100 * 200), ('MAX_FILES', 100)])
def test_names_are_listed_up_to_a_bound(layer, tmp_path, monkeypatch, bound,
                                        size):
    for number in range(100):
        (layer / f'{number:0200}').touch()
    overlay.look(str(layer), str(tmp_path / 'seen'))
    monkeypatch.setattr(changed_files, bound, size)
    for look in (lambda: overlay.look(str(layer), str(tmp_path / 'seen')),
                 lambda: overlay.pack_changes(
                     str(layer), str(tmp_path / 'seen'), 0.0, [],
                     str(tmp_path / 'sink')),
                 lambda: changed_files.prune(
                     str(layer), (b'f' * 200 + b'\0') * 101)):
        with pytest.raises(exception.MoveFailed, match='remove some'):
            look()


def test_very_many_files_take_little_memory():
    """Short names, of which as many bytes are the most files."""
    count = changed_files.MAX_FILES // 5

    def lines():
        for number in range(count):
            yield b'f %d 4096 1700000000.1234567890 d/%d' % (number, number)

    before = lines()
    with memory(140 * MIB):
        now = changed_files.parse(changed_files.bounded(lines()),
                                  changed_files.seen(
            changed_files.bounded(before)), 1.0)
        assert len(changed_files.again(now)) == count + 2
        assert sum(map(len, changed_files.kept(now, now))) > MIB
    with pytest.raises(exception.MoveFailed, match='more than 1000000 files'):
        collections.deque(changed_files.bounded(
            b'f' for _ in range(changed_files.MAX_FILES + 1)), maxlen=0)


@pytest.mark.parametrize('size',
                         [changed_files.MAX_PATH, changed_files.MAX_PATH + 1])
def test_what_can_be_copied_is_not_refused(layer, tmp_path, size):
    """The longest path that is taken is the longest that tar unpacks."""
    depth, rest = divmod(size, 251)
    nest(layer, depth, 'd' * 250)
    subprocess.run(
        ['find', '-depth', '-type', 'd', '-empty', '-execdir', 'touch',
         '{}/' + 'f' * rest, ';'], cwd=layer, check=True)
    target = tmp_path / 'copy'
    target.mkdir()
    fits = size == changed_files.MAX_PATH
    for step in (lambda: overlay.look(str(layer), str(tmp_path / 'seen')),
                 lambda: overlay.copy(str(layer), str(target))):
        with contextlib.nullcontext() if fits else pytest.raises(
                exception.MoveFailed):
            step()
    copied = sum(len(names) for _path, _below, names in os.walk(target))
    assert copied == fits


def test_directories_that_are_gone_are_removed(layer):
    """The guest has removed them between the copy and its stop."""
    for name in ('one', 'two'):
        (layer / name).mkdir()
        nest(layer / name, DEEP, 'd')
    changed_files.prune(str(layer), b'D\0Done\0')
    assert list(layer.iterdir()) == [layer / 'one']
    assert list((layer / 'one').iterdir()) == []


@pytest.mark.parametrize('lies', ['directories', 'file', 'link'])
def test_what_the_receivers_account_leaves_is_removed(tmp_path, lies):
    top, victim = tmp_path / 'spool', tmp_path / 'victim'
    victim.mkdir()
    (victim / 'file').touch()
    spool = spools.Spool(str(top))
    spool.make()
    transfers.admit(top, SERVER)
    place = top / SERVER
    if lies == 'directories':
        place.mkdir()
        nest(place, 3 * DEEP, 'd')
    elif lies == 'file':
        place.touch()
    else:
        place.symlink_to(victim)
    spool.drop(SERVER)
    assert list(top.iterdir()) == []
    assert list(victim.iterdir()) == [victim / 'file']


def test_a_disk_that_is_directories_leaves_nothing(tmp_path):
    source, spool = tmp_path / 'source', tmp_path / 'spool'
    (source / 'disk.eph0').mkdir(parents=True)
    spool.mkdir()
    nest(source / 'disk.eph0', DEEP, 'd')
    subprocess.run(['tar', '-C', source, '-cf', spool / 'disk.eph0.tar',
                    'disk.eph0'], check=True)
    store = ephemeral.Store(str(tmp_path / 'disks'), 'ext4')
    with pytest.raises(exception.MoveFailed, match='come as no file'), \
            store.arrived(SERVER, str(spool), ['disk.eph0'], MIB):
        pass
    assert not (tmp_path / 'disks' / SERVER).exists()
    subprocess.run(['rm', '-rf', '--', source], check=True)
