# SPDX-License-Identifier: Apache-2.0
"""What it takes to wire a server, in milliseconds.

In a network namespace of its own that stands for the host, with and without
other servers on the same bridge, and beside the same work done by iproute2 in
as few processes as it can be.
"""

from collections.abc import Callable
import os
import pathlib
import statistics
import subprocess
import sys
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks')]

import _report  # noqa: E402 - found by the line above

from nova_vcloud import privsep  # noqa: E402
from nova_vcloud.virt_docker.vif import addresses  # noqa: E402
from nova_vcloud.virt_docker.vif import network  # noqa: E402

ROUNDS = int(os.environ.get('BENCH_ROUNDS', '40'))
CROWD = 100  # other servers
FABRIC = f'bench{os.getpid()}'
BRIDGE = 'br-bench'
PAUSE = 0.05  # seconds; announcements and the kernel's own cleaning up


def ip(*args: str) -> None:
    """Run iproute2."""
    subprocess.run(['ip', *args], check=True)


def batch(netns: str, lines: list[str]) -> None:
    """Run iproute2 commands in one process."""
    subprocess.run(['ip', '-n', netns, '-batch', '-'], check=True, text=True,
                   input='\n'.join(lines))


def nic(number: int) -> addresses.Nic:
    """Return a NIC with an IPv4 and an IPv6 address and two gateways."""
    port_id = str(uuid.uuid4())
    high, low = divmod(number, 256)
    return addresses.Nic(
        port_id=port_id, mac=f'fa:16:3e:77:{high:02x}:{low:02x}',
        tap=f'tap{port_id[:11]}', name='eth0', mtu=1450, bridge=BRIDGE,
        vlan=None, physical_network=None,
        addresses=(f'10.77.{high}.{low}/16', f'fd00:77::{number:x}/64'),
        routes=(('0.0.0.0/0', '10.77.0.1'), ('::/0', 'fd00:77::1')),
        dns=())


class Bench:
    """Servers that are wired and removed, and the time each step took."""

    def __init__(self) -> None:
        self._network = network.Network('/nonexistent', FABRIC,
                                        f'{FABRIC}-', neighbours=1024)
        self._others = [str(uuid.uuid4()) for _ in range(CROWD)]

    def crowd(self) -> None:
        """Wire CROWD other servers."""
        for number, server in enumerate(self._others):
            self._network.plug(server, (nic(1000 + number),))

    def leave(self) -> None:
        """Remove them."""
        for server in self._others:
            self._network.destroy(server)

    def raw(self) -> float:
        """Return the median of the bare work by iproute2, in ms."""
        times = []
        for number in range(2, ROUNDS + 3):
            wanted, netns = nic(number), f'{FABRIC}-raw'
            start = time.perf_counter()
            ip('netns', 'add', netns)
            batch(FABRIC, [
                (f'link add {wanted.tap} mtu {wanted.mtu} type veth peer '
                 f'name eth0 address {wanted.mac} mtu {wanted.mtu} '
                 f'netns {netns}'),
                f'link set {wanted.tap} master {BRIDGE} up'])
            batch(netns, [
                'link set lo up', 'link set eth0 up',
                *(f'address add {a} dev eth0' + ' nodad' * (':' in a)
                  for a in wanted.addresses),
                *(f'route add {to} via {via}' for to, via in wanted.routes)])
            times.append((time.perf_counter() - start) * 1000)
            ip('netns', 'del', netns)
            time.sleep(PAUSE)
        return statistics.median(times[1:])

    def run(self) -> dict[str, float]:
        """Return the median of each step, in ms."""
        times: dict[str, list[float]] = {}
        for number in range(2, ROUNDS + 3):
            server, wanted = str(uuid.uuid4()), (nic(number),)
            steps: dict[str, Callable[[], object]] = {
                'plug': lambda s=server, w=wanted: self._network.plug(s, w),
                'plug again': lambda s=server, w=wanted:
                    self._network.plug(s, w),
                'carrier off': lambda s=server:
                    self._network.set_carrier(s, False),
                'counters': lambda s=server: self._network.counters(s),
                'destroy': lambda s=server: self._network.destroy(s)}
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times.setdefault(name, []).append(
                    (time.perf_counter() - start) * 1000)
                time.sleep(PAUSE)
        return {name: statistics.median(values[1:])
                for name, values in times.items()}


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    ip('netns', 'add', FABRIC)
    try:
        ip('-n', FABRIC, 'link', 'add', BRIDGE, 'type', 'bridge')
        ip('-n', FABRIC, 'link', 'set', BRIDGE, 'up')
        bench = Bench()
        raw = bench.raw()
        alone = bench.run()
        bench.crowd()
        try:
            crowded = bench.run()
        finally:
            bench.leave()
    finally:
        ip('netns', 'del', FABRIC)
    rows = [_report.Row(f'{step}{where}', value, 'ms')
            for where, found in (('', alone),
                                 (f', beside {CROWD} servers', crowded))
            for step, value in found.items()]
    rows += [
        _report.Row('namespace and NIC by iproute2', raw, 'ms'),
        _report.Row('plug / iproute2', alone['plug'] / raw, 'ratio'),
        # What others have must not make a server slower.
        _report.Row(f'plug beside {CROWD} servers / alone',
                    crowded['plug'] / alone['plug'], 'ratio', '<= 1.25'),
    ]
    return 0 if _report.publish('nic_plug', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
