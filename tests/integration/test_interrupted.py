# SPDX-License-Identifier: Apache-2.0
"""A tenant goes on after nova-compute was killed during what he asked for."""

import contextlib
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
