# SPDX-License-Identifier: Apache-2.0
"""Ephemeral disks: real files, loop devices, filesystems, ssh and engines."""

import dataclasses
import os
import subprocess

from nova import objects
import pytest
from volumehost import host_of
from volumehost import loops_of
from volumehost import mounts_of

from nova_vcloud import exception
from nova_vcloud.virt_docker.volumes import ephemeral
from nova_vcloud.virt_docker.volumes import filesystems
from nova_vcloud.virt_docker.volumes import loops
from nova_vcloud.virt_docker.volumes import nodes

GIB = 1 << 30
as_files = host_of('filesystem')
as_disks = host_of('device')


def told(*disks):
    """Return Nova's block_device_info of ephemeral disks.

    :param disks: (name, GiB, filesystem)
    """
    return {'root_device_name': '/dev/vda', 'ephemerals': [
        {'device_name': name, 'size': size, 'guest_format': kind}
        for name, size, kind in disks]}


ONE = told(('/dev/vdb', 1, None))


def make(host, info=ONE, ephemeral_gb=1):
    """Return a server with disks, (instance, ports)."""
    instance, ports = host.instance(), host.ports()
    instance.flavor.ephemeral_gb = ephemeral_gb
    instance.migration_context = None
    instance.old_flavor = None
    instance.default_ephemeral_device = None
    with host.verbs.spawned(instance, info):
        host.containers.spawn(None, instance, objects.ImageMeta(), ports, b'')
    return instance, ports


def destroy(host, instance):
    host.containers.destroy(instance.uuid)
    host.volumes.release(instance.uuid)
    host.ephemerals.remove(instance.uuid)


def files(host):
    return sorted(path.name for path in
                  (host.folder / 'instances').glob('*/*'))


def file_of(host, instance, number=0):
    return host.folder / 'instances' / instance.uuid / f'disk.eph{number}'


def blkid(path, tag):
    return subprocess.check_output(
        ['blkid', '--probe', '--match-tag', tag, '--output', 'value', path],
        text=True).strip()


def test_a_disk_is_mounted_from_the_start_and_after_each(as_files):
    host = as_files
    instance, ports = make(host)
    path = file_of(host, instance)
    assert (blkid(path, 'LABEL'), blkid(path, 'TYPE')) == (
        'ephemeral0', 'xfs')
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_blocks * 512 < GIB // 8
    size = int(host.inside(instance,
                           'df -k /volumes/vdb | tail -1').split()[1])
    assert 0.9 * GIB < size * 1024 <= GIB
    host.inside(instance, 'echo kept >/volumes/vdb/note; sync')
    host.verbs.started(instance, ONE)
    host.containers.reboot(instance, ports, 0)
    assert host.inside(instance, 'cat /volumes/vdb/note') == 'kept\n'
    # As after a reboot of the host.
    host.containers.stop(instance.uuid, 0)
    for line in reversed(mounts_of(host.folder)):
        subprocess.run(['umount', line.split()[1]], check=False)
    loops.detach(str(path))
    assert (mounts_of(host.folder), loops_of(host.folder)) == ([], [])
    host.verbs.started(instance, ONE)
    host.containers.start(instance, ports)
    assert host.inside(instance, 'cat /volumes/vdb/note') == 'kept\n'
    destroy(host, instance)
    assert (mounts_of(host.folder), loops_of(host.folder), files(host)) \
        == ([], [], [])


def test_a_disk_is_a_device_from_the_start_and_after_each(as_disks):
    host = as_disks
    instance, ports = make(host)
    assert int(host.inside(
        instance, 'blockdev --getsize64 /dev/vdb')) == GIB
    # Not one byte more of the host.
    assert 'No space left' in host.inside(
        instance, 'dd if=/dev/zero of=/dev/vdb bs=1M seek=1023 count=2 2>&1')
    host.inside(instance, 'printf kept | dd of=/dev/vdb bs=4 count=1')
    counted = host.volumes.counters(instance.uuid)['vdb']
    assert counted['write_bytes'] >= 1 << 20
    assert counted['write_requests'] > 0
    read = 'dd if=/dev/vdb bs=4 count=1 2>/dev/null'
    host.verbs.started(instance, ONE)
    host.containers.reboot(instance, ports, 0)
    assert host.inside(instance, read) == 'kept'
    host.dockerd.docker('restart', '-t', '0', f'nova-{instance.uuid}')
    assert host.inside(instance, read) == 'kept'
    host.dockerd.kill()
    host.dockerd.start()
    host.verbs.started(instance, ONE)
    host.containers.start(instance, ports)
    assert host.inside(instance, read) == 'kept'
    destroy(host, instance)
    assert (loops_of(host.folder), files(host)) == ([], [])


