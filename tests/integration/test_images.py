# SPDX-License-Identifier: Apache-2.0
"""Servers become images, and images servers: snapshot, rebuild, shelve."""

from collections.abc import Iterator
import contextlib
import io
import tarfile

from desk import Desk
from desk import until
from openstack import exceptions
import pytest

MARK = '/root/mark'


def write(desk: Desk, server, text: str) -> None:
    assert desk.inside(server, f'mkdir -p /root; echo {text} >{MARK}') == ''


def read(desk: Desk, server) -> str:
    return desk.inside(server, f'cat {MARK} 2>&1').strip()


def started(desk: Desk, server) -> str:
    """Return when the first process of a server was started."""
    return desk.container(server)['State']['StartedAt']


def tags(desk: Desk, server) -> list[str]:
    """Return the names of images on a server's host that are on their way."""
    engine = desk.engine(desk.host_of(server))
    return [tag for image in engine.images('nova-vcloud/*')
            for tag in image['RepoTags'] or ()
            if tag.endswith((':snapshot', ':moved'))]


@contextlib.contextmanager
def upload(desk: Desk, data: bytes) -> Iterator:
    """Have an image for a while, whatever is in it."""
    image = desk.api.image.create_image(
        'broken', data=data, container_format='docker', disk_format='raw',
        visibility='public', wait=True)
    try:
        yield image
    finally:
        desk.api.image.delete_image(image.id)


