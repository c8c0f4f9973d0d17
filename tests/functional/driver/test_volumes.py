# SPDX-License-Identifier: Apache-2.0
"""Volumes of servers: real os-brick, loop devices, mounts and an engine.

A volume here is a file that os-brick is told the path of; what Cinder does
before that is shown on the mini cloud.
"""

import os
import pathlib
import random
import subprocess

import computehost
import pytest
from volumehost import SIZE
from volumehost import host_of
from volumehost import loops_of
from volumehost import mounts_of
from volumehost import path_of

from nova_vcloud import exception
from nova_vcloud.virt_docker.volumes import loops

COUNT = int(os.environ.get('NOVA_VCLOUD_ATTACHMENTS', '60'))

as_files = host_of('filesystem')
as_disks = host_of('device')


# As a filesystem

def test_a_running_server_gets_a_filesystem_and_loses_it(as_files):
    host, volume = as_files, as_files.volume()
    instance, _ports = host.make()
    host.volumes.attach(instance.uuid, volume, '/dev/vdb')
    assert ' xfs ' in host.inside(instance, 'grep /volumes/ /proc/mounts')
    host.inside(instance, 'echo kept >/volumes/vdb/note; sync')
    host.volumes.detach(instance.uuid, '/dev/vdb')
    assert host.inside(instance, 'ls /volumes') == ''
    other, _ports = host.make()
    host.volumes.attach(other.uuid, volume, '/dev/vdc')
    assert host.inside(other, 'cat /volumes/vdc/note') == 'kept\n'


def test_volumes_are_there_from_the_start_and_after_each(as_files):
    host, volume = as_files, as_files.volume()
    instance, ports = host.make(volume)
    host.inside(instance, 'echo kept >/volumes/vdb/note')
    host.containers.reboot(instance, ports, 0)
    assert host.inside(instance, 'cat /volumes/vdb/note') == 'kept\n'
    host.dockerd.docker('restart', '-t', '0', f'nova-{instance.uuid}')
    assert host.inside(instance, 'cat /volumes/vdb/note') == 'kept\n'
    # As after a reboot of the host.
    host.containers.stop(instance.uuid, 0)
    for line in reversed(mounts_of(host.folder)):
        # One that was seen below another is gone with that.
        subprocess.run(['umount', line.split()[1]], check=False)
    assert mounts_of(host.folder) == []
    loops.detach(path_of(volume))
    host.volumes.ensure(instance.uuid, [
        {'mount_device': '/dev/vdb', 'connection_info': volume}])
    host.containers.start(instance, ports)
    assert host.inside(instance, 'cat /volumes/vdb/note') == 'kept\n'


def test_a_volume_in_use_stays(as_files):
    host, volume = as_files, as_files.volume()
    instance, _ports = host.make(volume)
    host.inside(instance, 'sleep 1000 >/volumes/vdb/held & '
                          'echo $! >/root/pid')
    with pytest.raises(exception.VolumeBusy, match='/volumes/vdb'):
        host.volumes.detach(instance.uuid, '/dev/vdb')
    assert host.inside(instance, 'ls /volumes/vdb') == 'held\n'
    host.inside(instance, 'kill -9 $(cat /root/pid)')
    host.volumes.detach(instance.uuid, '/dev/vdb')


def test_a_filesystem_grows_while_it_is_used(as_files):
    host, volume = as_files, as_files.volume()
    instance, _ports = host.make(volume)
    os.truncate(path_of(volume), 2 * SIZE)
    host.volumes.extend(instance.uuid, volume)
    size = int(host.inside(
        instance, 'df -k /volumes/vdb | tail -1').split()[1])
    assert size * 1024 > 1.5 * SIZE


def test_a_guest_writes_nothing_beside_its_volumes(as_files):
    host = as_files
    instance, _ports = host.make(host.volume())
    host.inside(instance, 'ln -s /etc /volumes/vdc; mkdir /volumes/vdd; '
                          'echo >/volumes/x')
    assert host.inside(instance, 'ls /volumes') == 'vdb\n'
    host.volumes.attach(instance.uuid, host.volume(), '/dev/vdc')
    assert host.inside(instance, 'ls /volumes') == 'vdb\nvdc\n'


def test_setuid_programs_and_devices_of_a_volume_are_dead(as_files):
    instance, _ports = as_files.make(as_files.volume())
    found = as_files.inside(instance, 'grep /volumes/vdb /proc/mounts')
    assert 'nosuid,nodev' in found
    assert as_files.inside(
        instance, 'mknod /volumes/vdb/x c 1 3 && '
                  '{ echo >/volumes/vdb/x; } 2>/dev/null || echo no'
    ) == 'no\n'