def test_the_first_process_sees_it(as_files):
    instance, _ports = make(as_files)
    assert as_files.inside(
        instance, 'grep -c /volumes/vdb /proc/1/mounts') == '1\n'


def test_several_disks_with_their_filesystems(as_files):
    host = as_files
    info = told(('/dev/vdc', 2, 'xfs'), ('/dev/vdb', 1, 'ext4'))
    instance, _ports = make(host, info, 3)
    assert [blkid(file_of(host, instance, n), 'TYPE') for n in (0, 1)] == [
        'ext4', 'xfs']
    assert [blkid(file_of(host, instance, n), 'LABEL') for n in (0, 1)] == [
        'ephemeral0', 'ephemeral1']
    assert host.inside(instance, 'ls /volumes') == 'vdb\nvdc\n'


def test_a_full_disk_fills_nothing_else(as_files):
    instance, _ports = make(as_files)
    assert 'No space left' in as_files.inside(
        instance, 'dd if=/dev/zero of=/volumes/vdb/x bs=8M 2>&1')
    path = file_of(as_files, instance)
    assert path.stat().st_blocks * 512 <= GIB


def test_a_disk_may_have_its_space_from_the_beginning(as_files, tmp_path):
    store = ephemeral.Store(str(tmp_path / 'instances'), 'xfs', whole=True)
    disk = ephemeral.Disk(0, '/dev/vdb', GIB)
    store.make('whole', [disk])
    assert store.used('whole') >= GIB
    assert blkid(tmp_path / 'instances/whole/disk.eph0', 'TYPE') == 'xfs'
    store.remove('whole')
    with pytest.raises(exception.VolumeError, match='File too large'):
        store.make('whole', [dataclasses.replace(disk, size=1 << 62)])
    store.remove('whole')


@pytest.mark.parametrize(('name', 'words'), [
    ('disk.eph0', 'has come as no file'),
    ('../disk.eph0', 'is no ephemeral disk')])
def test_what_another_host_sends_is_a_file_in_its_place(tmp_path, name,
                                                        words):
    os.symlink('/dev/null', tmp_path / 'disk.eph0')
    subprocess.run(['tar', '--create', '--file', 'disk.eph0.tar',
                    'disk.eph0'], cwd=tmp_path, check=True)
    store = ephemeral.Store(str(tmp_path / 'instances'), 'xfs')
    with pytest.raises(exception.MoveFailed, match=words), \
            store.arrived('server', str(tmp_path), [name], GIB):
        pass
    assert list(tmp_path.glob('instances/*')) == []


@pytest.mark.parametrize(('kind', 'programs', 'words'), [
    ('btrfs', None, 'it knows xfs, ext4'),
    ('/bin/sh', None, 'it knows xfs, ext4'),
    (None, '/nonexistent', 'there is no mkfs.xfs')])
def test_a_host_that_cannot_says_why(as_files, monkeypatch, kind, programs,
                                     words):
    if programs:
        monkeypatch.setattr(filesystems, 'PROGRAMS', programs)
    with pytest.raises(exception.InvalidRequest, match=words):
        make(as_files, told(('/dev/vdb', 1, kind)))
    assert (files(as_files), as_files.containers.list()) == ([], {})


def test_a_host_without_loop_devices_says_why(as_files, tmp_path,
                                              monkeypatch):
    program = tmp_path / 'bin' / 'losetup'
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncase $1 in --find) echo losetup: cannot '
                       'find an unused loop device >&2; exit 1;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(program.parent), prepend=':')
    with pytest.raises(exception.VolumeError, match='unused loop device'):
        make(as_files)
    assert files(as_files) == []


def rebuild(host, instance, ports):
    host.containers.rebuild(
        None, instance, objects.ImageMeta(), ports, b'', 0,
        host.verbs.new_disks(instance, ONE))
    host.ephemerals.drop_old(instance.uuid)


