# SPDX-License-Identifier: Apache-2.0
"""Cinder's volumes in servers; for a mini cloud that has Cinder."""

from collections.abc import Iterator
import os
import pathlib
import subprocess

from desk import Desk
from desk import until
import power
import pytest

NOTE = '/volumes/vdb/note'


@pytest.fixture
def volume(desk: Desk) -> Iterator[str]:
    """The id of a volume of 1 GB; it and its file are gone at the end."""
    storage = desk.api.block_storage
    before = state(desk)
    known = {s.id for s in desk.compute.servers(all_projects=True)}
    found = storage.create_volume(name='data', size=1)
    try:
        desk.wait_volume(found.id, 'available')
        yield found.id
    finally:
        # Its servers have root disks that are loop devices as well, and a test
        # that failed may leave it attached.
        desk.delete(*(s for s in desk.compute.servers(all_projects=True)
                      if s.id not in known))
        desk.wait_volume(found.id, 'available')
        storage.delete_volume(found.id)
        until(lambda: storage.find_volume(found.id) is None, 60,
              'volume gone')
        until(lambda: state(desk) == before, 60, f'all as before: {before}')


def state(desk: Desk) -> tuple[list[str], list[str], list[str]]:
    """Return loop devices, mounts and records of volumes of the cloud."""
    home = str(desk.cloud.home)
    loops = subprocess.check_output(
        ['losetup', '--list', '--noheadings', '--output', 'BACK-FILE'],
        text=True).splitlines()
    mounts = pathlib.Path('/proc/self/mounts').read_text().splitlines()
    return (
        [line for line in loops if home in line],
        [line for line in mounts if line.startswith('/dev/loop')
         and home in line],
        [str(path) for path in desk.cloud.home.glob(
            'compute*/nova/vcloud-volumes/*.json')])


def attach(desk: Desk, server, volume: str) -> None:
    found = desk.compute.create_volume_attachment(server, volume_id=volume)
    desk.wait_volume(volume, 'in-use')
    assert found.device == '/dev/vdb'


def move(desk: Desk, server) -> None:
    """Migrate a server to the other host, up to the choice."""
    desk.compute.migrate_server(server)
    desk.wait(server, 'VERIFY_RESIZE')


@pytest.mark.matrix('operation.attach-volume')
@pytest.mark.matrix('operation.detach-volume')
def test_a_volume_goes_from_server_to_server(desk: Desk, volume: str):
    one, other = (desk.boot(f'host-{host.name}', host=host.name)
                  for host in desk.cloud.hosts[:2])
    attach(desk, one, volume)
    desk.inside(one, f'echo kept >{NOTE}; sync')
    desk.detach_volume(one, volume)
    assert desk.inside(one, 'ls /volumes') == ''
    attach(desk, other, volume)
    assert desk.inside(other, f'cat {NOTE}').strip() == 'kept'
    desk.compute.reboot_server(other, 'HARD')
    desk.wait(other, 'ACTIVE')
    assert desk.inside(other, f'cat {NOTE}').strip() == 'kept'
    desk.delete(one, other)
    desk.wait_volume(volume, 'available')


def test_a_volume_that_is_used_is_kept_with_the_reason(
        desk: Desk, volume: str):
    server = desk.boot('user')
    attach(desk, server, volume)
    desk.inside(server, f'sleep 1000 >{NOTE} & echo $! >/root/pid')
    desk.compute.delete_volume_attachment(server, volume)
    until(lambda: desk.api.block_storage.get_volume(volume).status
          == 'in-use', 60, 'kept')
    until(lambda: any(
        'end them first' in str(event.get('details') or event.get(
            'traceback')) for action in desk.compute.server_actions(server)
        if action.action == 'detach_volume'
        for event in desk.compute.get_server_action(
            action.request_id, server).events or ()), 30, 'reason told')
    assert desk.inside(server, f'ls {NOTE}').strip() == NOTE
    desk.inside(server, 'kill -9 $(cat /root/pid)')
    desk.detach_volume(server, volume)


