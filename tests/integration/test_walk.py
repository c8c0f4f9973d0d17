# SPDX-License-Identifier: Apache-2.0
"""A tenant's own way through all that a guest has, by openstack's client."""

from collections.abc import Iterator
import contextlib
import json
import pathlib
import subprocess
from typing import Any

from desk import Desk
from desk import until
import pytest
from viewer import Viewer

from mini import services

USER_DATA = '#!/bin/sh\necho "of $(hostname)" >/root/ran\n'


class Tenant:
    """Someone with an account, a key and the client.

    :param folder: for the key
    """

    def __init__(self, desk: Desk, folder: pathlib.Path) -> None:
        self._desk = desk
        self.key = folder / 'key'
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f',
                        self.key], check=True)

    def says(self, *words: str) -> str:
        """Run the client; return what it prints."""
        done = subprocess.run(
            [f'{self._desk.cloud.venv}/bin/openstack', *words],
            env=services.environment(self._desk.cloud, 'step') | {
                'OS_CLIENT_CONFIG_FILE': str(
                    self._desk.cloud.etc / 'clouds.yaml'),
                'OS_CLOUD': 'minicloud-demo', 'NO_PROXY': '127.0.0.1'},
            capture_output=True, text=True, check=False)
        assert done.returncode == 0, f'{words}: {done.stderr}'
        return done.stdout

    def shows(self, *words: str) -> Any:
        """Run the client; return what it shows."""
        return json.loads(self.says(*words, '-f', 'json'))

    def inside(self, address: str, command: str) -> str:
        """Run a command in a server by ssh; return both its outputs."""
        done = self._desk.lan(
            'ssh', '-i', str(self.key), '-o', 'BatchMode=yes',
            '-o', 'StrictHostKeyChecking=no', '-o', 'ConnectTimeout=5',
            '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR',
            f'root@{address}', f'{{ {command}; }} 2>&1')
        # ssh's own failure; a command's is the test's to judge.
        return '' if done.returncode == 255 else done.stdout


@pytest.fixture
def tenant(desk: Desk, tmp_path: pathlib.Path) -> Iterator[Tenant]:
    """A tenant with a key pair."""
    found = Tenant(desk, tmp_path)
    found.says('keypair', 'create', '--public-key', f'{found.key}.pub',
               'walker')
    try:
        yield found
    finally:
        found.says('keypair', 'delete', 'walker')


@pytest.fixture
def server(tenant: Tenant, tmp_path: pathlib.Path) -> Iterator[dict]:
    """A server of the tenant's, as the client shows it."""
    script = tmp_path / 'user-data'
    script.write_text(USER_DATA)
    shown = tenant.shows(
        'server', 'create', '--image', 'debian-12', '--flavor', 'c1.small',
        '--network', 'lan', '--key-name', 'walker', '--user-data', str(script),
        '--config-drive', 'True', '--property', 'role=web', '--wait', 'walk')
    try:
        yield shown
    finally:
        tenant.says('server', 'delete', '--wait', shown['id'])


def address(shown: dict[str, Any]) -> str:
    """Return a server's IPv4 address."""
    return next(each for each in shown['addresses']['lan'] if '.' in each)


@pytest.mark.slow
def test_what_a_guest_has(desk: Desk, tenant: Tenant, server: dict):
    own = address(server)
    until(lambda: tenant.inside(own, 'hostname') == 'walk\n', 60, 'ssh')
    until(lambda: tenant.inside(own, 'cat /root/ran') == 'of walk\n', 30,
          'user data')
    assert '"role": "web"' in tenant.inside(
        own, 'cat /var/lib/cloud/seed/config_drive/openstack/latest/'
        'meta_data.json')
    first = tenant.inside(own, 'stat -c %Y /proc/1')

    root_disk(tenant, own)
    console(tenant, own)
    interface(tenant, own)
    volume(tenant, own)
    # All that came and went while it ran.
    assert tenant.inside(own, 'stat -c %Y /proc/1') == first


def root_disk(tenant: Tenant, own: str) -> None:
    size, free = tenant.inside(own, 'df -m --output=size,avail / | tail -1'
                               ).split()
    assert size == '2048'
    assert 'No space left' in tenant.inside(
        own, f'head -c {3 << 30} /dev/zero >/full')
    again = tenant.inside(own, 'rm /full; df -m --output=avail / | tail -1')
    assert int(again) > int(free) - 10


def console(tenant: Tenant, own: str) -> None:
    assert 'starting sshd' in tenant.says('console', 'log', 'show', 'walk')
    tenant.says('server', 'set', '--password', 'Secret 7', 'walk')
    until(lambda: tenant.inside(own, 'grep ^root: /etc/shadow').startswith(
        'root:$'), 30, 'the password')
    url = tenant.shows('console', 'url', 'show', '--serial', 'walk')['url']
    with contextlib.closing(Viewer(url)) as viewer:
        viewer.log_in(b'Secret 7')
        viewer.type(b'echo $((6*7)) on $(hostname)\r', b'42 on walk')
        viewer.type(b'exit\r', b'login: ')


def interface(tenant: Tenant, own: str) -> None:
    port = tenant.shows('port', 'create', '--network', 'lan', 'walk-second')
    try:
        new = next(each['ip_address'] for each in port['fixed_ips']
                   if '.' in each['ip_address'])
        tenant.says('server', 'add', 'port', 'walk', port['id'])
        assert f'inet {new}/24' in tenant.inside(own, 'ip addr show eth1')
        until(lambda: tenant.inside(new, 'hostname') == 'walk\n', 60,
              'it answers there too')
        tenant.says('server', 'remove', 'port', 'walk', port['id'])
        until(lambda: 'does not exist' in tenant.inside(
            own, 'ip addr show eth1'), 30, 'eth1 gone')
    finally:
        tenant.says('port', 'delete', port['id'])


def volume(tenant: Tenant, own: str) -> None:
    made = tenant.shows('volume', 'create', '--size', '1', 'walk-data')['id']

    def status(wanted: str) -> None:
        until(lambda: tenant.shows('volume', 'show', made)['status'] == wanted,
              60, f'volume {wanted}')

    status('available')
    try:
        tenant.says('server', 'add', 'volume', 'walk', made)
        status('in-use')
        size, = tenant.inside(own, 'df -m --output=size /volumes/vdb | tail -1'
                              ).split()
        assert 900 < int(size) <= 1024
        assert not tenant.inside(own, 'echo kept >/volumes/vdb/note; sync')
        tenant.says('server', 'remove', 'volume', 'walk', made)
        status('available')
        assert not tenant.inside(own, 'ls /volumes')
    finally:
        tenant.says('volume', 'delete', made)
