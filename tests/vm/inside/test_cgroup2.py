# SPDX-License-Identifier: Apache-2.0
"""Our cgroup v2 backend under systemd, by what its limits do to containers."""

import contextlib
import pathlib
import re
import subprocess
import time

import dockerd as dockerd_fixture
import pytest

from nova_vcloud.guest import Guest
from nova_vcloud.qos import hosts
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends.base import Change
from nova_vcloud.qos.disk import devices

MIB = 2**20


class Container:
    """A running container, its cgroup and what limits it."""

    def __init__(self, dockerd):
        self.dockerd = dockerd
        self.backend = hosts.cgroup_here()
        self.id = dockerd.docker(
            'run', '--detach', '--network=none', dockerd_fixture.IMAGE,
            'sleep', '1000').stdout.strip()
        pid = dockerd.engine.container(self.id)['State']['Pid']
        line = pathlib.Path(f'/proc/{pid}/cgroup').read_text()
        self.guest = Guest('', self.id, re.fullmatch(r'0::(/.*)\n', line)[1])

    @contextlib.contextmanager
    def limited(self, doc):
        """Have limits, as in Limits.to_doc(), for a while."""
        wanted = limits.Limits.from_doc(doc)
        changes = [Change(key, limits.UNLIMITED, value)
                   for key, value in wanted.items()]
        self.backend.apply(self.guest, changes)
        assert self.backend.read(self.guest, wanted) == wanted
        yield
        self.backend.apply(self.guest, [
            change.reversed() for change in changes
            if change.key.kind != 'cpu.period'])

    def read(self, name):
        return (dockerd_fixture.CGROUPS / self.guest.cgroup[1:] / name
                ).read_text()

    def figure(self, name, key):
        return int(dict(line.split() for line in
                        self.read(name).splitlines())[key])

    def cpu_seconds(self):
        return self.figure('cpu.stat', 'usage_usec') / 1e6

    def run(self, script, check=True):
        return self.dockerd.docker('exec', self.id, 'sh', '-c', script,
                                   check=check)


@pytest.fixture(scope='module')
def container(dockerd):
    found = Container(dockerd)
    yield found
    dockerd.docker('rm', '--force', found.id)


def test_all_but_sums_is_enforced(container):
    assert container.backend.name == 'cgroup v2'
    support = container.backend.support()
    assert set(support.missing) == {'io.total_bps', 'io.total_iops'}


def test_the_engine_leaves_cgroups_to_systemd(dockerd, container):
    info = dockerd.engine.info()
    assert (info['CgroupVersion'], info['CgroupDriver']) == ('2', 'systemd')
    assert container.guest.cgroup == (
        f'/{dockerd.cgroup_parent}/docker-{container.id}.scope')


@pytest.mark.parametrize('flags', ['conv=fsync', 'oflag=direct'])
def test_written_bytes_a_second(dockerd, container, flags):
    def seconds():
        begin, end, _ = container.run(
            'cat /proc/uptime; '
            f'dd if=/dev/zero of=/file bs=1M count=8 {flags} 2>/dev/null; '
            'cat /proc/uptime; rm /file').stdout.split('\n')
        return float(end.split()[0]) - float(begin.split()[0])

    assert seconds() < 3
    disk = devices.device_of(str(dockerd.home))
    with container.limited({f'io.{disk}.write_bps': 2 * MIB}):
        # Never faster; the file system writes some more than the file.
        assert 0.98 * 4 < seconds() < 1.3 * 4


def test_share_of_a_cpu(container):
    with container.limited({'cpu.quota': 25000, 'cpu.period': 100_000}), \
            subprocess.Popen(
                ['docker', '--host', container.dockerd.url, 'exec',
                 container.id, 'timeout', '8', 'sh', '-c',
                 'while :; do :; done']):
        time.sleep(2)
        begin, used = time.monotonic(), container.cpu_seconds()
        time.sleep(5)
        share = (container.cpu_seconds() - used) / (time.monotonic() - begin)
    # Never more. Less, when the emulator itself had to wait for a CPU.
    assert 0.15 < share < 0.25 * 1.03
    assert container.figure('cpu.stat', 'nr_throttled') > 20


def test_memory_is_reclaimed_above_the_soft_limit(container):
    with container.limited({'memory.soft': 32 * MIB}):
        container.run('dd if=/dev/zero of=/file bs=1M count=64; rm /file')
        assert container.figure('memory.events', 'high') > 0
        assert int(container.read('memory.peak')) < 33 * MIB


def test_number_of_processes(container):
    with container.limited({'pids.max': 20}):
        done = container.run('for n in $(seq 30); do sleep 2 & done',
                             check=False)
        assert int(container.read('pids.current')) <= 20
    assert "can't fork" in done.stderr
    assert container.figure('pids.events', 'max') > 0
