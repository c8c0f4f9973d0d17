# SPDX-License-Identifier: Apache-2.0
"""Which ephemeral disks a server is to have."""

from nova import objects
import pytest

from nova_vcloud.virt_docker.volumes import ephemeral

GIB = 1 << 30


def instance(ephemeral_gb=0, device=None):
    return objects.Instance(
        flavor=objects.Flavor(ephemeral_gb=ephemeral_gb),
        default_ephemeral_device=device)


def told(*disks, **more):
    return {'ephemerals': [
        {'device_name': name, 'size': size, 'guest_format': kind}
        for name, size, kind in disks], **more}


def test_a_server_without():
    assert ephemeral.wanted(instance(), None) == []
    assert ephemeral.wanted(instance(), told()) == []


def test_what_mappings_say_in_the_order_of_their_names():
    found = ephemeral.wanted(instance(9), told(
        ('/dev/vdaa', 3, None), ('/dev/vdc', 2, 'ext4'),
        ('/dev/vdb', 1, None)))
    assert [(disk.device, disk.size // GIB, disk.kind, disk.label, disk.file)
            for disk in found] == [
        ('/dev/vdb', 1, '', 'ephemeral0', 'disk.eph0'),
        ('/dev/vdc', 2, 'ext4', 'ephemeral1', 'disk.eph1'),
        ('/dev/vdaa', 3, '', 'ephemeral2', 'disk.eph2')]


def test_one_that_no_mapping_tells_of_has_a_name_that_nova_knows():
    server = instance(2)
    info = told(swap={'device_name': '/dev/vdb', 'swap_size': 1},
                block_device_mapping=[{'mount_device': '/dev/vdc'}])
    assert ephemeral.wanted(server, info) == [
        ephemeral.Disk(0, '/dev/vdd', 2 * GIB)]
    assert server.default_ephemeral_device == '/dev/vdd'
    # Whatever comes and goes.
    assert ephemeral.wanted(server, told())[0].device == '/dev/vdd'


@pytest.mark.parametrize(('sizes', 'old', 'new', 'found'), [
    ([1], 1, 3, 3),
    ([1], 1, 1, 0), ([1], 1, 0, 0), ([], 0, 3, 0),
    ([1], 2, 3, 0), ([1, 1], 2, 3, 0)])
def test_an_only_disk_grows_with_its_flavor(sizes, old, new, found):
    assert ephemeral.grown([size * GIB for size in sizes], old, new) \
        == found * GIB
