# SPDX-License-Identifier: Apache-2.0
"""What is decided of volumes before anything is touched."""

from nova import exception as nova_exception
from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker import driver_volumes
from nova_vcloud.virt_docker.volumes import attachments
from nova_vcloud.virt_docker.volumes import filesystems

INSTANCE = objects.Instance(uuid='5f0c2a7b-0000-4000-8000-000000000000')


def info(*volumes, root='/dev/vda'):
    return {'root_device_name': root, 'block_device_mapping': [
        {'mount_device': name, 'boot_index': index,
         'connection_info': connection}
        for name, index, connection in volumes]}


@pytest.mark.parametrize(('given', 'name'), [
    ('/dev/vdb', 'vdb'), ('vdz', 'vdz'), ('/dev/sdaa', 'sdaa'),
    ('/dev/xvdc', 'xvdc'), ('/dev/hdb', 'hdb')])
def test_names_of_disks(given, name):
    assert attachments.device_name(given) == name


@pytest.mark.parametrize('given', [
    None, '', '/dev/null', '/dev/', 'vdb1', '/dev/vdb/../sda', 'VDB',
    '/dev/vdb\n', '/tmp/vdb', 'd', 'da'])
def test_names_that_are_no_disks(given):
    with pytest.raises(exception.VolumeError, match='device name'):
        attachments.device_name(given)


def test_a_server_without_volumes():
    assert driver_volumes.mapping(None) == []
    assert driver_volumes.mapping(info()) == []
    driver_volumes.check_root(INSTANCE, None)


def test_volumes_that_nobody_can_connect_to_are_left_out():
    found = driver_volumes.mapping(info(
        ('/dev/vdb', None, {'data': {}}), ('/dev/vdc', None, None)))
    assert [volume['mount_device'] for volume in found] == ['/dev/vdb']


@pytest.mark.parametrize('volume', [
    ('/dev/vdx', 0, {'data': {}}), ('/dev/vda', None, {'data': {}}),
    ('vda', -1, {'data': {}})])
def test_a_root_disk_that_is_a_volume_is_refused(volume):
    with pytest.raises(nova_exception.BuildAbortException,
                       match='cannot boot from a volume'):
        driver_volumes.check_root(INSTANCE, info(volume))


def test_a_volume_beside_the_root_disk_is_fine():
    driver_volumes.check_root(
        INSTANCE, info(('/dev/vdb', -1, {'data': {}})))


def test_a_host_makes_only_what_it_mounts():
    host = filesystems.Filesystems('/nonexistent', ['ext4'], 'xfs')
    with pytest.raises(exception.HostNotReady, match='make_filesystem'):
        host.check_host()
    filesystems.Filesystems('/nonexistent', ['ext4'], '').check_host()


def test_a_host_has_the_program_it_makes_filesystems_with():
    host = filesystems.Filesystems('/nonexistent', ['nofs'], 'nofs')
    with pytest.raises(exception.HostNotReady, match='there is no mkfs'):
        host.check_host()
