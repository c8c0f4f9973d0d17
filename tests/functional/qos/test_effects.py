# SPDX-License-Identifier: Apache-2.0
"""What limits do to processes, on this host's kernel and a real engine."""

import os
import pathlib
import signal
import subprocess
import uuid

from cgroup_box import ROOT
from cgroup_box import Box
from cgroup_box import box
import dockerd as dockerd_fixture
import leaks
import pytest

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import hosts
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.backends import docker
from nova_vcloud.qos.disk import devices
from nova_vcloud.qos.disk import loop_file

__all__ = ['box']

MIB = 1 << 20
MB = 1_000_000
#: Says what it holds, then holds it until it is told more.
HOLDER = '''
import sys
held = bytearray(int(sys.argv[1]))
held[::4096] = b'x' * len(held[::4096])  # pages exist once written to
print('held', flush=True)
sys.stdin.read()
'''
FORKER = '''
import os, signal
children = []
try:
    for _ in range(100):
        child = os.fork()
        if not child:
            signal.pause()
        children.append(child)
except BlockingIOError:
    pass
print(len(children))
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
'''
#: Requests from argv; prints seconds from the first's end to the last's.
DISK = '''
import mmap, os, sys, time
path, way, direct, block, count = sys.argv[1:3] + [*map(int, sys.argv[3:])]
fd = os.open(path, os.O_RDWR | direct * os.O_DIRECT)
buffer = mmap.mmap(-1, block)  # aligned, as O_DIRECT wants it
for number in range(count + 1):
    if way == 'read':
        os.preadv(fd, [buffer], number * block)
    else:
        os.pwritev(fd, [buffer], number * block)
        if not direct:
            os.fdatasync(fd)
    if not number:
        start = time.monotonic()
print(time.monotonic() - start)
'''
FILE_SIZE = 48 * MIB


# Memory and processes


def test_more_memory_than_allowed_is_killed(box):
    box.set(memory_max=64 * MIB, memory_swap=0)
    with box.start(HOLDER, 128 * MIB) as process:
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert box.backend.events(box.guest)['oom_kill'] == 1


def test_memory_in_use_is_told_and_pages_of_files_are_not(box, tmp_path):
    path = tmp_path / 'file'
    box.run('import sys; open(sys.argv[1], "wb").write(bytes(48 << 20))',
            path)
    assert box.backend.use(box.guest)['memory'] < 16 * MIB
    with box.start(HOLDER, 48 * MIB) as process:
        assert process.stdout.readline() == 'held\n'
        found = box.backend.use(box.guest)
        process.communicate(timeout=30)
    assert 48 * MIB <= found['memory'] <= 70 * MIB
    assert found['pids'] == 1


@pytest.mark.skipif((ROOT / 'cgroup.controllers').exists(),
                    reason='cgroup v2 takes a memory.max below the usage, '
                           'and kills')
def test_less_memory_than_in_use_is_refused_and_changes_nothing(box):
    wanted = {limits.Key('memory', 'max'): 96 * MIB,
              limits.Key('memory', 'swap'): 0}
    box.change(wanted)
    with box.start(HOLDER, 64 * MIB) as process:
        assert process.stdout.readline() == 'held\n'
        with pytest.raises(
                exception.LimitNotEnforced,
                match=r'memory\.max=\d+: .*busy.*; \d{8} bytes are in use'):
            box.set(memory_max=32 * MIB)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert box.backend.read(box.guest, wanted) == limits.Limits(wanted)


def test_processes_are_refused_at_the_limit(box):
    box.set(pids_max=20)
    assert int(box.run(FORKER)) == 19
    assert box.backend.events(box.guest)['fork_refused'] == 1


# CPU


@pytest.mark.parametrize(('period', 'quota'), [
    (100_000, 20_000), (10_000, 1500), (50_000, 12_345)])
def test_cpu_time_is_what_the_quota_says(box, period, quota):
    box.set(cpu_period=period, cpu_quota=quota)
    used = float(box.run(
        'import time\n'
        'end = time.monotonic() + 2\n'
        'while time.monotonic() < end: pass\n'
        'print(time.process_time())'))
    # A busy host may give less; more would be no limit.
    assert used / 2 <= quota / period * 1.15 + 0.02
    assert used / 2 >= quota / period * 0.5


# Disks


@pytest.fixture
def folder(request, tmp_path):
    """A directory on the host's disk, or on a root disk in a file there."""
    if getattr(request, 'param', 'layer') == 'layer':
        yield tmp_path
        return
    place = tmp_path / 'mount'
    place.mkdir()
    loop_file.make(str(tmp_path / 'disk'), 512 * MIB, whole=False)
    loop_file.attach(str(tmp_path / 'disk'), str(place), whole=False)
    yield place
    subprocess.run(['umount', place], check=True)
    assert not leaks.loops_left(tmp_path)


@pytest.fixture
def file(folder):
    """A file on a disk, in no page cache."""
    path = folder / 'file'
    path.write_bytes(os.urandom(FILE_SIZE))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return path