@pytest.mark.matrix('operation.extend-volume')
def test_a_volume_that_grew_is_used_whole(desk: Desk, volume: str):
    """Cinder's own part, which its NFS driver refuses, is done by hand."""
    server = desk.boot('grower')
    attach(desk, server, volume)
    path, = (desk.cloud.data / 'cinder' / 'share').glob(f'*{volume}')
    os.truncate(path, 2 << 30)
    done = desk.compute.post('/os-server-external-events', json={'events': [
        {'name': 'volume-extended', 'server_uuid': server.id,
         'tag': volume}]}, microversion='2.51')
    assert done.status_code == 200, done.text
    until(lambda: int(desk.inside(
        server, 'df -k /volumes/vdb | tail -1').split()[1]) > 1_900_000,
        60, 'the filesystem has grown')
    desk.detach_volume(server, volume)


def test_a_server_is_made_with_a_volume(desk: Desk, volume: str):
    image = desk.api.image.find_image('tiny').id
    server = desk.boot('with', block_device_mapping=[
        {'boot_index': 0, 'uuid': image, 'source_type': 'image',
         'destination_type': 'local', 'delete_on_termination': True},
        {'boot_index': -1, 'uuid': volume, 'source_type': 'volume',
         'destination_type': 'volume'}])
    assert desk.inside(server, 'ls -d /volumes/vdb').strip() == \
        '/volumes/vdb'
    desk.delete(server)
    desk.wait_volume(volume, 'available')


def test_a_volume_moves_with_its_server(desk: Desk, volume: str):
    server = desk.boot('mover')
    attach(desk, server, volume)
    first = desk.host_of(server).name
    desk.inside(server, f'echo kept >{NOTE}')
    move(desk, server)
    assert desk.host_of(server).name != first
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.revert_server_resize(server)
    desk.wait(server, 'ACTIVE')
    assert desk.host_of(server).name == first
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    move(desk, server)
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.detach_volume(server, volume)


def test_a_volume_is_there_after_an_evacuation(desk: Desk, volume: str):
    gone, _ = desk.cloud.hosts
    server = desk.boot('refugee', host=gone.name)
    attach(desk, server, volume)
    desk.inside(server, f'echo kept >{NOTE}; sync')
    with power.lost(desk, gone):
        power.evacuate(desk, server)
        power.wait_evacuated(desk, server, gone)
        assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    # Nothing of what the lost host gives back is what the other one uses.
    until(lambda: not list(gone.folder.glob('nova/vcloud-volumes/*.json')),
          60, 'the host has cleaned up')
    desk.inside(server, f'echo more >>{NOTE}; sync')
    assert desk.inside(server, f'cat {NOTE}').split() == ['kept', 'more']
    desk.detach_volume(server, volume)
    attach(desk, server, volume)
    assert desk.inside(server, f'cat {NOTE}').split() == ['kept', 'more']
    desk.detach_volume(server, volume)


def test_a_volume_outlives_rebuild_rescue_and_shelf(desk: Desk, volume: str):
    server = desk.boot('shelved')
    attach(desk, server, volume)
    desk.inside(server, f'echo kept >{NOTE}')
    desk.compute.rebuild_server(
        server, image=desk.api.image.find_image('tiny').id)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.rescue_server(
        server, image_ref=desk.api.image.find_image('tiny').id)
    desk.wait(server, 'RESCUE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.unrescue_server(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.compute.shelve_server(server)
    desk.wait(server, 'SHELVED_OFFLOADED', 120)
    until(lambda: state(desk)[0] == [], 60, 'no loop device')
    desk.compute.unshelve_server(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, f'cat {NOTE}').strip() == 'kept'
    desk.delete(server)
    desk.wait_volume(volume, 'available')


def test_booting_from_a_volume_is_refused(desk: Desk, volume: str):
    desk.api.block_storage.set_volume_bootable_status(volume, True)
    server = desk.request('root', block_device_mapping=[
        {'boot_index': 0, 'uuid': volume, 'source_type': 'volume',
         'destination_type': 'volume'}])
    desk.wait(server, 'ERROR')
    assert 'cannot boot from a volume' in desk.get(server).fault['message']
    desk.delete(server)
    desk.wait_volume(volume, 'available')
