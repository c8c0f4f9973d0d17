# SPDX-License-Identifier: Apache-2.0
"""What a tenant who tries everything at once takes from twenty others.

Twenty servers count on one CPU, each within its share; beside them one server
for each attack of ``neighbours``, one that floods its network, one that fills
the kernel's tables and one that nests directories. The work of the twenty, and
what Nova's resource audit takes, are compared with the attackers running and
frozen, in short turns of one run.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT / 'tests/fixtures')]

import _report  # noqa: E402 - found by the line above
import computehost  # noqa: E402
import dockerd as dockerd_fixture  # noqa: E402
import lan as lan_fixture  # noqa: E402
import neighbours  # noqa: E402
import nova.conf  # noqa: E402
import options  # noqa: E402

from nova_vcloud import privsep  # noqa: E402
from nova_vcloud.virt_docker import driver as docker_driver  # noqa: E402
from nova_vcloud.virt_docker import factory  # noqa: E402

SERVERS = 20
SECONDS = float(os.environ.get('BENCH_SECONDS', '2'))
TURNS = int(os.environ.get('BENCH_ROUNDS', '15'))
PER_CORE = 100.0
#: Shares of the one CPU, in ECU of which it has 100.
OF_A_SERVER, OF_AN_ATTACKER = '3', '4'
ATTACKS = {
    **neighbours.WILD,
    'network flood': 'while :; do ping -q -f -c 100000 -s 1400 10.77.0.1; '
                     'done || while :; do echo; done >/dev/udp/10.77.0.1/9',
    'many files': 'mkdir /many; cd /many; i=0; while :; do i=$((i+1)); '
                  ': >$i; done',
    'deep directories': 'while :; do mkdir d && cd d || cd /; done',
}
FLAVOR = {**neighbours.FLAVOR, 'quota__vif_inbound_average': '1000',
          'quota__vif_outbound_average': '1000'}


class Crowd:
    """Twenty servers that count, and those that attack."""

    def __init__(self, host: computehost.ComputeHost,
                 driver: docker_driver.DockerDriver) -> None:
        self._host = host
        self._driver = driver
        self._counters = [self._boot(OF_A_SERVER, neighbours.COUNT)
                          for _ in range(SERVERS)]
        self._attackers = [self._boot(OF_AN_ATTACKER, script)
                           for script in ATTACKS.values()]
        self._paths = [self._counter(each) for each in self._counters]

    def _boot(self, ecu: str, script: str) -> Any:
        instance = self._host.instance(memory_mb=64, **{
            **FLAVOR, 'resources__CUSTOM_ECU': ecu})
        cgroup = self._host.spawn(instance, self._host.ports())
        # What else runs on the machine does not count.
        shares = neighbours.cgroups('cpu', cgroup).parent / 'cpu.shares'
        shares.write_text('262144')
        self._host.dockerd.docker(
            'exec', '-d', f'nova-{instance.uuid}', 'sh', '-c', script)
        return instance

    def _counter(self, instance: Any) -> pathlib.Path:
        pid = self._host.container(instance)['State']['Pid']
        path = pathlib.Path(f'/proc/{pid}/root/dev/shm/n')
        while not path.exists() or not path.read_text():
            time.sleep(0.1)
        return path

    def close(self) -> None:
        """Leave nothing of them."""
        for each in (*self._attackers, *self._counters):
            self._host.containers.destroy(each.uuid)

    def turn(self) -> tuple[float, float]:
        """Return the work of all per second, and seconds of an audit."""
        before, start = self._work(), time.monotonic()
        time.sleep(SECONDS)
        work = (self._work() - before) / (time.monotonic() - start)
        start = time.perf_counter()
        self._driver.get_available_resource(computehost.NAME)
        return work, time.perf_counter() - start

    def _work(self) -> int:
        return sum(map(_number, self._paths))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have the attackers paused."""
        for each in self._attackers:
            neighbours.pause(self._host, each.uuid)
        yield
        for each in self._attackers:
            self._host.containers.unpause(each.uuid)


def _number(path: pathlib.Path) -> int:
    """Return what a server has counted; it may be writing just now."""
    while not (text := path.read_text()):
        time.sleep(0.001)
    return int(text)


@contextlib.contextmanager
def driver_of(host: computehost.ComputeHost
              ) -> Iterator[docker_driver.DockerDriver]:
    """Have the driver of a host."""
    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    factory.register_opts(conf)
    with options.overridden(conf, {
            ('docker', 'url'): host.dockerd.url,
            ('docker', 'runtime_links_path'): str(host.dockerd.links),
            ('docker', 'cgroup_parent'): host.dockerd.cgroup_parent,
            ('vcloud_net', 'fabric_namespace'): host.lan.name,
            ('vcloud_net', 'namespace_prefix'): host.lan.prefix,
            ('qos', 'state_path'): str(host.state),
            ('ecu', 'per_core'): PER_CORE,
            (None, 'host'): computehost.NAME,
            (None, 'state_path'): str(host.state / 'nova')}):
        found = docker_driver.DockerDriver(None)
        found.init_host(computehost.NAME)
        try:
            yield found
        finally:
            found.cleanup_host(computehost.NAME)


def measure() -> list[_report.Row]:
    """Return the rows of the table."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(dockerd_fixture.private())
        lan = stack.enter_context(lan_fixture.private(str(engine.links)))
        host = computehost.ComputeHost(engine, lan, pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory())),
            PER_CORE, str(neighbours.SERVERS))
        driver = stack.enter_context(driver_of(host))
        stack.enter_context(neighbours.kept_apart(engine))
        crowd = stack.enter_context(contextlib.closing(Crowd(host, driver)))
        loud, quiet = [], []
        for _ in range(TURNS):
            time.sleep(neighbours.SETTLE)
            loud.append(crowd.turn())
            with crowd.frozen():
                time.sleep(neighbours.SETTLE)
                quiet.append(crowd.turn())
    lost = (1 - sum(work for work, _audit in loud)
            / sum(work for work, _audit in quiet)) * 100
    audits = [statistics.median(audit for _work, audit in each)
              for each in (loud, quiet)]
    return [
        _report.Row(f'work lost by {SERVERS} servers', lost, '%', '<= 5'),
        _report.Row('audit beside attackers', audits[0] * 1000, 'ms'),
        _report.Row('audit beside frozen attackers', audits[1] * 1000, 'ms'),
        _report.Row('audit, ratio', audits[0] / audits[1], 'ratio', '<= 2')]


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    return 0 if _report.publish('crowd', measure()) else 1


if __name__ == '__main__':
    sys.exit(main())
