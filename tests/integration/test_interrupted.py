# SPDX-License-Identifier: Apache-2.0
"""A tenant goes on after nova-compute was killed during what he asked for."""

import contextlib
import pathlib
import threading

import crashes
from desk import Desk
from desk import until
from openstack import exceptions
import pytest


def idle(desk: Desk, server, status: str):
    """Wait until nobody works on a server, and it has a status."""
    def reached():
        now = desk.get(server)
        return now.task_state is None and now.status == status
    until(reached, 120, f'{status}, and no task', every=1)


def told(desk: Desk, server, words: str) -> None:
    """Require that the last action of a server tells what was cut off."""
    def said() -> bool:
        path = f'/servers/{server.id}/os-instance-actions'
        newest = desk.compute.get(path, microversion='2.84').json()[
            'instanceActions'][0]
        found = desk.compute.get(f'{path}/{newest["request_id"]}',
                                 microversion='2.84').json()
        return any(each['result'] == 'Error'
                   and words in (each['details'] or '')
                   for each in found['instanceAction']['events'])
    until(said, 30, f'the action says "{words}"')


def usable(desk: Desk, server) -> None:
    """Require that the tenant can go on: reboot it, and log in."""
    desk.answers(server)
    desk.compute.reboot_server(server.id, 'HARD')
    idle(desk, server, 'ACTIVE')
    desk.answers(server)


@pytest.mark.parametrize('step', crashes.some(('confirm', 'confirmed'), 1))
@pytest.mark.parametrize('late', crashes.some((False, True), 1))
def test_a_confirm_is_ended(desk: Desk, step, late):
    """Also one of a request that waits while the host is down."""
    server = desk.boot('confirmed')
    source = desk.host_of(server)
    desk.compute.migrate_server(server)
    desk.wait(server, 'VERIFY_RESIZE', 120)
    if late:
        with desk.stopped(f'nova-compute-{source.name}'):
            desk.compute.confirm_server_resize(server)
    else:
        with crashes.death_at(desk, source, step):
            desk.compute.confirm_server_resize(server)
    idle(desk, server, 'ACTIVE')
    until(lambda: [each.status for each in desk.compute.migrations(
        instance_uuid=server.id)] == ['confirmed'], 60, 'it is confirmed')
    until(lambda: not desk.engine(source).containers(
        all=True, filters={'name': server.id}), 60, 'nothing is left there')
    usable(desk, server)


@pytest.mark.parametrize('step', crashes.some(('interface', 'plugged'), 1))
def test_an_interface_is_there_in_the_end(desk: Desk, step):
    server = desk.boot('two-nics')
    first, = (port.id for port in desk.api.network.ports(device_id=server.id))
    def attach():
        # The API waits for the host, a minute, until it gives up.
        with contextlib.suppress(exceptions.HttpException):
            desk.compute.create_server_interface(
                server, net_id=desk.network_id)
    request = threading.Thread(target=attach)
    with crashes.death_at(desk, desk.host_of(server), step):
        request.start()
    idle(desk, server, 'ACTIVE')
    ports = list(desk.api.network.ports(device_id=server.id))
    assert len(ports) == 2
    until(lambda: len(list(desk.compute.server_interfaces(server))) == 2, 60,
          'Nova knows both')
    for port in ports:
        until(lambda port=port: port.mac_address in desk.inside(
            server, 'cat /sys/class/net/*/address'), 60, 'the NIC is there')
    # It goes as any other does.
    new, = (port.id for port in ports if port.id != first)
    desk.compute.delete_server_interface(new, server)
    until(lambda: len(list(desk.compute.server_interfaces(server))) == 1, 60,
          'one is gone')
    # Nova shows it a moment after Neutron.
    until(lambda: sum(map(len, desk.get(server).addresses.values())) == 2,
          60, 'Nova shows the addresses of one')
    usable(desk, server)
    request.join()


@pytest.mark.parametrize('stopped', crashes.some((False, True), 1))
@pytest.mark.parametrize('step', crashes.some(
    ('parked', 'create', 'limits', 'replaced'), 1))
