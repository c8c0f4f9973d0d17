# SPDX-License-Identifier: Apache-2.0
"""How exactly disks are limited: bytes and requests, past the cache and not.

A process in the cgroup of a server (of the driver's rooms, on an engine of
its own) reads or writes a file on the disk that root filesystems are on, one
request at a time. Its own count and clock tell the speed.

The kernel lets requests through in turns of about a tenth of a second. So
that no part of a turn is counted, a window begins and ends with the first
request after a pause. Time in which nothing waits is lost, not saved up: where
something else keeps the process or the disk from work, it is slower. Of three
windows in a row the median of the errors counts; the worst of all is shown.

What a filesystem writes on its own (its blocks about the file, at most one at
a sync) is limited too. Small synced writes are therefore compared by what
went to the disk, as the kernel counts it, and what of it was the file's is
shown beside.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT / 'tests/fixtures')]

import _report  # noqa: E402 - found by the line above
import computehost  # noqa: E402
import dockerd as dockerd_fixture  # noqa: E402
import lan as lan_fixture  # noqa: E402

from nova_vcloud import privsep  # noqa: E402

SECONDS = float(os.environ.get('BENCH_SECONDS', '10')) / 2  # of a window
WINDOWS = 3
WARM_UP = 1.5  # seconds
PAUSE = 0.010  # seconds in which no request ends
SIZE = 256 << 20  # bytes of the file
MB = 1_000_000
GOAL = '<= 2'
BLKIO = pathlib.Path('/sys/fs/cgroup/blkio')
#: Reads or writes in a loop; prints [time, requests, bytes on the disk] at
#: the end of each request.
WORKER = '''
import json, mmap, os, sys, time
path, way, counter, device = sys.argv[1:5]
direct, block, size = map(int, sys.argv[5:8])
seconds = float(sys.argv[8])
flags = (os.O_RDONLY if way == 'read' else os.O_WRONLY) | direct * os.O_DIRECT
fd = os.open(path, flags)
buffer = mmap.mmap(-1, block)  # aligned, as O_DIRECT wants it
if not direct:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
wanted = [device, way.capitalize()]
def on_disk():
    for line in open(counter):
        if line.split()[:2] == wanted:
            return int(line.split()[2])
    return 0
ends, offset, first = [], 0, time.monotonic()
while not ends or ends[-1][0] < seconds:
    if not offset and not direct:  # what was read before is in memory
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if way == 'read':
        os.preadv(fd, [buffer], offset)
    else:
        os.pwritev(fd, [buffer], offset)
        if not direct:
            os.fdatasync(fd)
    offset = (offset + block) % size
    ends.append([time.monotonic() - first, len(ends), on_disk()])
print(json.dumps(ends))
'''


@dataclasses.dataclass(frozen=True)
class Case:
    """What is limited to which number, and what is done under it."""

    way: str
    direct: bool
    block: int  # bytes of a request
    unit: str  # as in the extra spec
    limit: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        number = f'{self.limit} IOPS' if self.unit == 'iops' \
            else f'{self.limit // MB} MB/s'
        how = 'O_DIRECT' if self.direct else \
            'buffered' if self.way == 'read' else 'buffered+fsync'
        return f'{self.way} {number} {how} {self.block >> 10} KiB'

    @property
    def small_synced(self) -> bool:
        """Whether the filesystem's own blocks weigh."""
        return self.way == 'write' and not self.direct and self.block < MB


CASES = [
    Case(way, direct, block, unit, limit)
    for way in ('read', 'write')
    for block, unit, limit, hows in (
        (1 << 20, 'bytes', 20 * MB, (True, False)),
        (1 << 16, 'bytes', 5 * MB, (True, False)),
        (4096, 'iops', 500, (True,)))
    for direct in hows]


def requests(host: computehost.ComputeHost, path: pathlib.Path,
             case: Case) -> list[list[float]]:
    """Return what WORKER says in a server with the case's limit."""
    instance = host.instance(
        **{f'quota__disk_{case.way}_{case.unit}_sec': str(case.limit)})
    folder = BLKIO / host.spawn(instance, host.ports(0)).strip('/')
    try:
        done = subprocess.run(
            ['/bin/sh', '-c', f'echo $$ >{folder}/cgroup.procs && exec "$@"',
             'sh', sys.executable, '-c', WORKER, str(path), case.way,
             str(folder / 'blkio.throttle.io_service_bytes'),
             host.profile.device, str(int(case.direct)), str(case.block),
             str(SIZE), str(WARM_UP + (SECONDS + 1) * WINDOWS)],
            check=True, capture_output=True, text=True)
    finally:
        host.containers.destroy(instance.uuid)
    return json.loads(done.stdout)


def windows(ends: list[list[float]]) -> list[list[float]]:
    """Return [seconds, requests, bytes on the disk] of each window."""
    heads = [new for old, new in itertools.pairwise(ends)
             if new[0] - old[0] > PAUSE and new[0] > WARM_UP]
    found, start = [], heads[0]
    for head in heads:
        if head[0] - start[0] >= SECONDS:
            found.append([b - a for a, b in zip(start, head, strict=True)])
            start = head
    return found[:WINDOWS]


def measure(case: Case, ends: list[list[float]],
            ) -> tuple[list[_report.Row], float]:
    """Return a case's rows, and the error of its worst window in %."""
    unit = 1 if case.unit == 'iops' else case.block
    found = windows(ends)
    own = [count * unit / seconds / case.limit
           for seconds, count, _bytes in found]
    disk = [count / seconds / case.limit for seconds, _count, count in found]
    speeds = disk if case.small_synced else own
    errors = [abs(speed - 1) * 100 for speed in speeds]
    rows = [_report.Row(f'{case.name}, error', statistics.median(errors), '%',
                        GOAL)]
    if case.small_synced:
        rows.append(_report.Row("  the file's share of it", statistics.median(
            own) * 100, '%'))
    return rows, max(errors)


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    rows = []
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(dockerd_fixture.private())
        lan = stack.enter_context(lan_fixture.private(str(engine.links)))
        host = computehost.ComputeHost(engine, lan, pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory())))
        path = engine.home / 'file'
        with path.open('wb') as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
        worst = 0.0
        for case in CASES:
            more, error = measure(case, requests(host, path, case))
            rows += more
            worst = max(worst, error)
        rows.append(_report.Row('worst window of all, error', worst, '%'))
    return 0 if _report.publish('io_limits', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
