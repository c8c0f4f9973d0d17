# SPDX-License-Identifier: Apache-2.0
"""Limits of containers under systemd and cgroup v2, by what they do."""

import contextlib
import os
import pathlib
import re
import subprocess
import time

import dockerd as dockerd_fixture
import pytest

CGROUPS = pathlib.Path('/sys/fs/cgroup')
MIB = 2**20


class Container:
    """A running container and its cgroup."""

    def __init__(self, dockerd):
        self.dockerd = dockerd
        self.id = dockerd.docker(
            'run', '--detach', '--network=none', dockerd_fixture.IMAGE,
            'sleep', '1000').stdout.strip()
        pid = dockerd.engine.container(self.id)['State']['Pid']
        line = pathlib.Path(f'/proc/{pid}/cgroup').read_text()
        self.cgroup = re.fullmatch(r'0::(/.*)\n', line)[1]

    def read(self, name):
        return (CGROUPS / self.cgroup[1:] / name).read_text()

    @contextlib.contextmanager
    def limited(self, name, text, free):
        """Have a limit for a while; ``free`` is the text of none."""
        file = CGROUPS / self.cgroup[1:] / name
        file.write_text(text)
        yield
        file.write_text(free)

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


def test_every_controller_is_version_2():
    found = (CGROUPS / 'cgroup.controllers').read_text().split()
    assert {'cpu', 'cpuset', 'io', 'memory', 'pids'} <= set(found)


def test_the_engine_leaves_cgroups_to_systemd(dockerd, container):
    info = dockerd.engine.info()
    assert (info['CgroupVersion'], info['CgroupDriver']) == ('2', 'systemd')
    assert container.cgroup == (
        f'/{dockerd.cgroup_parent}/docker-{container.id}.scope')


def disk_of(path):
    """Return major:minor of the whole disk below a path."""
    device = os.stat(path).st_dev
    return f'{os.major(device)}:{os.minor(device)}'


@pytest.mark.parametrize('flags', ['conv=fsync', 'oflag=direct'])
def test_written_bytes_a_second(dockerd, container, flags):
    def seconds():
        begin, end, _ = container.run(
            'cat /proc/uptime; '
            f'dd if=/dev/zero of=/file bs=1M count=8 {flags} 2>/dev/null; '
            'cat /proc/uptime; rm /file').stdout.split('\n')
        return float(end.split()[0]) - float(begin.split()[0])

    assert seconds() < 3
    disk = disk_of(dockerd.home)
    with container.limited('io.max', f'{disk} wbps={2 * MIB}',
                           f'{disk} wbps=max'):
        # Never faster; the file system writes some more than the file.
        assert 0.98 * 4 < seconds() < 1.15 * 4


def test_share_of_a_cpu(container):
    with container.limited('cpu.max', '25000 100000', 'max'), \
            subprocess.Popen(
                ['docker', '--host', container.dockerd.url, 'exec',
                 container.id, 'timeout', '8', 'sh', '-c',
                 'while :; do :; done']):
        time.sleep(2)
        begin, used = time.monotonic(), container.cpu_seconds()
        time.sleep(5)
        share = (container.cpu_seconds() - used) / (time.monotonic() - begin)
    assert share == pytest.approx(0.25, rel=0.03)


def test_memory_is_reclaimed_above_the_soft_limit(container):
    with container.limited('memory.high', str(32 * MIB), 'max'):
        container.run('dd if=/dev/zero of=/file bs=1M count=64; rm /file')
        assert container.figure('memory.events', 'high') > 0
        assert int(container.read('memory.peak')) < 33 * MIB


def test_number_of_processes(container):
    with container.limited('pids.max', '20', 'max'):
        done = container.run('for n in $(seq 30); do sleep 2 & done',
                             check=False)
        assert int(container.read('pids.current')) <= 20
    assert "can't fork" in done.stderr
    assert container.figure('pids.events', 'max') > 0