def test_a_rebuild_is_undone_or_done(desk: Desk, step, stopped):
    """As long as the old container is parked it is undone."""
    server = desk.boot('rebuilt')
    assert desk.inside(server, 'echo mine >/root/file') == ''
    if stopped:
        desk.compute.stop_server(server)
        desk.wait(server, 'SHUTOFF')
    with crashes.death_at(desk, desk.host_of(server), step):
        desk.compute.rebuild_server(server, desk.get(server).image.id)
    idle(desk, server, 'SHUTOFF' if stopped else 'ACTIVE')
    told(desk, server, 'rebuild')
    if stopped:
        desk.compute.start_server(server)
        desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'cat /root/file') == 'mine\n'
    usable(desk, server)


@pytest.mark.parametrize('step', crashes.some(('commit', 'upload'), 1))
def test_no_image_stays_queued(desk: Desk, step):
    server = desk.boot('snapshotted')
    with crashes.death_at(desk, desk.host_of(server), step):
        image = desk.compute.create_server_image(server, 'cut-off')
    idle(desk, server, 'ACTIVE')

    def settled() -> bool:
        found = desk.api.image.find_image(image.id)
        return found is None or found.status == 'active'
    until(settled, 60, 'the image is whole or gone')
    found = desk.api.image.find_image(image.id)
    assert (found is None) == (step == 'commit')
    if found is None:
        told(desk, server, 'the image is removed')
    else:
        desk.api.image.delete_image(image.id)
    usable(desk, server)


def test_a_shelve_is_undone(desk: Desk):
    server = desk.boot('shelving')
    assert desk.inside(server, 'echo mine >/root/file') == ''
    with crashes.death_at(desk, desk.host_of(server), 'commit'):
        desk.compute.shelve_server(server)
    idle(desk, server, 'ACTIVE')
    told(desk, server, 'shelving')
    assert desk.inside(server, 'cat /root/file') == 'mine\n'
    until(lambda: not list(desk.api.image.images(
        name='shelving-shelved')), 60, 'no image is left')
    usable(desk, server)


def rescue(desk: Desk, server) -> None:
    image = desk.api.image.find_image('debian-12')
    desk.compute.rescue_server(server, image_ref=image.id)


def mounts() -> list[str]:
    """Return where disks of servers are mounted on the hosts."""
    rows = pathlib.Path('/proc/self/mounts').read_text().splitlines()
    return [row for row in rows if 'vcloud-rescue' in row]


@pytest.mark.parametrize('stopped', crashes.some((False, True), 1))
@pytest.mark.parametrize('step', crashes.some(
    ('parked', 'create', 'limits', 'rescued'), 1))
def test_a_rescue_is_undone(desk: Desk, step, stopped):
    server = desk.boot('to-rescue')
    assert desk.inside(server, 'echo mine >/root/file') == ''
    if stopped:
        desk.compute.stop_server(server)
        desk.wait(server, 'SHUTOFF')
    with crashes.death_at(desk, desk.host_of(server), step):
        rescue(desk, server)
    idle(desk, server, 'SHUTOFF' if stopped else 'ACTIVE')
    told(desk, server, 'not rescued')
    if stopped:
        desk.compute.start_server(server)
        desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'cat /root/file') == 'mine\n'
    assert 'Debian' not in desk.inside(server, 'cat /etc/os-release 2>&1')
    assert server.id not in ' '.join(mounts())
    usable(desk, server)
    # It is rescued as any other.
    rescue(desk, server)
    desk.wait(server, 'RESCUE')
    assert desk.inside(server, 'cat /mnt/root/file') == 'mine\n'


@pytest.mark.parametrize('step', crashes.some(('unrescue', 'unrescued'), 1))
def test_an_unrescue_is_done(desk: Desk, step):
    server = desk.boot('rescued')
    rescue(desk, server)
    desk.wait(server, 'RESCUE')
    assert desk.inside(server, 'echo mine >/mnt/root/file') == ''
    with crashes.death_at(desk, desk.host_of(server), step):
        desk.compute.unrescue_server(server)
    idle(desk, server, 'ACTIVE')
    told(desk, server, 'own disk')
    assert desk.inside(server, 'cat /root/file') == 'mine\n'
    assert server.id not in ' '.join(mounts())
    usable(desk, server)


@pytest.mark.parametrize('step', crashes.some(
    ('image', 'namespace', 'create', 'limits', 'start', 'end'), 2))