@pytest.mark.parametrize(('command', 'words'), [
    (['mkfs.ext4', '-q', '-t', 'ext2'], 'has ext2 on it'),
    (['mkswap'], 'has swap on it'),
    (['dd', 'if=/dev/urandom', 'bs=1M', 'count=1', 'conv=notrunc',
      'status=none'], 'not blank')])
def test_what_is_not_to_be_mounted_is_refused(as_files, command, words):
    host, volume = as_files, as_files.volume()
    instance, _ports = host.make()
    target = path_of(volume)
    subprocess.run([*command, f'of={target}' if command[0] == 'dd'
                    else target], check=True, capture_output=True)
    before = pathlib.Path(target).read_bytes()
    with pytest.raises(exception.VolumeError, match=words):
        host.volumes.attach(instance.uuid, volume, '/dev/vdb')
    assert host.volumes.names(instance.uuid) == []
    assert loops_of(host.folder) == []
    assert pathlib.Path(target).read_bytes() == before


def test_an_ext4_that_would_halt_the_host_does_not(as_files):
    host, volume = as_files, as_files.volume()
    subprocess.run(['mkfs.ext4', '-q', '-e', 'panic', path_of(volume)],
                   check=True)
    instance, _ports = host.make(volume)
    found = host.inside(instance, 'grep /volumes/vdb /proc/mounts')
    assert ' ext4 ' in found
    assert 'errors=panic' not in found


def test_a_server_of_before_is_refused(as_disks, as_files):
    instance, ports = as_disks.instance(), as_disks.ports()
    as_disks.containers.spawn(None, instance,
                              computehost.objects.ImageMeta(), ports, b'')
    with pytest.raises(exception.VolumeError, match='rebuild'):
        as_files.volumes.attach(instance.uuid, as_files.volume(), '/dev/vdb')


# As a block device

def test_a_running_server_gets_a_disk_and_loses_it(as_disks):
    host, volume = as_disks, as_disks.volume()
    instance, _ports = host.make()
    host.volumes.attach(instance.uuid, volume, '/dev/vdb')
    assert host.inside(
        instance, 'printf %s kept | dd of=/dev/vdb bs=4 count=1 conv=fsync '
                  '2>/dev/null; stat -c %a /dev/vdb') == '660\n'
    host.volumes.detach(instance.uuid, '/dev/vdb')
    with open(path_of(volume), 'rb') as f:
        assert f.read(4) == b'kept'
    assert host.inside(instance, 'ls /dev/vdb 2>/dev/null') == ''


def test_a_disk_is_there_from_the_start_and_after_each(as_disks):
    host, volume = as_disks, as_disks.volume()
    instance, ports = host.make(volume)
    read = 'dd if=/dev/vdb bs=4 count=1 2>/dev/null'
    host.inside(instance, 'printf %s kept | dd of=/dev/vdb bs=4 count=1')
    assert host.inside(instance, read) == 'kept'
    host.containers.reboot(instance, ports, 0)
    assert host.inside(instance, read) == 'kept'
    # Limits that change leave it alone.
    host.containers.resize(instance, host.flavor(memory_mb=128), ports)
    assert host.inside(instance, read) == 'kept'


def test_a_disk_that_was_taken_away_cannot_be_opened_by_number(as_disks):
    host, volume = as_disks, as_disks.volume()
    instance, _ports = host.make(volume)
    major, minor = host.inside(
        instance, 'stat -c "%t %T" /dev/vdb').split()
    host.volumes.detach(instance.uuid, '/dev/vdb')
    # In a user namespace there is no such node to begin with.
    assert 'not permitted' in host.inside(
        instance, f'mknod /root/x b {int(major, 16)} {int(minor, 16)} 2>&1; '
                  'dd if=/root/x of=/dev/null 2>&1')


def test_a_disk_in_use_stays(as_disks):
    host, volume = as_disks, as_disks.volume()
    instance, _ports = host.make(volume)
    host.inside(instance, 'sleep 1000 </dev/vdb & echo $! >/root/pid')
    with pytest.raises(exception.VolumeBusy, match='/dev/vdb'):
        host.volumes.detach(instance.uuid, '/dev/vdb')
    assert host.inside(instance, 'dd if=/dev/vdb bs=4 count=1 2>&1 >/dev/null'
                       ).count('1+0 records in')
    host.inside(instance, 'kill -9 $(cat /root/pid)')
    host.volumes.detach(instance.uuid, '/dev/vdb')


