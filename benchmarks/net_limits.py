# SPDX-License-Identifier: Apache-2.0
"""How exact network limits are, and what they do to those beside them.

Two servers on a bridge in a network namespace of its own that stands for the
host; one is limited. Rates are counted by the interface of the receiver, in
bytes of Ethernet frames. The kernel hands TCP on in packets of up to 64 KiB
with one set of headers, so the taps, the last hop, are told to cut them into
frames: they do so behind their qdisc.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import json
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

from nova_vcloud import guest  # noqa: E402
from nova_vcloud import netns  # noqa: E402
from nova_vcloud import privsep  # noqa: E402
from nova_vcloud.qos import limits  # noqa: E402
from nova_vcloud.qos.backends import base  # noqa: E402
from nova_vcloud.qos.backends import tc  # noqa: E402
from nova_vcloud.virt_docker.vif import addresses  # noqa: E402
from nova_vcloud.virt_docker.vif import network  # noqa: E402

SECONDS = float(os.environ.get('BENCH_SECONDS', '6'))
WARM_UP = 2.0  # seconds
FABRIC = f'bench{os.getpid()}'
BRIDGE = 'br-bench'
MTU = 1500
RATES = tuple(int(rate) for rate in os.environ.get(
    'BENCH_RATES', '10 37 100 1000').split())  # Mbit/s
FLOOD = 'UDP overload'
BYPASS = 'raw socket that skips qdiscs'
#: {load: options of iperf3}
LOADS = {'1 TCP flow': (), '4 TCP flows': ('-P', '4'), FLOOD: (), BYPASS: ()}
#: Sends half as much again as the rate, in frames of 1442 bytes that the
#: kernel cuts from one packet (UDP_SEGMENT). iperf3 is one process, which on
#: a busy host sends less than 1 Gbit/s; so is one of these, hence several.
SENDERS = 4
SENDER = '''
import socket, sys, time
target, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
frames = max(1, min(40, int(rate * 0.002 / 1442)))
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(17, 103, 1400)
out.connect((target, port))
start, sent = time.monotonic(), 0
while True:
    ahead = sent / rate - (time.monotonic() - start)
    if ahead > 0:
        time.sleep(ahead)
    try:
        out.send(bytes(1400 * frames))
    except OSError:
        pass
    sent += 1442 * frames
'''
#: Sends frames as fast as it can, by packet(7) with PACKET_QDISC_BYPASS.
RAW_SENDER = '''
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.setsockopt(263, 20, 1)
out.bind(('eth0', 0))
macs = (bytes.fromhex(mac.replace(':', '')) for mac in sys.argv[1:])
frame = b''.join(macs) + b'\\x88\\xb5' + bytes(1400)
while True:
    try:
        out.send(frame)
    except OSError:
        pass
'''
OUTBOUND = (tc.NETNS, tc.IFB)
PORT = 5201


def ip(*args: str) -> None:
    """Run iproute2."""
    subprocess.run(['ip', *args], check=True)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server's network, and the means to use it."""

    uuid: str
    nic: addresses.Nic
    namespace: str

    @property
    def address(self) -> str:
        """IPv4 address."""
        return self.nic.addresses[0].partition('/')[0]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in the server's namespace."""
        return subprocess.Popen(
            ['ip', 'netns', 'exec', self.namespace, *command], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    @netns.own_thread
    def received(self) -> tuple[float, int]:
        """Return (time, bytes of frames) that came in so far."""
        netns.enter(self.namespace)
        with open('/proc/thread-self/net/dev') as devices:
            now = time.monotonic()
            return now, next(
                int(line.split()[1]) for line in devices
                if line.strip().startswith(f'{self.nic.name}:'))


def server(number: int, net: network.Network) -> Server:
    """Make a server's network."""
    name, port_id = str(uuid.uuid4()), str(uuid.uuid4())
    nic = addresses.Nic(
        port_id=port_id, mac=f'fa:16:3e:77:00:{number:02x}',
        tap=f'tap{port_id[:11]}', name='eth0', mtu=MTU, bridge=BRIDGE,
        vlan=None, physical_network=None,
        addresses=(f'10.77.0.{number}/16',), routes=(), dns=())
    net.plug(name, (nic,))
    ip('-n', FABRIC, 'link', 'set', nic.tap, 'gso_max_segs', '1')
    return Server(name, nic, net.namespace(name))


class Bench:
    """A limited server and one beside it."""

    def __init__(self, net: network.Network, outbound: str) -> None:
        self._net = net
        self.backend, self.outbound = tc.TcBackend(outbound), outbound
        self.limited, self.other = server(2, net), server(3, net)
        self.guest = guest.Guest(self.limited.uuid, '', '', (
            net.link(self.limited.uuid, self.limited.nic),))

    def close(self) -> None:
        """Remove both."""
        self.backend.forget(self.guest)
        for each in (self.limited, self.other):
            self._net.destroy(each.uuid)

    def limit(self, rate: int, *ways: str) -> None:
        """Set directions to a rate in Mbit/s, the others to none."""
        port = self.limited.nic.port_id
        self.backend.apply(self.guest, [
            base.Change(limits.Key('net', f'{way}_average', port),
                        limits.UNLIMITED, rate * 125_000 if way in ways
                        else limits.UNLIMITED) for way in tc.WAYS])

    def receiver(self, way: str) -> Server:
        """Return who receives what goes in a direction."""
        return self.limited if way == 'in' else self.other

    @contextlib.contextmanager
    def load(self, way: str, name: str, rate: int,
             port: int = PORT) -> Iterator[None]:
        """Send in a direction as long as the context lasts."""
        receiver = self.receiver(way)
        sender = self.other if way == 'in' else self.limited
        running = []
        try:
            if name == FLOOD:
                share = rate * 125_000 * 1.5 / SENDERS
                running += [sender.start(
                    sys.executable, '-c', SENDER, receiver.address,
                    str(port), str(share)) for _ in range(SENDERS)]
            elif name == BYPASS:
                running.append(sender.start(
                    sys.executable, '-c', RAW_SENDER, receiver.nic.mac,
                    sender.nic.mac))
            else:
                running.append(receiver.start(
                    'iperf3', '-s', '-1', '-p', str(port)))
                time.sleep(0.3)
                running.append(sender.start(
                    'iperf3', '-c', receiver.address, '-p', str(port), '-t',
                    '3600', *LOADS[name]))
            time.sleep(WARM_UP + 0.5)
            yield
        finally:
            for process in reversed(running):
                process.terminate()
                process.communicate()

    def backlog(self, way: str) -> int:
        """Return the bytes that wait in the queue of a direction."""
        nic = self.limited.nic
        place, device = {
            'in': (FABRIC, nic.tap), tc.NETNS: (self.limited.namespace,
                                                nic.name),
            tc.IFB: (FABRIC, f'ifb{nic.tap[3:]}')}[
                'in' if way == 'in' else self.outbound]
        done = subprocess.run(
            ['tc', '-n', place, '-s', '-j', 'qdisc', 'show', 'dev', device,
             'root'], check=True, capture_output=True, text=True)
        return int(json.loads(done.stdout)[0]['backlog'])

    def fed(self, way: str) -> tuple[float, float]:
        """Return the rate of a direction and how often its queue was empty.

        :returns: bytes/s, and the share of looks that found it empty, 0 to 1
        """
        start, looks = self.receiver(way).received(), []
        while time.monotonic() < start[0] + SECONDS:
            looks.append(self.backlog(way) == 0)
            time.sleep(0.1)
        end = self.receiver(way).received()
        return (end[1] - start[1]) / (end[0] - start[0]), \
            statistics.mean(looks)

    def rates(self, *ways: str) -> list[float]:
        """Return the rates of directions during SECONDS, in bytes/s."""
        starts = [self.receiver(way).received() for way in ways]
        time.sleep(SECONDS)
        ends = [self.receiver(way).received() for way in ways]
        return [(end[1] - start[1]) / (end[0] - start[0])
                for start, end in zip(starts, ends, strict=True)]

    def pings(self) -> list[float]:
        """Return round trips of small packets in ms, in order of size."""
        count = int(SECONDS / 0.02)
        ping = self.other.start('ping', '-n', '-i', '0.02', '-c', str(count),
                                '-W', '1', self.limited.address)
        found, _ = ping.communicate()
        times = sorted(float(line.rpartition('time=')[2].split()[0])
                       for line in found.splitlines() if 'time=' in line)
        if len(times) < count * 0.9:
            print(f'{count - len(times)} of {count} pings were lost')
        return times


def _loads(way: str, outbound: str) -> list[str]:
    """Return the loads that a limit of a direction can hold."""
    return [name for name in LOADS
            if name != BYPASS or way == 'in' or outbound == tc.IFB]


def errors(bench: Bench, outbound: str) -> Iterator[_report.Row]:
    """Yield how far each rate is from what was set."""
    for rate in RATES:
        for way in tc.WAYS:
            if way == 'in' and outbound != OUTBOUND[0]:
                continue
            bench.limit(rate, way)
            for name in _loads(way, outbound):
                with bench.load(way, name, rate):
                    found, empty = bench.fed(way)
                case = f'{_label(way, outbound)} {rate} Mbit/s, {name}'
                yield _report.Row(
                    f'{case}: error', abs(found / (rate * 125_000) - 1) * 100,
                    '%', '<= 0.5')
                # What is not offered cannot pass: the load, not the limit.
                yield _report.Row(f'{case}: queue empty', empty * 100, '%')


def beside(bench: Bench, outbound: str) -> Iterator[_report.Row]:
    """Yield what a loaded direction does to the other."""
    rate = 100
    for way, other in (tc.WAYS, tc.WAYS[::-1]):
        bench.limit(rate, *tc.WAYS)
        for name in _loads(way, outbound):
            with bench.load(way, name, rate):
                alone, = bench.rates(way)
                with bench.load(other, FLOOD, rate, PORT + 1):
                    both, = bench.rates(way)
            yield _report.Row(
                f'{_label(way, outbound)} {rate} Mbit/s, {name}, other way '
                'full: change', abs(both / alone - 1) * 100, '%',
                '<= 2')


def delays(bench: Bench, outbound: str) -> Iterator[_report.Row]:
    """Yield how long a ping takes beside a load."""
    rate = 10
    for way in tc.WAYS:
        if way == 'in' and outbound != OUTBOUND[0]:
            continue
        bench.limit(rate, way)
        for name in _loads(way, outbound):
            with bench.load(way, name, rate):
                times = bench.pings()
            where = f'{_label(way, outbound)} {rate} Mbit/s, {name}: ping'
            yield _report.Row(where, statistics.mean(times), 'ms', '<= 50')
            yield _report.Row(f'{where}, p99',
                              times[int(len(times) * 0.99)], 'ms')


def _label(way: str, outbound: str) -> str:
    return f'out by {outbound}' if way == 'out' else way


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    ip('netns', 'add', FABRIC)
    rows: list[_report.Row] = []
    try:
        ip('-n', FABRIC, 'link', 'add', BRIDGE, 'type', 'bridge')
        ip('-n', FABRIC, 'link', 'set', BRIDGE, 'up')
        net = network.Network('/nonexistent', FABRIC, f'{FABRIC}-')
        for outbound in OUTBOUND:
            bench = Bench(net, outbound)
            try:
                for measure in (errors, beside, delays):
                    for row in measure(bench, outbound):
                        rows.append(row)
                        print(row.case, f'{row.value:.3f}', row.unit,
                              file=sys.stderr, flush=True)
            finally:
                bench.close()
    finally:
        ip('netns', 'del', FABRIC)
    return 0 if _report.publish('net_limits', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
