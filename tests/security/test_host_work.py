# SPDX-License-Identifier: Apache-2.0
"""Work that a server has the host do: within its cgroup, or bounded."""

from __future__ import annotations

from collections.abc import Iterator
import logging
import pathlib
import subprocess
import time

import computehost
import dockerd as dockerd_fixture
import lan as lan_fixture
import pytest

from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import etc_files
from nova_vcloud.virt_docker.guest import events
from nova_vcloud.virt_docker.guest import hosts_file

CHECKED = 'vcloud-test/checked'
#: Needs more memory than a server of 32 MiB has, again and again.
HOGS = ('while :; do for n in 1 2 3 4; do tail /dev/zero & done; wait; '
        'done >/dev/null 2>&1 &')


@pytest.fixture
def host(dockerd, lan, tmp_path) -> Iterator[computehost.ComputeHost]:
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)


@pytest.fixture(scope='module')
def checked(dockerd) -> Iterator[str]:
    """An image that has the engine run a program every millisecond."""
    dockerd.docker('create', '--name', 'for-checked', '--runtime', 'runc',
                   dockerd_fixture.IMAGE)
    dockerd.docker('commit', '--change',
                   'HEALTHCHECK --interval=1ms CMD true', 'for-checked',
                   CHECKED)
    dockerd.docker('rm', 'for-checked')
    yield CHECKED
    dockerd.docker('rmi', CHECKED)


def spawn(host, **specs):
    instance = host.instance(**specs)
    host.spawn(instance, host.ports())
    return instance


def test_an_images_health_check_is_not_run(dockerd, lan, tmp_path, checked):
    """At 1 ms it cost the host half a core, outside all limits."""
    host = computehost.ComputeHost(dockerd, lan, tmp_path / 'r',
                                   image=checked)
    assert dockerd.engine.image_get(f'{checked}:latest')[
        'Config']['Healthcheck']['Test'] == ['CMD-SHELL', 'true']
    instance = spawn(host)
    try:
        found = host.container(instance)
        assert found['Config']['Healthcheck']['Test'] == ['NONE']
        assert 'Health' not in found['State']
        listed, = dockerd.engine.containers(server_labels.of_host(
            computehost.NAME))
        assert '(' not in listed['Status']
    finally:
        host.containers.destroy(instance.uuid)


def cgroups(process: str | int) -> dict[str, str]:
    """Return {controllers: cgroup} of a process."""
    lines = pathlib.Path(f'/proc/{process}/cgroup').read_text().split()
    return {name: path for _number, name, path in (
        line.split(':', 2) for line in lines)}


def test_what_is_started_for_a_server_is_in_its_cgroup(host):
    """Also what nova-compute has run in it, as for a password."""
    instance = spawn(host)
    name = container_spec.container_name(instance.uuid)
    own = cgroups(host.container(instance)['State']['Pid'])
    limited = {key: path for key, path in own.items()
               if {'cpu', 'memory', 'pids', ''} & set(key.split(','))}
    assert all(path == host.cgroup(instance) for path in limited.values())
    host.dockerd.engine.begin(name, ['sleep', '987'])
    code, said = host.dockerd.engine.run(name, ['sleep', '0'])
    assert (code, said) == (0, b'')
    sleeper, = subprocess.run(
        ['pgrep', '-f', '^sleep 987$'], capture_output=True, text=True,
        check=True).stdout.split()
    found = cgroups(sleeper)
    assert {key: found[key] for key in limited} == limited


def test_a_flood_of_killed_processes_is_told_once(host, caplog):
    """And another server's end is heard meanwhile."""
    told: list[tuple[str, int]] = []
    hungry, other = spawn(host, memory_mb=32), spawn(host)
    feed = events.EventFeed(
        host.dockerd.engine, server_labels.of_host(computehost.NAME), 0.0,
        host.containers.follow, host.containers.claim_start,
        lambda uuid, what: told.append((uuid, what)),
        host.containers.verify)
    with caplog.at_level(logging.WARNING):
        feed.start()
        try:
            host.dockerd.engine.run(container_spec.container_name(hungry.uuid),
                                    ['sh', '-c', HOGS])
            lan_fixture.wait_until(lambda: killed(host, hungry) >= 20, 60)
            host.dockerd.engine.stop(container_spec.container_name(other.uuid),
                                     0)
            lan_fixture.wait_until(
                lambda: (other.uuid, events.STOPPED) in told, 60)
        finally:
            feed.stop()
    lines = [record for record in caplog.records
             if 'reached its memory limit' in record.getMessage()]
    assert [record.args[0] for record in lines] == [hungry.uuid]


def killed(host, instance) -> int:
    """Return how many processes of a server the kernel killed."""
    guest = host.keeper.record(instance.uuid).guest
    return host.parts.cgroup.events(guest)['oom_kill']


def test_what_runs_in_a_server_is_no_news(host):
    """The engine keeps events of health checks and programs to itself."""
    instance = spawn(host)
    name = container_spec.container_name(instance.uuid)
    stream = host.dockerd.engine.events(
        server_labels.of_host(computehost.NAME), events.ACTIONS)
    for _ in range(5):
        host.dockerd.engine.run(name, ['true'])
    host.dockerd.engine.pause(name)
    assert next(iter(stream))['status'] == 'pause'
    stream.close()
    host.dockerd.engine.unpause(name)


def test_a_long_hosts_file_takes_no_time():
    """Of those that are read it took 2.6 s, for each change of an address."""
    ours = ''.join(f'{number}{hosts_file.MARK}\n' for number in range(2600))
    hosts = ours + 'a\n' * ((etc_files.MAX_SIZE - len(ours)) // 2)
    began = time.process_time()
    found = hosts_file.renewed(hosts, 'x', 'x', 'y', ['192.0.2.1/24'])
    assert time.process_time() - began < 0.5
    assert found[hosts_file.HOSTS_PATH].startswith('192.0.2.1\ty\t# nova\na\n')
