# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime where the engine leaves cgroups to systemd."""

import os
import subprocess
import uuid

import dockerd as dockerd_fixture
import pytest


@pytest.fixture
def netns():
    name = f'vm-{uuid.uuid4().hex[:8]}'
    subprocess.run(['ip', 'netns', 'add', name], check=True)
    yield f'/run/netns/{name}'
    subprocess.run(['ip', 'netns', 'del', name], check=True)


@pytest.fixture
def created(dockerd, netns):
    """A container of our runtime that shows its own limits and ends."""
    found = dockerd.engine.create(f'nova-{uuid.uuid4()}', {
        'Image': dockerd_fixture.IMAGE,
        'Cmd': ['/bin/sh', '-c',
                'cd /sys/fs/cgroup; cat io.max cpu.max.burst; ls /proc/1/ns'],
        'HostConfig': {'Runtime': 'nova-vcloud', 'NetworkMode': 'none',
                       'CpuPeriod': 100000, 'CpuQuota': 50000}})
    dockerd.links.mkdir(exist_ok=True)
    (dockerd.links / found).symlink_to(netns)
    yield found
    dockerd.engine.remove(found)
    for left in dockerd.links.iterdir():
        left.unlink()


def scope(dockerd, container):
    return (dockerd_fixture.CGROUPS / dockerd.cgroup_parent
            / f'docker-{container}.scope')


def write_limits(dockerd, container, *lines):
    path = scope(dockerd, container)
    (dockerd.links / f'{container}.limits').write_text(
        '#{}\n' + ''.join(f'{path}/{line}\n' for line in lines))


def test_limits_are_in_force_when_the_first_process_runs(dockerd, created):
    device = os.stat(dockerd.home).st_dev
    disk = f'{os.major(device)}:{os.minor(device)}'
    write_limits(dockerd, created, f'io.max {disk} wbps=1048576',
                 'cpu.max.burst 20000')
    dockerd.engine.start(created)
    dockerd.docker('wait', created)
    shown = dockerd.engine.logs(created, 10000).decode()
    assert f'{disk} rbps=max wbps=1048576 riops=max wiops=max' in shown
    assert '\n20000\n' in shown


def test_no_start_without_the_limits(dockerd, created):
    write_limits(dockerd, created, 'io.max nonsense')
    done = dockerd.docker('start', created, check=False)
    assert 'limit nonsense cannot be written' in done.stderr
    assert not scope(dockerd, created).exists()
