# SPDX-License-Identifier: Apache-2.0
"""Sizes of root disks of overlay2 on xfs, which this kernel has quotas for."""

import os
import uuid

from backend_contract import Contract
from backend_contract import Place
import dockerd as dockerd_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.backends import disk
from nova_vcloud.qos.disk import rootfs
from nova_vcloud.qos.disk import xfs_project_quota

MIB = 2**20
KEY = limits.Key('disk', 'max')


@pytest.fixture(scope='module')
def engine():
    with dockerd_fixture.private(store='xfs') as found:
        yield found


@pytest.fixture
def make(engine):
    """Makes containers that are told sizes as servers are."""
    made = []

    def create(size, command=('sleep', '1000')):
        backend = disk.DiskBackend(engine.engine)
        assert backend.support().enforced == {'disk.max'}
        made.append(engine.engine.create(f'nova-{uuid.uuid4()}', {
            'Image': dockerd_fixture.IMAGE, 'Cmd': list(command),
            'HostConfig': {'NetworkMode': 'none', **backend.host_config(
                limits.Limits({KEY: size}))}}))
        return backend, Guest('', made[-1], '')

    yield create
    for container in made:
        engine.engine.remove(container)


class TestDisk(Contract):
    """Quotas of containers that are stopped."""

    @pytest.fixture
    def place(self, make):
        backend, first = make(32 * MIB)
        _backend, second = make(32 * MIB)
        return Place(backend, first, second, Guest('', 'absent', ''), {})


def inside(engine, guest, script):
    done = engine.docker('exec', guest.name, 'sh', '-c', script, check=False)
    return done.stdout + done.stderr


def total(engine, guest):
    """Return the MiB that df shows inside."""
    line = inside(engine, guest, 'df -m /').splitlines()[-1]
    return int(line.split()[1])


def test_a_disk_is_full_inside_and_grows_while_the_server_runs(engine, make):
    backend, guest = make(64 * MIB)
    engine.engine.start(guest.name)
    assert total(engine, guest) == 64
    # The engine has not limited inodes: that is no size yet.
    assert backend.read(guest, [KEY])[KEY] is limits.UNLIMITED
    backend.apply(guest, [base.Change(KEY, limits.UNLIMITED, 64 * MIB)])
    assert backend.read(guest, [KEY])[KEY] == 64 * MIB
    room = os.statvfs(engine.home / 'data').f_bavail
    write = 'dd if=/dev/zero of=/file bs=1M count=100 conv=fsync'
    assert 'No space left' in inside(engine, guest, write)
    figures = backend.figures(guest.name)
    assert figures['disk_limit_bytes'] == 64 * MIB
    assert 62 * MIB < figures['disk_used_bytes'] <= 64 * MIB
    left = os.statvfs(engine.home / 'data')
    assert (room - left.f_bavail) * left.f_frsize < 80 * MIB
    backend.apply(guest, [base.Change(KEY, 64 * MIB, 128 * MIB)])
    assert total(engine, guest) == 128
    assert 'No space left' not in inside(engine, guest, write)
    engine.docker('restart', '-t', '0', guest.name)
    assert total(engine, guest) == 128
    assert backend.read(guest, [KEY])[KEY] == 128 * MIB


def test_who_makes_files_without_end_takes_his_own_inodes(engine, make):
    backend, guest = make(64 * MIB)
    _backend, other = make(64 * MIB)
    for each in (guest, other):
        backend.apply(each, [base.Change(KEY, limits.UNLIMITED, 64 * MIB)])
        engine.engine.start(each.name)
    count = 64 * MIB // xfs_project_quota.BYTES_PER_INODE
    before = os.statvfs(engine.home / 'data')
    said = inside(engine, guest, 'i=0; mkdir /d; while : >/d/$i; do'
                                 f' i=$((i+1)); [ $i -lt {3 * count} ] ||'
                                 ' exit 0; done')
    after = os.statvfs(engine.home / 'data')
    assert 'No space left' in said or 'quota exceeded' in said, said[-200:]
    used = (before.f_files - before.f_ffree, after.f_files - after.f_ffree)
    assert count * 0.9 < used[1] - used[0] <= count + 64
    line = inside(engine, guest, 'df -i /').splitlines()[-1]
    assert int(line.split()[1]) == count
    assert inside(engine, other, ': >/file && echo made') == 'made\n'
    backend.apply(guest, [base.Change(KEY, 64 * MIB, 128 * MIB)])
    assert inside(engine, guest, ': >/one-more && echo made') == 'made\n'


def test_who_was_made_without_a_size_gets_none(make):
    backend, guest = make(limits.UNLIMITED)
    assert backend.read(guest, [KEY])[KEY] is limits.UNLIMITED
    with pytest.raises(exception.LimitNotEnforced, match='made without'):
        backend.apply(guest, [base.Change(KEY, limits.UNLIMITED, MIB)])


FILL = ('dd if=/dev/zero of=/big bs=1M conv=fsync; mkdir /d; i=0; while true '
        '>/d/$i; do i=$((i+1)); dd if=/dev/zero of=/d/$i bs=4k conv=fsync;'
        ' [ $i -lt 5000 ] || exit 0; done')
EMPTY = ('i=0; mkdir /d; while true >/d/$i; do i=$((i+1));'
         ' [ $i -lt 9000 ] || exit 0; done')


@pytest.mark.parametrize('script', [FILL, EMPTY])
def test_a_full_disk_has_room_for_a_start_and_no_more_later(
        engine, make, tmp_path, script):
    _backend, guest = make(64 * MIB)
    backend = disk.DiskBackend(engine.engine, links=str(tmp_path))
    assert backend.support().enforced == {'disk.max'}
    backend.apply(guest, [base.Change(KEY, limits.UNLIMITED, 64 * MIB)])
    engine.engine.start(guest.name)
    backend.make_room(guest.name)
    assert not list(tmp_path.iterdir())
    inside(engine, guest, script)
    engine.engine.stop(guest.name, 0)
    for _each in range(2):
        with backend.room(guest.name):
            assert backend.read(guest, [KEY])[KEY] != 64 * MIB
            engine.engine.start(guest.name)
        assert backend.read(guest, [KEY])[KEY] == 64 * MIB
        said = inside(engine, guest, 'mkdir /e /f && dd if=/dev/zero of=/more '
                                     'bs=1M count=20 conv=fsync')
        assert 'No space left' in said or 'quota exceeded' in said, said
        engine.engine.stop(guest.name, 0)
    # What the runtime is told is what ended it here.
    backend.make_room(guest.name)
    (path,) = tmp_path.iterdir()
    assert path.name == f'{guest.name}.room'
    rootfs.end_room(path.read_text().strip())
    assert backend.read(guest, [KEY])[KEY] == 64 * MIB
    backend.forget(guest.name)
    assert not list(tmp_path.iterdir())
    with backend.room(guest.name):
        engine.engine.start(guest.name)
    assert inside(engine, guest, 'rm -rf /d /big; echo mine >/file; '
                                 'cat /file') == 'mine\n'