def without_init() -> bytes:
    """Return a root filesystem with nothing to run."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        tar.addfile(tarfile.TarInfo('empty'))
    return out.getvalue()


@pytest.mark.matrix('operation.snapshot')
def test_a_snapshot_is_taken_while_the_server_runs(desk: Desk):
    server = desk.boot('model')
    write(desk, server, 'kept')
    before = started(desk, server)
    with desk.snapshot(server, 'copy') as image:
        assert started(desk, server) == before
        assert desk.container(server)['State']['Status'] == 'running'
        assert tags(desk, server) == []
        found = desk.api.image.get_image(image.id)
        assert found.status == 'active'
        assert found.container_format == 'docker'
        assert found.disk_format == 'raw'
        copy = desk.boot('copy-of-it', image='copy')
        assert read(desk, copy) == 'kept'
        desk.answers(copy)
        labels = desk.container(copy)['Config']['Labels']
        assert labels['org.openstack.nova.uuid'] == copy.id
        desk.delete(copy)


@pytest.mark.matrix('operation.snapshot')
def test_a_stopped_server_and_a_frozen_one_have_snapshots_too(desk: Desk):
    server = desk.boot('still')
    write(desk, server, 'kept')
    desk.compute.pause_server(server)
    desk.wait(server, 'PAUSED')
    with desk.snapshot(server, 'frozen'):
        assert desk.container(server)['State']['Status'] == 'paused'
    desk.compute.unpause_server(server)
    desk.wait(server, 'ACTIVE')
    desk.compute.stop_server(server)
    desk.wait(server, 'SHUTOFF')
    with desk.snapshot(server, 'stopped'):
        assert desk.get(server).status == 'SHUTOFF'
        copy = desk.boot('copy', image='stopped')
        assert read(desk, copy) == 'kept'
        desk.delete(copy)


def test_backups_rotate(desk: Desk):
    server = desk.boot('saved')
    for number in range(3):
        desk.compute.backup_server(server, f'backup-{number}', 'daily', 2)
        desk.wait(server, 'ACTIVE')
        until(lambda n=number: all(
            image.status == 'active' for image in desk.api.image.images(
                name=f'backup-{n}')), 60, 'backup is whole')

    def kept() -> set[str]:
        return {image.name for image in desk.api.image.images()
                if image.name.startswith('backup-')}
    try:
        # Nova deletes old ones when the new one is whole.
        until(lambda: kept() == {'backup-1', 'backup-2'}, 60, 'two are left')
    finally:
        for image in list(desk.api.image.images()):
            if image.name.startswith('backup-'):
                desk.api.image.delete_image(image.id)


def test_a_server_that_is_shelved_comes_back_as_it_was(desk: Desk):
    server = desk.boot('shelf')
    write(desk, server, 'kept')
    before = desk.addresses(server), desk.nic(server)
    image_id = desk.get(server).image.id
    desk.compute.shelve_server(server)
    desk.wait(server, 'SHELVED_OFFLOADED')
    assert desk.get(server).compute_host is None
    desk.compute.unshelve_server(server)
    desk.wait(server, 'ACTIVE')
    assert (desk.addresses(server), desk.nic(server)) == before
    assert read(desk, server) == 'kept'
    desk.answers(server)
    # What it was made of is gone; Nova names the image it had before.
    with upload(desk, b'this is no archive' * 1000) as other:
        desk.compute.rebuild_server(server, other.id)
        until(lambda: desk.get(server).task_state is None, 60, 'it is tried')
    assert desk.get(server).image.id == image_id
    assert read(desk, server) == 'kept'


@pytest.mark.matrix('operation.rebuild')
def test_a_rebuild_keeps_addresses_and_name(desk: Desk):
    server = desk.boot('again')
    write(desk, server, 'lost')
    before = desk.addresses(server), desk.nic(server)
    old = desk.container(server)['Id']
    name = desk.inside(server, 'hostname')
    image = desk.api.image.find_image('debian-12')
    desk.compute.rebuild_server(server, image.id)
    desk.wait(server, 'ACTIVE')
    assert desk.container(server)['Id'] != old
    assert (desk.addresses(server), desk.nic(server)) == before
    assert desk.inside(server, 'hostname') == name
    assert 'No such file' in read(desk, server)
    assert 'Debian' in desk.inside(server, 'cat /etc/os-release')
    desk.answers(server)


def test_a_stopped_server_is_rebuilt_and_stays_stopped(desk: Desk):
    server = desk.boot('asleep')
    desk.compute.stop_server(server)
    desk.wait(server, 'SHUTOFF')
    image = desk.api.image.find_image('tiny')
    desk.compute.rebuild_server(server, image.id)
    desk.wait(server, 'SHUTOFF')
    desk.compute.start_server(server)
    desk.wait(server, 'ACTIVE')
    desk.answers(server)


@pytest.mark.matrix('operation.rebuild')
@pytest.mark.parametrize(('data', 'undisturbed'), [
    (b'this is no archive' * 1000, True), (without_init(), False)],
    ids=['not an image', 'does not start'])
def test_a_rebuild_that_cannot_be_leaves_the_server(desk: Desk, data,
                                                    undisturbed):
    server = desk.boot('survivor')
    write(desk, server, 'kept')
    before, start = desk.container(server)['Id'], started(desk, server)
    image_id = desk.get(server).image.id
    with upload(desk, data) as image:
        desk.compute.rebuild_server(server, image.id)
        until(lambda: desk.get(server).task_state is None, 60, 'it is tried')
    now = desk.get(server)
    assert now.status == 'ACTIVE'
    assert now.image.id == image_id
    assert desk.container(server)['Id'] == before
    assert (started(desk, server) == start) is undisturbed
    assert read(desk, server) == 'kept'
    desk.answers(server)
    until(lambda: server.id in desk.place().allocations, 60,
          'it has its allocations')


def test_a_server_that_is_being_deleted_has_no_snapshot(desk: Desk):
    server = desk.boot('going')
    desk.compute.delete_server(server)
    with pytest.raises((exceptions.ConflictException,
                        exceptions.NotFoundException)):
        desk.compute.create_server_image(server, 'never')
    desk.delete(server)
    assert desk.api.image.find_image('never') is None


@pytest.mark.parametrize('way', ['createImage', 'createBackup', 'shelve'])
def test_a_snapshot_that_cannot_be_is_told_and_changes_nothing(
        desk: Desk, way: str):
    server = desk.boot('holes')
    write(desk, server, 'kept')
    assert desk.inside(server, 'dd if=/dev/zero of=/hole bs=1 count=1 '
                       'seek=100G 2>/dev/null') == ''
    if way == 'createImage':
        desk.compute.create_server_image(server, 'never')
    elif way == 'createBackup':
        desk.compute.backup_server(server, 'never', 'daily', 2)
    else:
        desk.compute.shelve_server(server)
    until(lambda: ('Error', way) in [
        (each.message, each.action)
        for each in desk.compute.server_actions(server)],
        60, 'the action has failed')
    desk.wait(server, 'ACTIVE')
    assert read(desk, server) == 'kept'
    desk.answers(server)
    until(lambda: not [image.name for image in desk.api.image.images()
                       if image.name in ('never', 'holes-shelved')],
          30, 'there is no image')
