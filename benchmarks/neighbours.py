# SPDX-License-Identifier: Apache-2.0
"""What a server that runs wild takes from its neighbour.

Two servers of 2 ECU each, 40 % of a core, share one CPU; the engine and its
helpers have the others, as on a host that is set up as doc/source/admin says.
The neighbour counts, or writes and syncs small files; its work per second is
compared with the other one running wild and frozen, in short turns: a machine
that is itself a guest is faster and slower from one second to the next, by
more than what is looked for. Beside the work lost is the CPU time lost: what
remains is a machine that does less in the same time, as two CPUs of a core do
when both are busy. The servers together have the kernel's largest
weight, so that what else runs on the machine does not count.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import subprocess
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

from nova_vcloud import exception  # noqa: E402
from nova_vcloud import privsep  # noqa: E402

PER_CORE = 5.0
SERVERS = max(os.sched_getaffinity(0))  # their CPU
SECONDS = float(os.environ.get('BENCH_SECONDS', '1'))
TURNS = int(os.environ.get('BENCH_ROUNDS', '20'))
PATIENCE = 50  # attempts to freeze
SETTLE = 0.3  # seconds after a turn, for what the engine still has to write
GOAL = '<= 5'
FLAVOR = {'resources__CUSTOM_ECU': '2', 'vcloud__pids': '128',
          'quota__disk_read_bytes_sec': '20000000',
          'quota__disk_write_bytes_sec': '20000000',
          'quota__disk_read_iops_sec': '400',
          'quota__disk_write_iops_sec': '400'}
#: Each writes how far it is into /dev/shm/n.
COUNT = ('i=0; while :; do i=$((i+1)); '
         '[ $((i % 2000)) = 0 ] && echo $i >/dev/shm/n; done')
SYNC = ('i=0; while :; do i=$((i+1)); dd if=/dev/zero of=/f bs=4k count=1 '
        'conv=fsync 2>/dev/null; echo $i >/dev/shm/n; done')
WILD = {
    'fork bomb': 'b() { b | b & }; b; sleep 1000',
    'memory hog': 'while :; do tail /dev/zero; done',
    'log flood': 'yes abcdefghijklmnopqrstuvwxyz >/dev/console',
    'disk flood, direct': 'while :; do dd if=/dev/zero of=/f bs=1M count=200 '
                          'oflag=direct; done',
    'disk flood, cached': 'while :; do dd if=/dev/zero of=/f bs=1M '
                          'count=200; done',
}


#: (work, seconds of CPU time), each per second
Rate = tuple[float, float]


class Bench:
    """The neighbour, and the other one while it runs."""

    def __init__(self, host: computehost.ComputeHost) -> None:
        self._host = host
        self._neighbour, cgroup = self._boot()
        self._account = cgroups('cpuacct', cgroup)

    def _boot(self) -> tuple[Any, str]:
        instance = self._host.instance(memory_mb=128, **FLAVOR)
        cgroup = self._host.spawn(instance, self._host.ports(0))
        (cgroups('cpu', cgroup).parent / 'cpu.shares').write_text('262144')
        return instance, cgroup

    def close(self) -> None:
        """Leave nothing of the neighbour."""
        self._host.containers.destroy(self._neighbour.uuid)

    def _start(self, instance: Any, script: str) -> None:
        self._host.dockerd.docker(
            'exec', '-d', f'nova-{instance.uuid}', 'sh', '-c', script)

    @contextlib.contextmanager
    def working(self, script: str) -> Iterator[None]:
        """Have the neighbour work."""
        self._start(self._neighbour, script)
        yield
        self._host.containers.reboot(
            self._neighbour, self._host.ports(0), timeout=0)

    @contextlib.contextmanager
    def wild(self, script: str) -> Iterator[tuple[str, dict[str, int]]]:
        """Have a wild server: its uuid, its events at the end."""
        other, events = self._boot()[0], dict[str, int]()
        self._start(other, script)
        time.sleep(1)
        yield other.uuid, events
        events.update(self._host.keeper.status(other.uuid).events)
        self._host.containers.destroy(other.uuid)

    def rate(self) -> Rate:
        """Return the neighbour's work, and its CPU time, per second."""
        pid = self._host.container(self._neighbour)['State']['Pid']
        path = pathlib.Path(f'/proc/{pid}/root/dev/shm/n')
        counts, times, used = [], [], []
        for pause in (SECONDS, 0):
            before = path.read_text()
            while (now := path.read_text()) in (before, ''):
                time.sleep(0.001)
            counts.append(int(now))
            times.append(time.monotonic())
            used.append(int((self._account / 'cpuacct.usage').read_text()))
            time.sleep(pause)
        span = times[1] - times[0]
        return ((counts[1] - counts[0]) / span,
                (used[1] - used[0]) / span / 1e9)

    def loss(self, work: str, script: str
             ) -> tuple[Rate, dict[str, int]]:
        """Return by how many per cent both get less, and the events.

        Of all turns together: in one second a quota of 100 ms periods gives a
        few per cent more or less.
        """
        quiet, loud = [], []
        with self.working(work), self.wild(script) as (other, events):
            for _ in range(TURNS):
                time.sleep(SETTLE)
                loud.append(self.rate())
                quiet.append(self.rate_beside_frozen(other))
        lost = tuple(
            (1 - sum(each[n] for each in loud) / sum(
                each[n] for each in quiet)) * 100 for n in (0, 1))
        print(f'{script[:40]}: %.2f %%, %.2f %% of CPU time' % lost,
              file=sys.stderr)  # it is long
        return lost, events

    def rate_beside_frozen(self, other: str) -> Rate:
        """Return the same without the other one."""
        pause(self._host, other)
        time.sleep(SETTLE)
        found = self.rate()
        self._host.containers.unpause(other)
        return found


