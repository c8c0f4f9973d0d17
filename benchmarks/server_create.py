# SPDX-License-Identifier: Apache-2.0
"""From ``POST /servers`` to ACTIVE: what the driver adds to Nova itself.

Three things are timed in turn, round after round, so that whatever else the
machine does falls on all of them: a server on a host with Nova's fake driver
(the price of Nova), a server on a host with ours, and the bare work of a
server alone (an engine's create and start of the same container, and its
NIC). The figure is (ours - fake) / bare.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'devstack'), str(ROOT / 'benchmarks')]

import _report  # noqa: E402 - found by the line above

from mini import identity  # noqa: E402
from mini import seed  # noqa: E402
from mini import settings  # noqa: E402
from nova_vcloud import privsep  # noqa: E402
from nova_vcloud.engine import Engine  # noqa: E402
from nova_vcloud.virt_docker.vif import addresses  # noqa: E402
from nova_vcloud.virt_docker.vif import network  # noqa: E402

ROUNDS = int(os.environ.get('BENCH_ROUNDS', '25'))
POLL = 0.02  # seconds between two looks at the API
# Looking costs the API work that slows down what is looked at: no look before
# this part of the shortest time that any server has taken.
QUIET = 0.85
GOAL = '<= 1.3'


class Cloud:
    """The few calls that are timed, without a library's own delays."""

    def __init__(self) -> None:
        self.settings = settings.load()
        api = identity.connect(self.settings)
        self._compute = api.compute
        self._shortest = 0.0
        self._api = api
        self._body = {
            'flavorRef': api.compute.find_flavor('c1.tiny').id,
            'networks': [{'uuid': api.network.find_network(
                seed.NETWORK).id}],
        }

    def boot(self, host: str, image: str) -> tuple[float, str]:
        """Return seconds from the request to ACTIVE, and the server."""
        body = {**self._body, 'name': 'bench', 'imageRef': image,
                'availability_zone': f'nova:{host}'}
        start = time.perf_counter()
        answer = self._compute.post('/servers', json={'server': body}).json()
        server = answer['server']['id']
        time.sleep(max(0.0, start + QUIET * self._shortest
                       - time.perf_counter()))
        while True:
            shown = self._get(server)
            if shown['status'] == 'ACTIVE':
                taken = time.perf_counter() - start
                self._shortest = min(taken, self._shortest or taken)
                return taken, server
            if shown['status'] == 'ERROR':
                raise RuntimeError(shown['fault'])
            time.sleep(POLL)

    def image(self, name: str) -> str:
        """Return the id of an image."""
        return self._api.image.find_image(name).id

    def delete(self, server: str) -> None:
        """Delete a server and wait until it is gone."""
        self._compute.delete(f'/servers/{server}')
        while self._compute.get(f'/servers/{server}').status_code != 404:
            time.sleep(0.1)

    def _get(self, server: str) -> dict[str, Any]:
        return self._compute.get(f'/servers/{server}').json()['server']


class Bare:
    """The work itself: the container our driver made, made by hand."""

    def __init__(self, host: settings.Host, model: dict[str, Any]) -> None:
        self._engine = Engine(f'unix://{host.socket}')
        self._network = network.Network(
            str(host.links), host.netns, f'{host.server_prefix}bench-')
        self._body = {
            'Image': model['Config']['Image'],
            'Hostname': 'bench', 'Tty': True, 'OpenStdin': True,
            'HostConfig': {
                key: model['HostConfig'][key] for key in (
                    'Runtime', 'NetworkMode', 'RestartPolicy', 'Memory',
                    'MemorySwap', 'CpuShares', 'PidsLimit', 'LogConfig',
                    'CapDrop', 'CapAdd', 'SecurityOpt', 'Dns')}}
        self._nic = addresses.Nic(
            port_id=str(uuid.uuid4()), mac='fa:16:3e:00:be:7c',
            tap='tapbench', name='eth0', mtu=1500,
            bridge=settings.BRIDGE, vlan=None, physical_network=None,
            addresses=('10.77.0.99/24', 'fd00:77::99/64'),
            routes=(('0.0.0.0/0', '10.77.0.1'), ('::/0', 'fd00:77::1')),
            dns=('10.77.0.1',), up=True)

    def run(self) -> float:
        """Return seconds for create, NIC and start; leave nothing."""
        name = str(uuid.uuid4())
        start = time.perf_counter()
        self._network.plug(name, (self._nic,))
        container = self._engine.create(f'bench-{name}', self._body)
        self._network.join(name, container)
        self._engine.start(container)
        taken = time.perf_counter() - start
        self._engine.remove(container)
        self._network.forget(container)
        self._network.destroy(name)
        return taken


@contextlib.contextmanager
def fake_host() -> Iterator[str]:
    """Have a compute host with Nova's fake driver for a while."""
    command = [str(ROOT / 'devstack/minicloud'), 'fake-host']
    subprocess.run([*command, 'up'], check=True)
    try:
        services = identity.connect(settings.load()).compute.services()
        yield next(s.host for s in services if s.host.startswith('fake-'))
    finally:
        subprocess.run([*command, 'down'], check=True)


def measure(cloud: Cloud, fake: str) -> dict[str, list[float]]:
    """Time the three cases in turn; the first round only warms up."""
    host = cloud.settings.hosts[0]
    tiny, nothing = cloud.image('tiny'), cloud.image('fake')
    _, server = cloud.boot(host.name, tiny)
    model = Engine(f'unix://{host.socket}').container(f'nova-{server}')
    cloud.delete(server)
    bare = Bare(host, model)
    times: dict[str, list[float]] = {'fake': [], 'ours': [], 'bare': []}
    for _round in range(ROUNDS + 1):
        for case, where, image in (('fake', fake, nothing),
                                   ('ours', host.name, tiny)):
            taken, server = cloud.boot(where, image)
            times[case].append(taken)
            cloud.delete(server)
        times['bare'].append(bare.run())
    return {case: values[1:] for case, values in times.items()}


def main() -> int:
    """Print the table; 0 when the goal is met."""
    privsep.in_process()
    subprocess.run([str(ROOT / 'devstack/minicloud'), 'up'], check=True)
    with fake_host() as fake:
        times = measure(Cloud(), fake)
    median = {case: statistics.median(v) for case, v in times.items()}
    rows = [
        _report.Row('fake driver, create to ACTIVE', median['fake'], 's'),
        _report.Row('docker driver, create to ACTIVE', median['ours'], 's'),
        _report.Row('engine create + start + NIC alone', median['bare'],
                    's'),
        _report.Row('(docker - fake) / alone',
                    (median['ours'] - median['fake']) / median['bare'],
                    'ratio', GOAL),
    ]
    return 0 if _report.publish('server_create', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
