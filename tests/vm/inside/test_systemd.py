# SPDX-License-Identifier: Apache-2.0
"""A server whose first process is systemd, with control groups of its own."""

import subprocess
import time
import uuid

import pytest

from nova_vcloud import boot
from nova_vcloud.virt_docker import spec

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
WISH = boot.Boot(init='systemd', command=('/sbin/init',))
DEFAULTS = spec.Defaults(
    runtime='nova-vcloud', cgroup_parent='', log_max_size_kib=64,
    log_max_files=2, no_new_privileges=True, capabilities=(
        'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'SETUID', 'SETGID',
        'SETPCAP', 'SETFCAP', 'SYS_CHROOT', 'AUDIT_WRITE', 'KILL',
        'NET_BIND_SERVICE', 'NET_RAW', 'MKNOD'))


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
def server(dockerd, image):
    name = f'nova-{uuid.uuid4()}'
    netns = f'vm-{uuid.uuid4().hex[:8]}'
    subprocess.run(['ip', 'netns', 'add', netns], check=True)
    found = dockerd.engine.create(name, {
        'Image': image, 'Tty': True, **spec.start(WISH),
        'HostConfig': {
            'Runtime': 'nova-vcloud', 'NetworkMode': 'none',
            'Memory': 256 * 2**20, **spec.SYSTEMD,
            **spec.privileges(WISH, DEFAULTS)}})
    dockerd.links.mkdir(exist_ok=True)
    (dockerd.links / found).symlink_to(f'/run/netns/{netns}')
    dockerd.engine.start(found)
    yield found
    dockerd.engine.remove(found)
    (dockerd.links / found).unlink()
    subprocess.run(['ip', 'netns', 'del', netns], check=True)


def inside(dockerd, server, script):
    done = dockerd.docker('exec', server, 'sh', '-c', script, check=False)
    return (done.stdout + done.stderr).strip()


def booted(dockerd, server):
    deadline = time.monotonic() + BOOTED
    while True:
        state = inside(dockerd, server, 'systemctl is-system-running')
        if state in {'running', 'degraded'}:
            return state
        assert time.monotonic() < deadline, (
            state, dockerd.engine.logs(server, 10000).decode())
        time.sleep(1)


@pytest.mark.timeout(600)  # with the image, which is made for it
def test_systemd_boots_and_cannot_lift_the_limits_of_its_server(
        dockerd, server):
    state = booted(dockerd, server)
    failed = inside(dockerd, server, 'systemctl --failed --plain --no-legend')
    assert (state, failed) == ('running', '')
    assert inside(dockerd, server, 'cat /proc/1/comm') == 'systemd'
    # Its services are in groups of their own, with their own limits.
    inside(dockerd, server, 'systemd-run --unit=own --property=MemoryMax=50M '
                            '--property=TasksMax=20 sleep 1000')
    assert inside(dockerd, server, 'systemctl is-active own') == 'active'
    group = '/sys/fs/cgroup/system.slice/own.service'
    assert inside(dockerd, server, f'cat {group}/memory.max') == '52428800'
    # The server's limits are the files of what it sees as the root.
    for name, text in (('memory.max', 'max'), ('pids.max', 'max'),
                       ('cgroup.max.descendants', 'max')):
        before = inside(dockerd, server, f'cat /sys/fs/cgroup/{name}')
        said = inside(dockerd, server,
                      f'echo {text} >/sys/fs/cgroup/{name}; echo $?')
        assert said.splitlines()[-1] != '0', (name, said)
        assert inside(dockerd, server,
                      f'cat /sys/fs/cgroup/{name}') == before
    assert inside(dockerd, server, 'cat /sys/fs/cgroup/memory.max') == str(
        256 * 2**20)
    assert inside(dockerd, server,
                  'cat /sys/fs/cgroup/cgroup.max.descendants') == '1000'
    dockerd.docker('stop', '--time', '60', server)
    assert dockerd.docker('inspect', '--format={{.State.ExitCode}}',
                          server).stdout.strip() != '137'