def pause(host: computehost.ComputeHost, uuid: str) -> None:
    """Pause a server; while the kernel kills in it, it cannot be."""
    for attempt in range(PATIENCE, -1, -1):
        try:
            host.containers.pause(uuid)
            break
        except exception.EngineError:
            if not attempt:
                raise
            time.sleep(0.1)


def cgroups(controller: str, path: str) -> pathlib.Path:
    """Return where a controller has a cgroup."""
    return pathlib.Path('/sys/fs/cgroup', controller, path.strip('/'))


@contextlib.contextmanager
def kept_apart(engine: dockerd_fixture.Dockerd) -> Iterator[None]:
    """Keep an engine, with what it starts, from the servers' CPU."""
    root = pathlib.Path('/sys/fs/cgroup/cpuset')
    own = root / f'bench{os.getpid()}'
    own.mkdir()
    try:
        rest = os.sched_getaffinity(0) - {SERVERS}
        (own / 'cpuset.cpus').write_text(','.join(map(str, rest)))
        (own / 'cpuset.mems').write_text(
            (root / 'cpuset.mems').read_text())
        for pidfile in (engine.home / 'pid',
                        engine.home / 'exec/containerd/containerd.pid'):
            (own / 'cgroup.procs').write_text(pidfile.read_text())
        yield
    finally:
        for pid in (own / 'cgroup.procs').read_text().split():
            (root / 'cgroup.procs').write_text(pid)
        own.rmdir()


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    rows = []
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(dockerd_fixture.private())
        lan = stack.enter_context(lan_fixture.private(str(engine.links)))
        host = computehost.ComputeHost(engine, lan, pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory())),
            PER_CORE, str(SERVERS))
        stack.enter_context(kept_apart(engine))
        bench = stack.enter_context(contextlib.closing(Bench(host)))
        for name, script in WILD.items():
            lost, events = bench.loss(COUNT, script)
            rows.append(_report.Row(f'{name}: CPU work lost', lost[0], '%',
                                    GOAL))
            rows.append(_report.Row(f'{name}: CPU time lost', lost[1], '%'))
            rows += [_report.Row(f'{name}: {event}', count, 'times')
                     for event, count in events.items() if count]
        for name in ('disk flood, direct', 'disk flood, cached'):
            lost, _events = bench.loss(SYNC, WILD[name])
            rows.append(_report.Row(f'{name}: synced writes lost', lost[0],
                                    '%', GOAL))
        start = time.perf_counter()
        with bench.wild(WILD['fork bomb']):
            start = time.perf_counter()
            subprocess.run(['/bin/true'], check=True)
            host.dockerd.engine.info()
            rows.append(_report.Row(
                'a process and a word with the engine beside a fork bomb',
                (time.perf_counter() - start) * 1000, 'ms'))
    return 0 if _report.publish('neighbours', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
