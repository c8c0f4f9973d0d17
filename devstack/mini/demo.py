# SPDX-License-Identifier: Apache-2.0
"""`minicloud demo`: servers with the addresses that were asked for."""

from collections.abc import Sequence
import dataclasses
import os
import shlex
import subprocess
import time
from typing import Any

from openstack import connection

from mini import access
from mini import config
from mini import errors
from mini import identity
from mini import seed
from mini import services
from mini import settings
from mini import steps

WAIT_SECONDS = 180
SSH_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A server of the demo."""

    name: str
    image: str
    flavor: str
    host: str
    address: str


def plan(hosts: Sequence[str]) -> list[Wanted]:
    """Return the demo's servers: debian-12 and tiny, on two hosts."""
    first, second = hosts[0], hosts[-1]
    debian, tiny = ('debian-12', 'c1.small'), ('tiny', 'c1.tiny')
    return [
        Wanted('demo-web1', *debian, first, '10.77.0.11'),
        Wanted('demo-web2', *debian, second, '10.77.0.12'),
        Wanted('demo-tiny1', *tiny, first, '10.77.0.21'),
        Wanted('demo-tiny2', *tiny, second, '10.77.0.22'),
    ]


def addresses(server: Any) -> list[str]:
    """Return a server's addresses, as Nova tells them."""
    nets: dict[str, list[dict[str, Any]]] = server.addresses or {}
    return [entry['addr'] for net in nets.values() for entry in net]


def is_as_wanted(server: Any, wanted: Wanted) -> bool:
    """Tell whether a server is what the demo would boot."""
    return (
        server.status == 'ACTIVE'
        and server.compute_host == wanted.host
        and wanted.address in addresses(server)
    )


def command_line(wanted: Wanted) -> str:
    """Return the command that boots the same server."""
    return (
        'openstack --os-compute-api-version 2.74 server create '
        f'--image {wanted.image} --flavor {wanted.flavor} '
        f'--key-name {seed.KEYPAIR} --host {wanted.host} '
        f'--nic net-id={seed.NETWORK},v4-fixed-ip={wanted.address} '
        f'--wait {wanted.name}'
    )


def _delete(api: connection.Connection, servers: list[Any]) -> None:
    """Delete servers and wait until they are gone."""
    for server in servers:
        api.compute.delete_server(server)
    for server in servers:
        api.compute.wait_for_delete(server, interval=0.5, wait=WAIT_SECONDS)


def _boot(api: connection.Connection, wanted: Wanted) -> Any:
    """Ask Nova for a server; do not wait for it."""
    return api.compute.create_server(
        name=wanted.name,
        image_id=api.image.find_image(wanted.image, ignore_missing=False).id,
        flavor_id=api.compute.find_flavor(
            wanted.flavor, ignore_missing=False
        ).id,
        networks=[
            {
                'uuid': api.network.find_network(seed.NETWORK).id,
                'fixed_ip': wanted.address,
            }
        ],
        key_name=seed.KEYPAIR,
        host=wanted.host,
    )


def _await_active(
    cloud: settings.Cloud, api: connection.Connection, server: Any
) -> Any:
    """Wait until a server is ACTIVE.

    :raises MinicloudError: with the server's fault.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        server = api.compute.get_server(server.id)
        if server.status == 'ACTIVE':
            return server
        if server.status == 'ERROR' or time.monotonic() > deadline:
            fault = (server.fault or {}).get('message', 'no fault given')
            host = server.compute_host
            name = f'nova-compute-{host}' if host else 'nova-conductor'
            raise errors.MinicloudError(
                f'{server.name} is {server.status}: {fault}',
                services.log_path(cloud, name),
            )
        time.sleep(0.3)


def _ensure(
    cloud: settings.Cloud,
    api: connection.Connection,
    plans: list[Wanted],
    say: steps.Say,
) -> list[Any]:
    """Return the demo's servers, ACTIVE; good ones are used again."""
    found = {s.name: s for s in api.compute.servers(details=True)}
    wrong = [
        found.pop(wanted.name)
        for wanted in plans
        if wanted.name in found
        and not is_as_wanted(found[wanted.name], wanted)
    ]
    _delete(api, wrong)
    for wanted in plans:
        if wanted.name in found:
            say(f'{wanted.name} is there already')
            continue
        say(f'$ {command_line(wanted)}')
        access.forget_host_keys(cloud, wanted.address)
        found[wanted.name] = _boot(api, wanted)
    return [_await_active(cloud, api, found[p.name]) for p in plans]


