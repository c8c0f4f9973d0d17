# SPDX-License-Identifier: Apache-2.0
"""Limits are held as exactly as ``qos show`` says, counted by the kernel."""

import contextlib
import os
import subprocess
import time

from cgroup_box import box
from cgroup_box import folders
import pytest

from nova_vcloud.qos import limits
from nova_vcloud.qos import precision
from nova_vcloud.qos.disk import devices

__all__ = ['box']

PERIOD = 100_000
PERIODS = 50
PATIENCE = 100  # seconds until a busy host gave PERIODS in a row
BUSY = 'while True: pass'
READER = '''
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer, number = mmap.mmap(-1, 4096), 0
while True:
    os.preadv(fd, [buffer], number % 1000 * 4096)
    number += 1
'''


class Counted:
    """A cgroup's counters of CPU time."""

    def __init__(self, group):
        found = [path / name for path in folders(group.guest.cgroup)
                 for name in ('cpu.stat', 'cpuacct.usage')
                 if (path / name).exists()]
        self.stat = next(p for p in found if p.name == 'cpu.stat')
        self.usage = next((p for p in found if p.name == 'cpuacct.usage'),
                          None)

    def read(self):
        """Return periods, those that were throttled, and µs of CPU time."""
        stat = dict(line.split() for line in self.stat.open())
        used = int(self.usage.read_text()) / 1000 if self.usage \
            else int(stat['usage_usec'])
        return int(stat['nr_periods']), int(stat['nr_throttled']), used

    def at_rest(self, period=0):
        """Return the same while all are throttled, in a period or later."""
        deadline = time.monotonic() + PATIENCE
        while True:
            before = self.read()
            time.sleep(0.003)
            found = self.read()
            if before == found and found[1] and found[0] >= period:
                return found
            assert time.monotonic() < deadline


@contextlib.contextmanager
def running(group, count, script, *args):
    processes = [group.start(script, *args) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('quota', [33_300, 10_000, 2000])
def test_cpu_time_in_periods_that_were_used_up(
        box, quota, threads):
    # Others are not to take what the quota gives.
    box.set(cpu_shares=262144, cpu_period=PERIOD, cpu_quota=quota)
    counted = Counted(box)
    deadline = time.monotonic() + PATIENCE
    with running(box, threads, BUSY):
        while True:
            before = counted.at_rest()
            after = counted.at_rest(before[0] + PERIODS)
            periods, throttled, used = (
                b - a for a, b in zip(before, after, strict=True))
            if throttled == periods:
                break
            assert time.monotonic() < deadline, (periods, throttled)
    share = used / (periods * quota)
    assert abs(share - 1) <= precision.of_quota(quota), share


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(os.urandom(4096 * 1000))
    subprocess.run(['sync', path], check=True)
    return path


def served(group, device):
    """Return how many reads the kernel has let pass."""
    for folder in folders(group.guest.cgroup):
        for name in ('io.stat', 'blkio.throttle.io_serviced'):
            with contextlib.suppress(FileNotFoundError):
                for line in (folder / name).read_text().splitlines():
                    words = line.replace('rios=', 'Read ').split()
                    if words[0] == device and 'Read' in words:
                        return int(words[words.index('Read') + 1])
    return 0


def wait_served(group, device, count):
    deadline = time.monotonic() + PATIENCE
    while (found := served(group, device)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found, time.monotonic()


@pytest.mark.parametrize('value', [7, 13, 19, 39, 50])
def test_requests_are_what_whole_slices_give(box, tmp_path, file, value):
    device = devices.device_of(str(tmp_path))
    box.change({limits.Key('io', 'read_iops', device): value})
    held = precision.held_iops(value, precision.slice_of(device))
    with running(box, 1, READER, file):
        begin, start = wait_served(box, device, held // 2 + 2)
        end, stop = wait_served(box, device, begin + 3 * held)
    # A slice may be seen a little before its end.
    most = held * (1 + precision.IOPS) * (stop - start + 0.1) + 1
    assert end - begin <= most
