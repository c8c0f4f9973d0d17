# SPDX-License-Identifier: Apache-2.0
"""A server whose first process is systemd, with control groups of its own."""

import subprocess
import time

import computehost
import lan as lan_fixture
import pytest

from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.rootfs import freezer

IMAGE = 'vcloud-test/systemd'
#: Of this machine itself, which is a Debian; what no container needs.
EXCLUDED = (
    'usr/lib/modules', 'usr/lib/python3*', 'usr/include', 'usr/libexec/docker',
    *(f'usr/share/{name}' for name in (
        'doc', 'i18n', 'info', 'locale', 'man', 'perl*', 'python*',
        'zoneinfo')),
    *(f'usr/bin/{name}' for name in (
        'containerd*', 'ctr', 'docker*', 'perl*', 'python3*')),
    *(f'usr/sbin/{name}' for name in ('docker*', 'runc')),
    *(f'usr/lib/x86_64-linux-gnu/{name}' for name in (
        'gconv', 'libpython*', 'perl*')))
BOOTED = 150.0  # seconds, emulated
CAPABILITIES = (
    'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'SETUID', 'SETGID',
    'SETPCAP', 'SETFCAP', 'SYS_CHROOT', 'AUDIT_WRITE', 'KILL',
    'NET_BIND_SERVICE', 'NET_RAW', 'MKNOD')
MEMORY = 256  # MiB


@pytest.fixture(scope='module')
def image(dockerd):
    """This machine's own system as an image."""
    words = ['tar', '--create', '--directory=/', '--one-file-system',
             *(f'--exclude={path}' for path in EXCLUDED),
             'bin', 'sbin', 'lib', 'lib64', 'usr', 'etc', 'var/lib/dbus']
    with subprocess.Popen(words, stdout=subprocess.PIPE) as tar:
        subprocess.run(['docker', '--host', dockerd.url, 'import', '-', IMAGE],
                       check=True, stdin=tar.stdout, capture_output=True)
    return IMAGE


@pytest.fixture
def host(dockerd, image, tmp_path):
    with lan_fixture.private(str(dockerd.links)) as lan:
        yield computehost.ComputeHost(dockerd, lan, tmp_path, image=image,
                                      capabilities=CAPABILITIES)


@pytest.fixture
def ports(host):
    return host.ports()


@pytest.fixture
def server(host, ports):
    found = host.instance(memory_mb=MEMORY, vcloud__init='systemd',
                          vcloud__command='/sbin/init')
    host.spawn(found, ports)
    yield found
    host.containers.destroy(found.uuid)


def inside(host, server, script):
    done = host.dockerd.docker(
        'exec', container_spec.container_name(server.uuid), 'sh', '-c',
        script, check=False)
    return (done.stdout + done.stderr).strip()


def booted(host, server):
    deadline = time.monotonic() + BOOTED
    while True:
        state = inside(host, server, 'systemctl is-system-running')
        if state in {'running', 'degraded'}:
            return state
        assert time.monotonic() < deadline, (
            state, host.containers.console(server.uuid).decode())
        time.sleep(1)


@pytest.mark.timeout(600)  # with the image, which is made for it
def test_systemd_boots_and_cannot_lift_the_limits_of_its_server(
        host, server, ports):
    state = booted(host, server)
    failed = inside(host, server, 'systemctl --failed --plain --no-legend')
    assert (state, failed) == ('running', '')
    assert inside(host, server, 'cat /proc/1/comm') == 'systemd'
    # Its services are in groups of their own, with their own limits.
    inside(host, server, 'systemd-run --unit=own --property=MemoryMax=50M '
                         '--property=TasksMax=20 sleep 1000')
    assert inside(host, server, 'systemctl is-active own') == 'active'
    group = '/sys/fs/cgroup/system.slice/own.service'
    assert inside(host, server, f'cat {group}/memory.max') == '52428800'
    # The server's limits are the files of what it sees as the root.
    for name, text in (('memory.max', 'max'), ('pids.max', 'max'),
                       ('cgroup.max.descendants', 'max')):
        before = inside(host, server, f'cat /sys/fs/cgroup/{name}')
        said = inside(host, server,
                      f'echo {text} >/sys/fs/cgroup/{name}; echo $?')
        assert said.splitlines()[-1] != '0', (name, said)
        assert inside(host, server, f'cat /sys/fs/cgroup/{name}') == before
    assert inside(host, server, 'cat /sys/fs/cgroup/memory.max') == str(
        MEMORY << 20)
    assert inside(host, server,
                  'cat /sys/fs/cgroup/cgroup.max.descendants') == '1000'
    assert not host.keeper.status(server.uuid).drift
    # Its first process is in a group below the one that is frozen.
    container = host.container(server)
    assert freezer.still_moment(container['Id'], container['State']['Pid'])
    assert inside(host, server, 'cat /proc/1/comm') == 'systemd'
    host.containers.stop(server.uuid, 60)
    assert host.container(server)['State']['ExitCode'] != 137
    host.containers.start(server, ports)
    assert host.containers.running(server.uuid)