def test_an_unshelve_is_undone_or_done(desk: Desk, step):
    """One that runs is whole; another is shelved, and may be asked again."""
    first, second = desk.cloud.hosts
    server = desk.boot('shelved', host=first.name)
    assert desk.inside(server, 'echo mine >/root/file') == ''
    before = desk.get(server)
    desk.compute.shelve_server(server)
    desk.wait(server, 'SHELVED_OFFLOADED', 120)
    with contextlib.ExitStack() as stack:
        # It comes to that host, whatever the scheduler likes better.
        disabled = desk.compute.find_service('nova-compute', False,
                                             host=second.name)
        desk.compute.disable_service(disabled)
        stack.callback(desk.compute.enable_service, disabled)
        with crashes.death_at(desk, first, step):
            desk.compute.unshelve_server(server)
        until(lambda: desk.get(server).task_state is None, 120, 'no task',
              every=1)
        if step in ('start', 'end'):
            assert desk.get(server).status == 'ACTIVE'
        else:
            assert desk.get(server).status == 'SHELVED_OFFLOADED'
            assert names_of(desk, server) == []
            desk.compute.unshelve_server(server)
            desk.wait(server, 'ACTIVE', 120)
    assert desk.inside(server, 'cat /root/file') == 'mine\n'
    now = desk.get(server)
    assert (now.image.id, now.key_name) == (before.image.id, before.key_name)
    until(lambda: not list(desk.api.image.images(name='shelved-shelved')),
          60, 'no image is left')
    usable(desk, server)


def names_of(desk: Desk, server) -> list[str]:
    """Return the containers of a server, on any host."""
    return [name for host in desk.cloud.hosts for each in
            desk.engine(host).containers(all=True) for name in each['Names']
            if server.id in name]


@pytest.mark.parametrize(('side', 'step'), crashes.some(
    ((1, 'destroyed'), (0, 'reverting'), (0, 'reverted')), 1))
def test_a_revert_is_ended(desk: Desk, side, step):
    """Wherever it was: on the host that the server leaves again, or not."""
    server = desk.boot('reverted')
    source = desk.host_of(server)
    other, = (h for h in desk.cloud.hosts if h.name != source.name)
    assert desk.inside(server, 'echo mine >/root/file') == ''
    desk.compute.migrate_server(server)
    desk.wait(server, 'VERIFY_RESIZE', 120)
    with crashes.death_at(desk, (source, other)[side], step):
        desk.compute.revert_server_resize(server)
    idle(desk, server, 'ACTIVE')
    assert desk.host_of(server).name == source.name
    assert desk.inside(server, 'cat /root/file') == 'mine\n'
    until(lambda: names_of(desk, server) == [f'/nova-{server.id}'], 60,
          'it has one container')
    assert [each.status for each in desk.compute.migrations(
        instance_uuid=server.id)] == ['reverted']
    usable(desk, server)
    # It moves as any other.
    desk.compute.migrate_server(server)
    desk.wait(server, 'VERIFY_RESIZE', 120)
    desk.compute.confirm_server_resize(server)
    desk.wait(server, 'ACTIVE')


@pytest.mark.parametrize('step', crashes.some(
    ('resized', 'reverting', 'reverted'), 1))
def test_a_resize_where_it_is_is_ended(desk: Desk, step):
    """So is its revert."""
    server = desk.boot('resized')
    host = desk.host_of(server)
    assert desk.inside(server, 'echo mine >/root/file') == ''
    other, = (h for h in desk.cloud.hosts if h.name != host.name)
    disabled = desk.compute.find_service('nova-compute', False,
                                         host=other.name)
    with desk.flavor('resize.here', 1) as flavor, \
            contextlib.ExitStack() as stack:
        desk.compute.disable_service(disabled)
        stack.callback(desk.compute.enable_service, disabled)
        to = desk.compute.find_flavor(flavor)
        if step == 'resized':
            with crashes.death_at(desk, host, step):
                desk.compute.resize_server(server, to)
            idle(desk, server, 'VERIFY_RESIZE')
            desk.compute.revert_server_resize(server)
        else:
            desk.compute.resize_server(server, to)
            desk.wait(server, 'VERIFY_RESIZE', 120)
            with crashes.death_at(desk, host, step):
                desk.compute.revert_server_resize(server)
        idle(desk, server, 'ACTIVE')
        assert desk.host_of(server).name == host.name
        assert desk.inside(server, 'cat /root/file') == 'mine\n'
        usable(desk, server)
        desk.delete(server)
