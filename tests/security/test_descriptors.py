# SPDX-License-Identifier: Apache-2.0
"""What tenants ask for, again and again, leaves nova-compute no open file."""

from collections.abc import Callable
from concurrent import futures
import contextlib
import os
import threading
import uuid

import dockerd as dockerd_fixture
import lan as lan_fixture
import pytest

from nova_vcloud import engine
from nova_vcloud import exception

THREADS = 24  # more than there may be idle connections
BATCH = 120  # pieces of work after which the threads end
CONTAINERS = 4


def open_files() -> int:
    return len(os.listdir('/proc/self/fd'))


def at_once(work: Callable[[int], object], count: int) -> None:
    """Do ``count`` pieces of work in threads that come and go."""
    for first in range(0, count, BATCH):
        with futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(first, min(first + BATCH, count))))


@pytest.fixture
def containers(dockerd):
    """Ids of containers that run."""
    found = []
    for number in range(CONTAINERS):
        found.append(dockerd.engine.create(f'descriptors-{number}', {
            'Image': dockerd_fixture.IMAGE, 'Tty': True,
            'HostConfig': {'NetworkMode': 'none', 'Init': True}}))
        dockerd.engine.start(found[-1])
    yield found
    for container in found:
        dockerd.engine.remove(container)


def test_calls_of_the_engine(dockerd, containers, budget):
    """Each container is a URL of its own, each program in one, too."""
    client = engine.Engine(dockerd.url)
    before = open_files()

    def work(number: int) -> None:
        container = containers[number % CONTAINERS]
        client.container(container)
        client.containers([f'number={number}'])
        client.image_get(f'none:{number}')
        with contextlib.suppress(exception.ContainerNotFound):
            client.stop(f'none-{number}', 0)
        with contextlib.suppress(exception.ContainerNotFound):
            client.logs(f'none-{number}', 100)
        if number % 25 == 0:
            client.stats(container)
            client.logs(container, 1000)
            assert client.run(container, ['true']) == (0, b'')
            client.begin(container, ['true'])
            list(client.export(container))
            with client.attached(container), \
                    contextlib.closing(
                        client.events([f'n={number}'], ['die'])):
                pass

    at_once(work, budget.count(120, 2000))
    assert open_files() - before <= engine.MAX_IDLE
    assert client.calls >= budget.count(500, 10_000)


def test_an_engine_that_does_not_answer(tmp_path, budget):
    client = engine.Engine(f'unix://{tmp_path}/none')
    before = open_files()

    def work(_number: int) -> None:
        with pytest.raises(exception.EngineUnavailable):
            client.info()

    at_once(work, budget.count(100, 10_000))
    assert open_files() - before <= engine.MAX_IDLE


def test_networks_of_servers(lan, budget):
    servers = [str(uuid.uuid4()) for _ in range(4)]
    nics = {server: [lan.nic()] for server in servers}
    locks = {server: threading.Lock() for server in servers}
    for server in servers:  # what is loaded once
        lan.network.plug(server, nics[server])
    before = open_files()

    def work(number: int) -> None:
        server = servers[number % len(servers)]
        with locks[server]:
            lan.network.plug(server, nics[server])
            lan.network.counters(server)
            lan.network.set_carrier(server, bool(number % 2))
            if number % 5 == 0:
                lan.network.unplug(server, nics[server])
            if number % 11 == 0:
                lan.network.destroy(server)

    try:
        at_once(work, budget.count(60, 600))
    finally:
        for server in servers:
            lan.network.destroy(server)
    # Announcements are made by threads of their own.
    lan_fixture.wait_until(lambda: open_files() <= before, 30)
