# SPDX-License-Identifier: Apache-2.0
"""Ephemeral disks and swap of flavors, from the API to the server."""

from collections.abc import Iterator

from desk import Desk
from desk import until
from openstack import exceptions
import pytest

NOTE = '/volumes/vdb/note'
MIB = 1 << 20


@pytest.fixture
def flavors(desk: Desk) -> Iterator[tuple[str, str]]:
    """A flavor with an ephemeral disk of 1 GB and swap, and one with 2 GB."""
    with desk.flavor('disk.small', ephemeral=1, swap=64) as small, \
            desk.flavor('disk.large', ephemeral=2) as large:
        yield small, large
        desk.delete(*(server for name in (small, large)
                      for server in desk.compute.servers(flavor=name)))


def size(desk: Desk, server, name: str = 'vdb') -> float:
    """Return GiB of a disk, as a server sees it."""
    return int(desk.inside(
        server, f'df -k /volumes/{name} | tail -1').split()[1]) / MIB


def resize(desk: Desk, server, flavor: str) -> None:
    desk.compute.resize_server(server, desk.compute.find_flavor(flavor).id)
    desk.wait(server, 'VERIFY_RESIZE', 120)


def claimed(desk: Desk, server) -> int:
    """Return the GB that Placement counts for a server."""
    found = desk.api.placement.get(f'/allocations/{server.id}',
                                   microversion='1.28').json()
    return sum(each['resources']['DISK_GB']
               for each in found['allocations'].values())


def test_a_flavors_disk_is_there_and_counted(desk: Desk, flavors):
    server = desk.boot('disk', flavor=flavors[0])
    assert 0.9 < size(desk, server) <= 1
    assert len(desk.disks(server)) == 2  # the file, and its loop device
    # Root, ephemeral, and the swap rounded up.
    assert claimed(desk, server) == 3
    desk.inside(server, f'echo kept >{NOTE}; sync')
    desk.compute.reboot_server(server, 'HARD')
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.stop_server(server)
    desk.wait(server, 'SHUTOFF')
    desk.compute.start_server(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    assert written(desk, server) > 0
    desk.delete(server)
    assert desk.disks(server) == set()


def written(desk: Desk, server) -> int:
    """Return the bytes written to the second disk, as diagnostics tell."""
    old, new = (desk.compute.get(
        f'/servers/{server.id}/diagnostics', microversion=version).json()
        for version in ('2.47', '2.48'))
    assert new['num_disks'] == 2
    assert new['disk_details'][1]['write_bytes'] >= old['vdb_write']
    return old['vdb_write']


def test_the_flavors_swap_is_memory_that_may_be_swapped(desk: Desk, flavors):
    server = desk.boot('swap', flavor=flavors[0])
    found = desk.container(server)['HostConfig']
    assert found['MemorySwap'] - found['Memory'] == 64 * MIB
    assert 'memory.swap' in desk.limits(server)


def mapping(image: str, *sizes: int) -> list[dict]:
    return [{'boot_index': 0, 'uuid': image, 'source_type': 'image',
             'destination_type': 'local', 'delete_on_termination': True},
            *({'boot_index': -1, 'source_type': 'blank',
               'destination_type': 'local', 'volume_size': size,
               'guest_format': kind, 'delete_on_termination': True}
              for size, kind in zip(sizes, ('ext4', 'xfs', 'ext4'),
                                    strict=False))]


def test_several_disks_up_to_what_the_flavor_allows(desk: Desk, flavors):
    image = desk.api.image.find_image('tiny').id
    with pytest.raises(exceptions.BadRequestException, match='phemeral'):
        desk.request('greedy', flavor=flavors[1],
                     block_device_mapping=mapping(image, 1, 1, 1))
    server = desk.boot('several', flavor=flavors[1],
                       block_device_mapping=mapping(image, 1, 1))
    found = desk.inside(server, 'grep /volumes/ /proc/mounts')
    assert '/volumes/vdb ext4' in found
    assert '/volumes/vdc xfs' in found


def test_a_filesystem_that_no_host_has_is_a_clear_fault(desk: Desk, flavors):
    image = desk.api.image.find_image('tiny').id
    devices = mapping(image, 1)
    devices[1]['guest_format'] = 'ext3'
    server = desk.request('odd', flavor=flavors[0],
                          block_device_mapping=devices)
    desk.wait(server, 'ERROR')
    assert 'cannot have the filesystem ext3' in \
        desk.get(server).fault['message']
    desk.delete(server)


@pytest.mark.matrix('operation.resize')
def test_a_resize_carries_its_data_and_grows_it(desk: Desk, flavors):
    hosts = [host.name for host in desk.cloud.hosts]
    server = desk.boot('grower', flavor=flavors[0], host=hosts[0])
    desk.inside(server, f'echo kept >{NOTE}; sync')
    desk.compute.migrate_server(server)
    desk.wait(server, 'VERIFY_RESIZE', 120)
    assert desk.host_of(server).name == hosts[1]
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')
    until(lambda: len(desk.disks(server)) == 2, 60, 'one disk is left')
    resize(desk, server, flavors[1])
    stayed = desk.host_of(server).name == hosts[1]
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    assert (size(desk, server) > 1.8) is not stayed
    desk.compute.revert_server_resize(server)
    desk.wait(server, 'ACTIVE')
    assert size(desk, server) <= 1
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    resize(desk, server, flavors[1])
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')
    until(lambda: size(desk, server) > 1.8, 60, 'the disk has grown')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    smaller(desk, server, flavors[0])
    # A new one is as large.
    desk.compute.rebuild_server(
        server, image=desk.api.image.find_image('tiny').id)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'ls /volumes/vdb').strip() == ''
    assert size(desk, server) > 1.8


def smaller(desk: Desk, server, flavor: str) -> None:
    """Require that a smaller disk is refused, and that nothing changed."""
    desk.compute.resize_server(server, desk.compute.find_flavor(flavor).id)
    until(lambda: desk.get(server).task_state is None, 60, 'it is tried')
    assert desk.get(server).status == 'ACTIVE'
    assert size(desk, server) > 1.8
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'


def test_a_flavor_brings_the_first_one(desk: Desk, flavors):
    server = desk.boot('late', flavor='c1.tiny')
    resize(desk, server, flavors[1])
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')
    desk.compute.reboot_server(server, 'HARD')
    desk.wait(server, 'ACTIVE')
    assert size(desk, server) > 1.8


def test_a_shelf_keeps_none_and_a_rescue_system_sees_it(desk: Desk, flavors):
    server = desk.boot('rescued', flavor=flavors[0])
    desk.inside(server, f'echo kept >{NOTE}; sync')
    image = desk.api.image.find_image('tiny').id
    desk.compute.rescue_server(server, image_ref=image)
    desk.wait(server, 'RESCUE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.unrescue_server(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.shelve_server(server)
    desk.wait(server, 'SHELVED_OFFLOADED', 120)
    assert desk.disks(server) == set()
    desk.compute.unshelve_server(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'ls /volumes/vdb').strip() == ''
    assert 0.9 < size(desk, server) <= 1
