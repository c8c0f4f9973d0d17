# SPDX-License-Identifier: Apache-2.0
"""Operations in any order leave nothing but the servers that live.

NOVA_VCLOUD_CYCLES says how many; NOVA_VCLOUD_SEED repeats a run. Each
operation comes once before one comes again.
"""

from collections.abc import Callable
from collections.abc import Iterator
import os
import random

from desk import Desk
from desk import until
from openstack import exceptions
import power
import pytest

CYCLES = int(os.environ.get('NOVA_VCLOUD_CYCLES', '7'))
SERVERS = 3
#: Of one size of disk: no disk may shrink.
FLAVORS = ('c1.small', 'test.cycle')


class Cycles:
    """Operations on servers; each leaves all of them ACTIVE."""

    def __init__(self, desk: Desk, servers: list) -> None:
        self.desk = desk
        self.compute = desk.compute
        self.servers = servers

    def reboot(self, server) -> None:
        self.compute.reboot_server(server, random.choice(['SOFT', 'HARD']))

    def stop(self, server) -> None:
        self.compute.stop_server(server)
        self.desk.wait(server, 'SHUTOFF')
        self.compute.start_server(server)

    def delete(self, server) -> None:
        self.compute.delete_server(server)
        self.desk.wait(server, 'SOFT_DELETED')
        self.compute.restore_server(server)

    def pause(self, server) -> None:
        self.compute.pause_server(server)
        self.desk.wait(server, 'PAUSED')
        self.compute.unpause_server(server)

    def snapshot(self, server) -> None:
        image = self.compute.create_server_image(server, 'cycle', wait=True)
        self.desk.api.image.delete_image(image.id)

    def rebuild(self, server) -> None:
        image = self.desk.api.image.find_image(
            random.choice(['tiny', 'debian-12']))
        self.compute.rebuild_server(server, image.id)

    def rescue(self, server) -> None:
        self.compute.rescue_server(server)
        self.desk.wait(server, 'RESCUE')
        self.compute.unrescue_server(server)

    def shelve(self, server) -> None:
        self.compute.shelve_server(server)
        self.desk.wait(server, 'SHELVED_OFFLOADED')
        image, = self.desk.api.image.images(name=f'{server.name}-shelved')
        self.compute.unshelve_server(server)
        self.desk.wait(server, 'ACTIVE')
        # Nova deletes it some time later.
        self.desk.api.image.delete_image(image.id, ignore_missing=True)

    def migrate(self, server) -> None:
        self.compute.migrate_server(server)
        self._end(server)

    def resize(self, server) -> None:
        now = self.desk.get(server).flavor.name
        other, = (name for name in FLAVORS if name != now)
        self.compute.resize_server(
            server, self.compute.find_flavor(other).id)
        self._end(server)

    def _end(self, server) -> None:
        self.desk.wait(server, 'VERIFY_RESIZE', 120)
        if random.random() < 0.5:
            self.compute.revert_server_resize(server)
        else:
            self.compute.confirm_server_resize(server)

    def backup(self, server) -> None:
        self.compute.backup_server(server, 'cycle', 'daily', 1)
        self.desk.wait(server, 'ACTIVE', 120)
        image, = self.desk.api.image.images(name='cycle')
        self.desk.api.image.delete_image(image.id)

    def live_migrate(self, server) -> None:
        with pytest.raises(exceptions.BadRequestException):
            self.compute.live_migrate_server(server, block_migration='auto')

    def evacuate(self, server) -> None:
        gone = self.desk.host_of(server)
        with power.lost(self.desk, gone):
            power.evacuate(self.desk, server)
            power.wait_evacuated(self.desk, server, gone)
        # The others of that host are up again with it.
        for each in self.servers:
            self.desk.answers(each, 60)

    def any(self) -> Iterator[Callable]:
        """Return operations without end."""
        while True:
            deck = [self.reboot, self.stop, self.pause, self.delete,
                    self.snapshot, self.backup, self.rebuild, self.rescue,
                    self.shelve, self.migrate, self.resize,
                    self.live_migrate, self.evacuate]
            random.shuffle(deck)
            yield from deck


def consistent(desk: Desk, servers: list) -> bool:
    """Tell whether there is what living servers have, and no more."""
    alive = {server.id for server in servers}
    place = desk.place()
    ports = {port.id for server in servers
             for port in desk.api.network.ports(device_id=server.id)}
    names = sorted(name for host in desk.cloud.hosts
                   for each in desk.engine(host).containers(all=True)
                   for name in each['Names'])
    return (place.allocations == alive and place.ports == ports
            and len(ports) == len(alive)
            and names == sorted(f'/nova-{uuid}' for uuid in alive))


@pytest.fixture
def flavor(desk: Desk):
    """The second flavor, like the first but with more memory."""
    old = desk.compute.find_flavor(FLAVORS[1])
    if old:
        desk.compute.delete_flavor(old)
    first = desk.compute.find_flavor(FLAVORS[0])
    found = desk.compute.create_flavor(
        name=FLAVORS[1], vcpus=first.vcpus, ram=first.ram * 2,
        disk=first.disk)
    yield found
    desk.compute.delete_flavor(found)


@pytest.mark.usefixtures('flavor', 'kept_for_an_hour')
def test_operations_in_any_order(desk: Desk):
    seed = int(os.environ.get('NOVA_VCLOUD_SEED', random.randrange(10**6)))
    print(f'NOVA_VCLOUD_SEED={seed}')
    random.seed(seed)
    # What is there of others is not judged.
    assert not list(desk.compute.servers(all_projects=True))
    servers = [desk.boot(f'cycle-{n}', flavor=FLAVORS[0])
               for n in range(SERVERS)]
    addresses = {s.id: desk.addresses(s) for s in servers}
    operations = Cycles(desk, servers).any()
    for number in range(CYCLES):
        server = random.choice(servers)
        operation = next(operations)
        print(f'{number}: {operation.__name__} {server.name}')
        operation(server)
        desk.wait(server, 'ACTIVE', 120)
        assert desk.addresses(server) == addresses[server.id]
        desk.answers(server)
        until(lambda: consistent(desk, servers), 30,
              'hosts have what living servers have')