@pytest.mark.matrix('guest.disk.rate-limit')
@pytest.mark.parametrize('folder', ['layer', 'file'], indirect=True)
@pytest.mark.parametrize(('kind', 'direct', 'block', 'count', 'value'), [
    ('read_bps', 1, MIB, 20, 10 * MB), ('read_bps', 0, MIB, 20, 10 * MB),
    ('write_bps', 1, MIB, 20, 10 * MB), ('write_bps', 0, MIB, 20, 10 * MB),
    ('read_iops', 1, 4096, 400, 200), ('write_iops', 1, 4096, 400, 200)])
def test_disks_are_as_fast_as_allowed(box, tmp_path, file, kind, direct,
                                      block, count, value):
    key = limits.Key('io', kind, devices.device_of(str(tmp_path)))
    way, unit = kind.split('_')
    amount = count * (block if unit == 'bps' else 1)
    box.change({key: value})
    seconds = float(box.run(DISK, file, way, direct, block, count))
    # A throttle hands out a tenth of a second at a time, and what else the
    # machine does may only make it slower.
    assert amount / value * 0.85 <= seconds <= amount / value * 2


def test_a_disk_limit_that_is_taken_away_is_gone(box, file):
    key = limits.Key('io', 'write_bps', devices.device_of(str(file)))
    box.change({key: MB})
    box.change({key: limits.UNLIMITED})
    assert float(box.run(DISK, file, 'write', 1, MIB, 20)) < 10


def test_a_disk_that_is_not_there_is_named(box):
    key = limits.Key('io', 'write_bps', '4095:7')
    with pytest.raises(exception.LimitNotEnforced,
                       match=r'io\.4095:7\.write_bps.*No such device'):
        box.change({key: MB})


# The engine's update


def disk_of(dockerd) -> tuple[str, str]:
    """Return number and path of the disk under an engine."""
    number = devices.device_of(str(dockerd.home))
    uevent = pathlib.Path('/sys/dev/block', number, 'uevent').read_text()
    name = next(line.removeprefix('DEVNAME=') for line in uevent.splitlines()
                if line.startswith('DEVNAME='))
    return number, f'/dev/{name}'


@pytest.fixture
def container(dockerd):
    """Start a container; return its Box."""
    made = []

    def start(host_config):
        name = f'nova-{uuid.uuid4()}'
        made.append(dockerd.engine.create(name, {
            'Image': dockerd_fixture.IMAGE,
            'HostConfig': {'NetworkMode': 'none', **host_config}}))
        dockerd.engine.start(name)
        pid = dockerd.engine.container(name)['State']['Pid']
        rows = pathlib.Path('/proc', str(pid), 'cgroup').read_text()
        paths = {names: path for _number, names, path in (
            row.split(':', 2) for row in rows.splitlines())}
        return Box(hosts.cgroup_here(), Guest(
            '', name, paths.get('blkio') or paths['']))
    yield start
    for name in made:
        dockerd.engine.remove(name)


def test_an_update_brings_back_what_the_engine_knows_of_disks(dockerd,
                                                              container):
    """Why it is never told: its own limits come over later ones."""
    number, path = disk_of(dockerd)
    box = container({'BlkioDeviceWriteBps': [
        {'Path': path, 'Rate': 5 * MB}]})
    key = limits.Key('io', 'write_bps', number)
    assert box.backend.read(box.guest, [key])[key] == 5 * MB
    box.change({key: 20 * MB})
    assert box.backend.read(box.guest, [key])[key] == 20 * MB
    dockerd.engine.update(box.guest.name, {'PidsLimit': 100})
    assert box.backend.read(box.guest, [key])[key] == 5 * MB


def test_an_update_leaves_disks_alone_that_the_engine_does_not_know(
        dockerd, container):
    number, _path = disk_of(dockerd)
    box = container({})
    keys = {limits.Key('io', f'{way}_{unit}', number): 1000 * MB
            for way in ('read', 'write') for unit in ('bps', 'iops')}
    box.change(keys)
    docker.DockerBackend(dockerd.engine).apply(box.guest, [
        base.Change(limits.Key(*kind.split('.')), limits.UNLIMITED, value)
        for kind, value in {'pids.max': 100, 'cpu.shares': 512,
                            'memory.max': 64 * MIB, 'memory.swap': 0,
                            'cpu.cpus': frozenset({0})}.items()])
    assert box.backend.read(box.guest, keys) == limits.Limits(keys)


def test_an_engine_forgets_a_set_by_naming_all(dockerd, container):
    """An update takes '' for "as it is"."""
    box, backend = container({}), docker.DockerBackend(dockerd.engine)
    key = limits.Key('cpu', 'cpus')
    everything = box.backend.read(box.guest, [key])[key]
    backend.apply(box.guest, [base.Change(
        key, limits.UNLIMITED, frozenset({0}))])
    assert box.backend.read(box.guest, [key])[key] == {0}
    backend.apply(box.guest, [base.Change(
        key, frozenset({0}), limits.UNLIMITED)])
    assert box.backend.read(box.guest, [key])[key] == everything
    assert backend.matches(key, limits.UNLIMITED,
                           backend.read(box.guest, [key])[key])
