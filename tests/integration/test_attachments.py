# SPDX-License-Identifier: Apache-2.0
"""Interfaces and volumes that come and go at random leave nothing behind.

NOVA_VCLOUD_ATTACHMENTS says how many times; NOVA_VCLOUD_SEED repeats a run.
"""

from collections.abc import Iterator
import json
import os
import random
import time

from desk import Desk
from desk import until
import pytest

COUNT = int(os.environ.get('NOVA_VCLOUD_ATTACHMENTS', '6'))
VOLUMES = 3
INTERFACES = 4  # at most, of one server


@pytest.fixture
def volumes(desk: Desk) -> Iterator[list[str]]:
    """Ids of volumes of 1 GB, which are gone at the end."""
    storage = desk.api.block_storage
    found = [storage.create_volume(name=f'random-{number}', size=1).id
             for number in range(VOLUMES)]
    try:
        for volume in found:
            desk.wait_volume(volume, 'available')
        yield found
    finally:
        desk.delete(*desk.compute.servers(name='^random'))
        for volume in found:
            desk.wait_volume(volume, 'available')
            storage.delete_volume(volume)
        until(lambda: not any(map(storage.find_volume, found)), 60,
              'volumes gone')


class History:
    """What servers have, as the API was asked and as they see it."""

    def __init__(self, desk: Desk, servers: list, volumes: list[str]) -> None:
        self.desk = desk
        self.compute = desk.compute
        self.servers = servers
        self.volumes = volumes
        self.where: dict[str, tuple] = {}  # volume: (server, its name)
        self.ports: dict[str, list[str]] = {each.id: [] for each in servers}

    def volume(self) -> None:
        """Take a volume from its server, or give it to one."""
        volume = random.choice(self.volumes)
        if volume in self.where:
            self.take(volume)
        else:
            server = random.choice(self.servers)
            device = self.compute.create_volume_attachment(
                server, volume_id=volume).device
            self.desk.wait_volume(volume, 'in-use')
            self.where[volume] = (server, device.removeprefix('/dev/'))

    def take(self, volume: str) -> None:
        server, _name = self.where.pop(volume)
        self.desk.detach_volume(server, volume)

    def interface(self) -> None:
        """Give a server an interface, or take one that it was given."""
        server = random.choice(self.servers)
        ports = self.ports[server.id]
        if ports and (len(ports) == INTERFACES or random.random() < 0.5):
            self.unplug(server, random.choice(ports))
        else:
            ports.append(self.compute.create_server_interface(
                server, net_id=self.desk.network_id).port_id)

    def unplug(self, server, port: str) -> None:
        self.ports[server.id].remove(port)
        self.compute.delete_server_interface(port, server=server)
        until(lambda: port not in {
            each.port_id for each in self.compute.server_interfaces(server)},
            30, 'the interface is gone')

    def check(self) -> None:
        """Require that servers see what they have, and no more."""
        for server in self.servers:
            assert self.desk.inside(server, 'ls /volumes').split() == sorted(
                name for each, name in self.where.values()
                if each.id == server.id)
            shown = json.loads(self.desk.lan(
                'ip', '-j', '-n',
                self.desk.host_of(server).server_prefix + server.id,
                'link').stdout)
            assert sum(link['ifname'].startswith('eth') for link in shown) \
                == 1 + len(self.ports[server.id])

    def end(self) -> None:
        """Take away all that was given."""
        for volume in list(self.where):
            self.take(volume)
        for server in self.servers:
            for port in list(self.ports[server.id]):
                self.unplug(server, port)
        self.check()


def left(desk: Desk) -> tuple:
    """Return what must be as before when all was taken away."""
    place = desk.place()
    return (place.links, place.ports, place.ephemerals, place.namespaces,
            sorted(str(path) for path in desk.cloud.home.glob(
                '*/nova/vcloud-volumes/*.json')))


@pytest.mark.timeout(300 + 15 * COUNT)
def test_they_come_and_go_at_random(desk: Desk, volumes: list[str]):
    seed = int(os.environ.get('NOVA_VCLOUD_SEED', random.randrange(10**6)))
    print(f'NOVA_VCLOUD_SEED={seed}')
    random.seed(seed)
    servers = [desk.boot(f'random-{host.name}', host=host.name)
               for host in desk.cloud.hosts[:2]]
    before, began = left(desk), time.monotonic()
    history = History(desk, servers, volumes)
    for number in range(COUNT):
        action = random.choice([history.volume, history.interface])
        print(f'{number}: {action.__name__}')
        action()
        history.check()
    print(f'{COUNT} in {time.monotonic() - began:.0f} s')
    history.end()
    until(lambda: left(desk) == before, 60, 'all is as before')
    for server in servers:
        desk.answers(server)
