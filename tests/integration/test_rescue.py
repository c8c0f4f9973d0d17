# SPDX-License-Identifier: Apache-2.0
"""A server whose own system does not start is mended from another one."""

import pathlib

from desk import Desk
import pytest


def mounts() -> list[str]:
    """Return where disks of servers are mounted on the hosts."""
    rows = pathlib.Path('/proc/self/mounts').read_text().splitlines()
    return [row.split()[1] for row in rows if 'vcloud-rescue' in row]


def rescue(desk: Desk, server) -> None:
    image = desk.api.image.find_image('debian-12')
    desk.compute.rescue_server(server, image_ref=image.id)
    desk.wait(server, 'RESCUE')


@pytest.mark.matrix('operation.rescue')
def test_a_broken_server_is_mended_from_another_system(desk: Desk):
    server = desk.boot('broken')
    before = desk.addresses(server), desk.nic(server)
    assert desk.inside(server, 'echo bad >/root/config') == ''
    rescue(desk, server)
    assert 'Debian' in desk.inside(server, 'cat /etc/os-release')
    assert desk.inside(server, 'cat /mnt/root/config').strip() == 'bad'
    assert desk.inside(server, 'echo good >/mnt/root/config') == ''
    assert (desk.addresses(server), desk.nic(server)) == before
    desk.answers(server)
    desk.compute.unrescue_server(server)
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'cat /root/config').strip() == 'good'
    assert 'Debian' not in desk.inside(server, 'cat /etc/os-release 2>&1')
    assert (desk.addresses(server), desk.nic(server)) == before
    desk.answers(server)
    assert mounts() == []


def test_a_rescued_server_is_deleted_whole(desk: Desk):
    server = desk.boot('given-up')
    rescue(desk, server)
    assert len(mounts()) == 1
    desk.delete(server)
    assert mounts() == []
