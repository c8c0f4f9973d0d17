# SPDX-License-Identifier: Apache-2.0
"""What ``systemctl daemon-reload``, as any package's update, does to limits.

A reload writes the properties of each unit anew, and knows quotas in steps of
1 % of a CPU only. Seen with systemd 252.
"""

import os
import pathlib
import subprocess

import dockerd as dockerd_fixture
import pytest

MIB = 2**20


@pytest.fixture
def cgroupfs_engine():
    with dockerd_fixture.private(driver='cgroupfs') as found:
        yield found


def test_of_systemds_cgroups_a_reload_forgets_what_was_written(dockerd):
    # What the engine was told is kept, rounded.
    check_reload(dockerd, {
        'cpu.max': '58000 100000', 'memory.swap.max': 'max',
        'memory.high': 'max', 'pids.max': '200'})


def test_of_the_engines_cgroups_it_forgets_nothing(cgroupfs_engine):
    check_reload(cgroupfs_engine, {})


def check_reload(dockerd, changed):
    container = dockerd.docker(
        'run', '--detach', '--network=none', '--cpu-quota=57499',
        '--memory=128m', '--memory-swap=128m', '--pids-limit=200',
        dockerd_fixture.IMAGE, 'sleep', '1000').stdout.strip()
    pid = dockerd.engine.container(container)['State']['Pid']
    path = pathlib.Path(f'/proc/{pid}/cgroup').read_text().strip()
    cgroup = dockerd_fixture.CGROUPS / path.removeprefix('0::/')
    device = os.stat(dockerd.home).st_dev
    wanted = {
        'io.max': f'{os.major(device)}:{os.minor(device)} rbps=max '
                  f'wbps={2 * MIB} riops=max wiops=max',
        'cpu.max': '57499 100000', 'cpu.max.burst': '20000',
        'memory.max': str(128 * MIB), 'memory.swap.max': '0',
        'memory.high': str(32 * MIB), 'pids.max': '100'}
    for name in ('io.max', 'cpu.max.burst', 'memory.high', 'pids.max'):
        (cgroup / name).write_text(wanted[name])

    def found():
        return {name: (cgroup / name).read_text().strip() for name in wanted}

    assert found() == wanted
    subprocess.run(['systemctl', 'daemon-reload'], check=True)
    assert found() == wanted | changed
