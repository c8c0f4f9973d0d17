# SPDX-License-Identifier: Apache-2.0
"""How exactly disks are limited: bytes and requests, past the cache and not.

A process in the cgroup of a server (of the driver's rooms, on an engine of
its own) reads or writes a file on the disk that root filesystems are on. Its
own count and clock tell the speed, from the end of the first request after a
warm-up to the end of the last one.
"""

import contextlib
import json
import os
import pathlib
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

SECONDS = float(os.environ.get('BENCH_SECONDS', '10'))
SIZE = 256 << 20  # bytes of the file
MB = 1_000_000
GOAL = '<= 2'
#: Reads or writes in a loop; prints how many bytes in how many seconds.
WORKER = '''
import json, mmap, os, sys, time
path, way, direct, block, size, seconds = sys.argv[1], sys.argv[2], *map(
    int, sys.argv[3:6]), float(sys.argv[6])
flags = (os.O_RDONLY if way == 'read' else os.O_WRONLY) | direct * os.O_DIRECT
fd = os.open(path, flags)
buffer = mmap.mmap(-1, block)  # aligned, as O_DIRECT wants it
if not direct:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
done = offset = 0
begin = start = None
first = time.monotonic()
while True:
    if way == 'read':
        os.preadv(fd, [buffer], offset)
    else:
        os.pwritev(fd, [buffer], offset)
        if not direct:
            os.fdatasync(fd)
    now = time.monotonic()
    offset = (offset + block) % size
    if start is None:
        if now - first > 1.5:
            start = now
        continue
    done += block
    if now - start > seconds:
        break
print(json.dumps([done, now - start]))
'''
#: (name, way, O_DIRECT, bytes of a request, extra spec, value, unit)
CASES = [
    (f'{way} {text} {how}', way, how == 'O_DIRECT', block, unit, value)
    for way in ('read', 'write')
    for text, block, unit, value, hows in (
        ('20 MB/s', 1 << 20, 'bytes', 20 * MB, ('O_DIRECT', 'buffered')),
        ('5 MB/s', 1 << 16, 'bytes', 5 * MB, ('O_DIRECT', 'buffered')),
        ('500 IOPS', 4096, 'iops', 500, ('O_DIRECT',)))
    for how in hows]


def speed(host: computehost.ComputeHost, path: pathlib.Path, way: str,
          direct: bool, block: int, limit: dict[str, str]) -> float:
    """Return bytes a second that a process of a limited server gets."""
    instance = host.instance(**limit)
    cgroup = host.spawn(instance, host.ports(0))
    procs = pathlib.Path('/sys/fs/cgroup/blkio', cgroup.strip('/'),
                         'cgroup.procs')
    try:
        done = subprocess.run(
            ['/bin/sh', '-c', f'echo $$ >{procs} && exec "$@"', 'sh',
             sys.executable, '-c', WORKER, str(path), way, str(int(direct)),
             str(block), str(SIZE), str(SECONDS)],
            check=True, capture_output=True, text=True)
    finally:
        host.containers.destroy(instance.uuid)
    count, seconds = json.loads(done.stdout)
    return float(count / seconds)


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
        for name, way, direct, block, unit, value in CASES:
            got = speed(host, path, way, direct, block, {
                f'quota__disk_{way}_{unit}_sec': str(value)})
            wanted = value if unit == 'bytes' else value * block
            rows.append(_report.Row(f'{name}, error',
                                    abs(got / wanted - 1) * 100, '%', GOAL))
    return 0 if _report.publish('io_limits', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