def test_a_disk_grows_while_it_is_used(as_disks):
    host, volume = as_disks, as_disks.volume()
    instance, _ports = host.make(volume)
    os.truncate(path_of(volume), 2 * SIZE)
    host.volumes.extend(instance.uuid, volume)
    assert int(host.inside(
        instance, 'blockdev --getsize64 /dev/vdb')) == 2 * SIZE


def test_a_live_resize_would_disconnect_what_is_no_file(as_disks):
    host, volume = as_disks, as_disks.volume()
    instance, _ports = host.make(volume)
    host.volumes.check_stays(instance.uuid)
    device = loops.attach(path_of(host.volume()))
    try:
        host.volumes.attach(instance.uuid, {
            'driver_volume_type': 'local', 'serial': 'x',
            'data': {'device_path': device}}, '/dev/vdc')
        assert host.inside(instance, 'ls /dev/vdc') == '/dev/vdc\n'
        with pytest.raises(exception.VolumeError, match='vdc'):
            host.volumes.check_stays(instance.uuid)
        host.volumes.detach(instance.uuid, '/dev/vdc')
    finally:
        subprocess.run(['losetup', '--detach', device], check=True)


def test_a_link_of_the_guest_leads_nowhere(as_disks):
    """A node is not made where a link in the guest's /dev points."""
    host, volume = as_disks, as_disks.volume()
    instance, _ports = host.make()
    host.inside(instance, 'ln -s /root/there /dev/vdb')
    with pytest.raises(exception.VolumeError, match='File exists'):
        host.volumes.attach(instance.uuid, volume, '/dev/vdb')
    assert host.volumes.names(instance.uuid) == []


# Either way

@pytest.mark.parametrize('name', ['/dev/null', 'vdb/../x', '/dev/vd', '',
                                  '/tmp/vdb'])
def test_names_that_are_no_disks(as_files, name):
    instance, _ports = as_files.make()
    with pytest.raises(exception.VolumeError, match='device name'):
        as_files.volumes.attach(instance.uuid, as_files.volume(), name)


def test_two_volumes_do_not_get_one_name(as_files):
    instance, _ports = as_files.make(as_files.volume())
    with pytest.raises(exception.VolumeError, match='has a volume at'):
        as_files.volumes.attach(instance.uuid, as_files.volume(), '/dev/vdb')
    assert as_files.volumes.names(instance.uuid) == ['vdb']


def test_storage_that_is_not_there(as_files):
    instance, _ports = as_files.make()
    with pytest.raises(exception.VolumeError, match='No such file'):
        as_files.volumes.attach(instance.uuid, {
            'driver_volume_type': 'local',
            'data': {'device_path': '/nonexistent/volume'}}, '/dev/vdb')
    assert as_files.volumes.names(instance.uuid) == []


def test_a_spawn_that_fails_leaves_no_volume(as_files, monkeypatch):
    def broken(*_args, **_kwargs):
        raise exception.EngineError('planted')
    monkeypatch.setattr(as_files.containers, 'spawn', broken)
    with pytest.raises(exception.EngineError, match='planted'):
        as_files.make(as_files.volume())


def test_os_brick_knows_this_host(as_files):
    found = as_files.volumes.properties()
    assert (found['host'], found['ip']) == ('compute1', '127.0.0.1')


@pytest.mark.parametrize('shown_as', ['filesystem', 'device'])
def test_many_at_random(request, shown_as):
    """Attachments and detachments; the fixture looks for leaks."""
    host = request.getfixturevalue(
        'as_files' if shown_as == 'filesystem' else 'as_disks')
    servers = [host.make()[0] for _ in range(2)]
    volumes = [host.volume() for _ in range(3)]
    where = {}
    dice = random.Random(7)
    for _ in range(COUNT):
        number = dice.randrange(len(volumes))
        if number in where:
            server, name = where.pop(number)
            host.volumes.detach(server, name)
        else:
            server = dice.choice(servers).uuid
            name = f'/dev/vd{"bcd"[number]}'
            host.volumes.attach(server, volumes[number], name)
            where[number] = (server, name)
        assert len(loops_of(host.folder)) == len(where)
    for server in servers:
        names = sorted(name.removeprefix('/dev/') for s, name in
                       where.values() if s == server.uuid)
        assert host.volumes.names(server.uuid) == names
        folder = '/volumes' if shown_as == 'filesystem' else '/dev'
        assert host.inside(server, f'ls {folder} | grep ^vd'
                           ).split() == names
