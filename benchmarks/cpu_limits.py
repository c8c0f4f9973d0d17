# SPDX-License-Identifier: Apache-2.0
"""How exactly CPU time is limited: caps, shares, ECU on unlike hosts.

Servers of the driver's rooms, on an engine of their own, each with a busy
loop for every core. CPU time is the kernel's count of the server's cgroup,
read at the start and at the end of a window that is a whole number of
periods; the time between is the monotonic clock's. The servers together have
the kernel's largest weight, so that what else runs on the machine does not
keep them from their caps.

The kernel sees at a tick that a quota is used up, and takes what was too much
from the next periods. A window of 10 s at a cap of 10 % is so up to some ms of
1 s off, either way, and a longer one is not more. Therefore caps have three
windows in a row: the median of their errors counts, and the worst and that of
all three together are shown beside.
"""

from collections.abc import Sequence
import contextlib
import itertools
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

from nova_vcloud import privsep  # noqa: E402
from nova_vcloud.qos import limits  # noqa: E402

SECONDS = float(os.environ.get('BENCH_SECONDS', '10'))  # of a window
WINDOWS = 3
CAPS = {'10 %': 10_000, '57.499 %': 57_499, '150 %': 150_000}
WEIGHTS = (256, 512, 1024)
SPEEDS = (4.0, 2.5)  # ECU of a core, of two hosts
CPU = '/sys/fs/cgroup/cpu'
BUSY = 'while :; do :; done'


class Servers:
    """Busy servers that are gone at the end."""

    def __init__(self, host: computehost.ComputeHost) -> None:
        self._host = host
        self._instances: list[Any] = []

    def __enter__(self) -> 'Servers':
        return self

    def __exit__(self, *_exc: object) -> None:
        for instance in self._instances:
            self._host.containers.destroy(instance.uuid)

    def busy(self, cpus: str = '', **specs: str) -> pathlib.Path:
        """Boot a server with loops; return its file of CPU time."""
        instance = self._host.instance(**specs)
        self._instances.append(instance)
        cgroup = self._host.spawn(instance, self._host.ports(0))
        parent = pathlib.Path(CPU, cgroup.strip('/')).parent
        (parent / 'cpu.shares').write_text('262144')
        if cpus:
            self._host.keeper.override(
                instance.uuid, limits.Limits.from_doc({'cpu.cpus': cpus}),
                3600, 'bench')
        for _ in range(os.cpu_count() or 1):
            self._host.dockerd.docker(
                'exec', '-d', f'nova-{instance.uuid}', 'sh', '-c', BUSY)
        return pathlib.Path('/sys/fs/cgroup/cpuacct', cgroup.strip('/'),
                            'cpuacct.usage')


def read(files: Sequence[pathlib.Path]) -> list[float]:
    """Return the time and what each has used until now, in seconds."""
    return [time.monotonic(), *(int(f.read_text()) / 1e9 for f in files)]


def share(old: list[float], new: list[float]) -> list[float]:
    """Return the share of one CPU that each got between two reads."""
    seconds, *each = (b - a for a, b in zip(old, new, strict=True))
    return [used / seconds for used in each]


def used(files: Sequence[pathlib.Path]) -> list[float]:
    """Return the share of one CPU that each got, over SECONDS."""
    time.sleep(1)  # until the loops run
    old = read(files)
    time.sleep(SECONDS)
    return share(old, read(files))


def caps(host: computehost.ComputeHost) -> list[_report.Row]:
    """Measure one server at a time under each cap."""
    rows = []
    for name, quota in CAPS.items():
        with Servers(host) as servers:
            files = [servers.busy(quota__cpu_quota=str(quota))]
            time.sleep(1)  # until the loops run
            reads = [read(files)]
            for _ in range(WINDOWS):
                time.sleep(SECONDS)
                reads.append(read(files))
        *each, whole = (
            abs(share(old, new)[0] / (quota / 100_000) - 1) * 100
            for old, new in (*itertools.pairwise(reads),
                             (reads[0], reads[-1])))
        rows += [
            _report.Row(f'cap {name}, error', statistics.median(each), '%',
                        '<= 0.3'),
            _report.Row('  worst window', max(each), '%'),
            _report.Row('  all windows together', whole, '%')]
    return rows


def shares(host: computehost.ComputeHost) -> list[_report.Row]:
    """Measure three servers of unlike weight on one CPU."""
    with Servers(host) as servers:
        got = used([servers.busy('0', quota__cpu_shares=str(weight))
                    for weight in WEIGHTS])
    rows = []
    for weight, part in zip(WEIGHTS, got, strict=True):
        wanted = weight / sum(WEIGHTS)
        error = abs(part / sum(got) / wanted - 1) * 100
        rows.append(_report.Row(f'weight {weight} of {sum(WEIGHTS)}, error',
                                error, '%', '<= 1'))
    return rows


def ecus(hosts: Sequence[computehost.ComputeHost]) -> list[_report.Row]:
    """Compare the work of 1 and 2 ECU on hosts of two speeds."""
    rows = []
    for units in (1, 2):
        work = []
        for host, speed in zip(hosts, SPEEDS, strict=True):
            with Servers(host) as servers:
                cores, = used([servers.busy(
                    resources__CUSTOM_ECU=str(units))])
            work.append(cores * speed)
        rows.append(_report.Row(
            f'{units} ECU at {SPEEDS[0]:g} and {SPEEDS[1]:g} a core, '
            'difference', abs(work[0] / work[1] - 1) * 100, '%', '<= 1'))
    return rows


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(dockerd_fixture.private())
        lan = stack.enter_context(lan_fixture.private(str(engine.links)))
        hosts = [computehost.ComputeHost(
            engine, lan, pathlib.Path(stack.enter_context(
                tempfile.TemporaryDirectory())), speed) for speed in SPEEDS]
        rows = [*caps(hosts[0]), *shares(hosts[0]), *ecus(hosts)]
    return 0 if _report.publish('cpu_limits', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