@pytest.mark.parametrize('shown_as', ['as_files', 'as_disks'])
def test_a_rebuilt_server_has_new_ones(request, shown_as):
    host = request.getfixturevalue(shown_as)
    instance, ports = make(host)
    write(host, instance)
    rebuild(host, instance, ports)
    assert 'kept' not in read(host, instance)
    write(host, instance)
    assert 'kept' in read(host, instance)
    assert files(host) == ['disk.eph0']
    assert len(loops_of(host.folder)) == 1


def write(host, instance):
    if host.shown_as == 'filesystem':
        host.inside(instance, 'echo kept >/volumes/vdb/note; sync')
    else:
        host.inside(instance, 'printf kept | dd of=/dev/vdb bs=4 count=1 '
                              'seek=1000 conv=fsync')


def read(host, instance):
    if host.shown_as == 'filesystem':
        return host.inside(instance, 'cat /volumes/vdb/note 2>&1')
    return host.inside(instance, 'dd if=/dev/vdb bs=4 count=1 skip=1000 '
                                 '2>/dev/null')


@pytest.mark.parametrize('shown_as', ['as_files', 'as_disks'])
@pytest.mark.parametrize('step', ['create', 'limits'])
def test_a_rebuild_that_fails_leaves_the_old_ones(
        request, monkeypatch, shown_as, step):
    host = request.getfixturevalue(shown_as)
    instance, ports = make(host)
    write(host, instance)

    def reached(name):
        if name == step:
            raise exception.EngineError('planted')
    monkeypatch.setattr('nova_vcloud.virt_docker.crash_points.reached',
                        reached)
    with pytest.raises(exception.EngineError, match='planted'):
        rebuild(host, instance, ports)
    assert 'kept' in read(host, instance)
    assert files(host) == ['disk.eph0']


def test_a_rebuild_that_was_cut_off_leaves_a_disk(as_files):
    instance, ports = make(as_files)
    as_files.inside(instance, 'echo kept >/volumes/vdb/note; sync')
    as_files.containers.stop(instance.uuid, 0)
    as_files.volumes.detach(instance.uuid, '/dev/vdb')
    as_files.ephemerals.put_aside(instance.uuid)
    as_files.verbs.started(instance, ONE)
    as_files.containers.start(instance, ports)
    assert as_files.inside(instance, 'cat /volumes/vdb/note') == 'kept\n'


def test_a_spawn_that_fails_leaves_none(as_files, monkeypatch):
    def broken(*_args, **_kwargs):
        raise exception.EngineError('planted')
    monkeypatch.setattr(as_files.containers, 'spawn', broken)
    with pytest.raises(exception.EngineError, match='planted'):
        make(as_files)
    assert files(as_files) == []


def test_a_disk_that_is_lost_is_not_made_again(as_files):
    """A new one would pass for the old."""
    instance, ports = make(as_files)
    as_files.containers.stop(instance.uuid, 0)
    path = file_of(as_files, instance)
    held = path.with_name('held')
    path.rename(held)
    with pytest.raises(exception.VolumeError, match='No such file'):
        as_files.verbs.started(instance, ONE)
    held.rename(path)
    as_files.verbs.started(instance, ONE)
    as_files.containers.start(instance, ports)


def test_a_server_of_before_gets_its_disk_when_it_starts(as_files):
    instance, ports = make(as_files, None, 0)
    instance.flavor.ephemeral_gb = 1
    as_files.containers.stop(instance.uuid, 0)
    as_files.verbs.started(instance, ONE)
    as_files.containers.start(instance, ports)
    assert as_files.inside(instance, 'ls /volumes') == 'vdb\n'


def test_a_server_that_would_not_see_one_starts_without(as_disks, as_files):
    """It was made before its host showed volumes as filesystems."""
    instance, ports = make(as_disks, None, 0)
    instance.flavor.ephemeral_gb = 1
    as_files.containers.stop(instance.uuid, 0)
    as_files.verbs.started(instance, ONE)
    as_files.containers.start(instance, ports)
    assert files(as_files) == []


def test_on_cgroup_v2_a_disk_waits_for_the_start(as_disks, monkeypatch):
    """A server that runs cannot be given one, and yet can be rebooted."""
    host = as_disks
    instance, _ports = make(host)
    # What the code sees on such a host; /sys of this one stays as it is.
    monkeypatch.setattr(nodes, '_devices_cgroup', lambda: None)
    host.verbs.started(instance, ONE)
    with pytest.raises(exception.VolumeError, match='stop the server first'):
        host.volumes.attach(instance.uuid, host.volume(), '/dev/vdc')