def _openstack(cloud: settings.Cloud, *words: str) -> str:
    """Run the real client as admin; return what it prints.

    :raises MinicloudError: when it fails.
    """
    env = {
        **services.environment(cloud, 'step'),
        'OS_CLIENT_CONFIG_FILE': str(cloud.etc / 'clouds.yaml'),
        'OS_CLOUD': 'minicloud',
        'NO_PROXY': '127.0.0.1',
    }
    done = subprocess.run(
        [f'{cloud.venv}/bin/openstack', *words],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise errors.MinicloudError(
            f'openstack {" ".join(words)}: {done.stderr.strip()}'
        )
    return done.stdout


def _ping(cloud: settings.Cloud, address: str) -> str:
    """Ping a server from the LAN; return ping's summary.

    :raises MinicloudError: when it does not answer.
    """
    words = ['ping', '-c', '3', '-i', '0.2', '-W', '2', address]
    done = subprocess.run(
        access.lan_command(cloud, words),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise errors.MinicloudError(f'{address} does not answer ping')
    return done.stdout.strip().splitlines()[-2]


def _login(cloud: settings.Cloud, address: str, user: str, words: str) -> str:
    """Return what a command says in a server; wait for its sshd.

    :raises MinicloudError: when no login is possible in time.
    """
    deadline = time.monotonic() + SSH_SECONDS
    command = access.ssh_command(cloud, address, user, [words])
    while True:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline:
            raise errors.MinicloudError(
                f'no ssh login to {user}@{address}: {done.stderr.strip()}'
            )
        time.sleep(0.5)


def _user(api: connection.Connection, server: Any) -> str:
    """Return the login name that the server's image asks for."""
    image = api.image.find_image(server.image.id)
    name = image.os_admin_user if image is not None else None
    return name or access.DEFAULT_USER


def _show(
    cloud: settings.Cloud, api: connection.Connection, server: Any, ip: str
) -> str:
    """Return a login session and the console of one server."""
    user = _user(api, server)
    command = 'hostname; ip -brief address; uptime'
    said = _login(cloud, ip, user, command)
    if server.name not in said or ip not in said:
        raise errors.MinicloudError(
            f'{server.name} does not show its name and {ip}: {said}'
        )
    console = _openstack(
        cloud, 'console', 'log', 'show', '--lines', '10', server.id
    )
    if not console.strip():
        raise errors.MinicloudError(f'{server.name} has no console log')
    return (
        f'$ ssh {user}@{ip} "{command}"\n{said}\n'
        f'$ openstack console log show --lines 10 {server.name}\n{console}'
    )


# A second of a busy loop and 50 MB past the page cache: what the flavor gives.
LIMITS_INSIDE = (
    'cd /sys/fs/cgroup; '
    'grep . cpu/cpu.cfs_*_us memory/memory.limit_in_bytes pids/pids.max; '
    'time -p timeout 2 sh -c "while :; do :; done"; '
    'dd if=/dev/zero of=/tmp/f bs=1M count=100 oflag=direct; rm /tmp/f'
)


def _limits(
    cloud: settings.Cloud, server: Any, wanted: Wanted, user: str
) -> str:
    """Return the limits of a server, seen from inside and from its host.

    :raises MinicloudError: when they are not in force.
    """
    inside = _login(
        cloud,
        wanted.address,
        user,
        f'bash -c {shlex.quote(LIMITS_INSIDE)} 2>&1',
    )
    conf = cloud.etc / 'nova' / f'{wanted.host}.conf'
    command = [
        'nova-vcloud-manage',
        '--config-file',
        str(conf),
        'qos',
        'show',
        server.id,
    ]
    done = subprocess.run(
        [f'{cloud.venv}/bin/{command[0]}', *command[1:]],
        env=services.environment(cloud, 'step'),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or 'DRIFT' in done.stdout:
        raise errors.MinicloudError(
            f'limits of {server.name}: {done.stdout}{done.stderr}'
        )
    return (
        f'$ ssh {user}@{wanted.address} "{LIMITS_INSIDE}"\n{inside}\n'
        f'$ {shlex.join(command)}\n{done.stdout}'
    )


def demo(cloud: settings.Cloud, say: steps.Say) -> None:
    """Boot the demo's servers and show that they are real.

    :raises MinicloudError: as soon as one thing shown is not true.
    """
    api = identity.connect(cloud)
    plans = plan([host.name for host in cloud.hosts])
    start = time.monotonic()
    servers = _ensure(cloud, api, plans, say)
    say(f'all ACTIVE after {time.monotonic() - start:.1f} s\n')
    for server, wanted in zip(servers, plans, strict=True):
        if not is_as_wanted(server, wanted):
            raise errors.MinicloudError(
                f'{server.name} is not on {wanted.host} with {wanted.address}'
            )
    columns = ('Name', 'Status', 'Networks', 'Image Name', 'Host')
    words = [word for column in columns for word in ('-c', column)]
    words += ['--name', '^demo-']
    say('$ openstack server list --long --name ^demo-')
    say(_openstack(cloud, 'server', 'list', '--long', *words))
    for wanted in plans:
        say(f'{wanted.name} {wanted.address}: {_ping(cloud, wanted.address)}')
    say('')
    say(_show(cloud, api, servers[0], plans[0].address))
    say(_limits(cloud, servers[0], plans[0], _user(api, servers[0])))
    say(
        'How to go on:\n'
        f'  . {config.openrc_path(cloud, "admin")}\n'
        '  openstack server create --image tiny --flavor c1.tiny '
        '--nic net-id=lan,v4-fixed-ip=10.77.0.50 --wait mine\n'
        '  devstack/minicloud lan ping 10.77.0.50\n'
        f'  devstack/minicloud ssh {plans[0].name}'
    )


def ssh(cloud: settings.Cloud, name: str, command: Sequence[str]) -> None:
    """Become ssh into a server.

    :raises MinicloudError: when there is no such server or no address.
    """
    api = identity.connect(cloud)
    server = api.compute.find_server(name, all_projects=True)
    if server is None:
        raise errors.MinicloudError(f'there is no server {name!r}')
    server = api.compute.get_server(server.id)
    found = sorted(addresses(server), key=lambda text: ':' in text)
    if not found:
        raise errors.MinicloudError(f'{name} has no address')
    words = access.ssh_command(
        cloud, found[0], _user(api, server), command
    )
    os.execvp(words[0], words)
