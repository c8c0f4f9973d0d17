# SPDX-License-Identifier: Apache-2.0
"""What one mini cloud is: its name, folders, ports and hosts."""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import re

from mini import errors

SOURCE = pathlib.Path(__file__).resolve().parents[2]
DEFAULT_NAME = 'vcloud'
DEFAULT_PORT_BASE = 15000
DEFAULT_HOSTS = 2
PHYSNET = 'physnet1'
BRIDGE = 'br-physnet1'
LAN_BRIDGE = 'br-lan'
LAN_V4 = '10.77.0.0/24'
LAN_V6 = 'fd00:77::/64'
LAN_GATEWAY_V4 = '10.77.0.1'
LAN_GATEWAY_V6 = 'fd00:77::1'
# ECU of a core, of one host after the other.
ECU_PER_CORE = (4.0, 2.5)
# By which servers leave, of one host after the other.
TRANSPORTS = ('tls', 'ssh')
# Whether servers have user namespaces, of one host after the other: moves go
# from hosts with to hosts without, and back.
USER_NAMESPACES = (False, True)

# Offsets from the first port of the block; all listen on 127.0.0.1 only.
PORT_OFFSETS = {
    'keystone': 0,
    'glance': 1,
    'placement': 2,
    'nova-api': 3,
    'neutron-api': 4,
    'nova-serialproxy': 5,
    # Only with --with-cinder.
    'cinder-api': 6,
    # Only with --with-horizon.
    'horizon': 7,
    'mariadb': 10,
    'rabbitmq': 11,
    'rabbitmq-dist': 12,
    'epmd': 13,
    'memcached': 14,
    'docker-registry': 15,
    # On the address of each host.
    'sshd': 16,
    'receive': 17,
}


@dataclasses.dataclass(frozen=True)
class Host:
    """One compute host: a dockerd, a nova-compute and a netns."""

    index: int
    name: str
    netns: str
    server_prefix: str
    folder: pathlib.Path
    run: pathlib.Path

    @property
    def socket(self) -> pathlib.Path:
        """Return the socket of the host's dockerd."""
        return self.folder / 'docker.sock'

    @property
    def data_root(self) -> pathlib.Path:
        """Return the folder where the engine keeps images and containers."""
        return self.folder / 'docker'

    @property
    def exec_root(self) -> pathlib.Path:
        """Return the folder of the engine's state while it runs."""
        return self.run / 'docker'

    @property
    def links(self) -> pathlib.Path:
        """Return where the runtime wrapper finds container -> netns."""
        return self.run / 'netns'

    @property
    def nfs(self) -> pathlib.Path:
        """Return the folder below which shares with volumes are mounted."""
        return self.folder / 'nfs'

    @property
    def ecu_per_core(self) -> float:
        """Return how many compute units a core of this host counts for."""
        return ECU_PER_CORE[self.index % len(ECU_PER_CORE)]

    @property
    def address(self) -> str:
        """Return the address by which other hosts reach this one."""
        return f'127.0.1.{self.index}'

    @property
    def sends_by(self) -> str:
        """Return the way by which servers leave: each is used by a host."""
        return TRANSPORTS[self.index % len(TRANSPORTS)]

    @property
    def user_namespaces(self) -> bool:
        """Return whether the servers of this host have user namespaces."""
        return USER_NAMESPACES[self.index % len(USER_NAMESPACES)]

    @property
    def cgroup(self) -> str:
        """Return the parent cgroup of the host's containers."""
        return self.netns


@dataclasses.dataclass(frozen=True)
class Cloud:
    """One mini cloud; several may live on a machine, with unlike names."""

    home: pathlib.Path
    cache: pathlib.Path
    name: str = DEFAULT_NAME
    port_base: int = DEFAULT_PORT_BASE
    host_count: int = DEFAULT_HOSTS
    with_cinder: bool = False
    with_horizon: bool = False

    @property
    def venv(self) -> pathlib.Path:
        """Return the virtual environment of all Python services."""
        return self.cache / 'venv'

    @property
    def python(self) -> pathlib.Path:
        """Return the interpreter of the virtual environment."""
        return self.venv / 'bin' / 'python'

    @property
    def tempest_venv(self) -> pathlib.Path:
        """Return tempest's own virtual environment."""
        return self.cache / 'tempest'

    @property
    def horizon_venv(self) -> pathlib.Path:
        """Return Horizon's own virtual environment."""
        return self.cache / 'horizon'

    @property
    def images(self) -> pathlib.Path:
        """Return the folder of built images, kept by ``clean``."""
        return self.cache / 'images'

    @property
    def etc(self) -> pathlib.Path:
        """Return the folder of generated configuration and secrets."""
        return self.home / 'etc'

    @property
    def log(self) -> pathlib.Path:
        """Return the folder with one log per service."""
        return self.home / 'log'

    @property
    def run(self) -> pathlib.Path:
        """Return the folder of sockets and pid files."""
        return self.home / 'run'

    @property
    def data(self) -> pathlib.Path:
        """Return the folder of databases and service state."""
        return self.home / 'data'

    @property
    def supervisor_socket(self) -> pathlib.Path:
        """Return the control socket of supervisord."""
        return self.run / 'supervisor.sock'

    @property
    def key(self) -> pathlib.Path:
        """Return the operator's private ssh key."""
        return self.etc / 'id_ed25519'

    @property
    def lan_netns(self) -> str:
        """Return the netns that is the servers' gateway."""
        return f'{self.name}-lan'

    @property
    def hosts(self) -> list[Host]:
        """Return the compute hosts."""
        return [self.host(n) for n in range(1, self.host_count + 1)]

    def host(self, index: int) -> Host:
        """Return the compute host with this number, counted from 1."""
        name = f'compute{index}'
        return Host(
            index=index,
            name=name,
            netns=f'{self.name}-{name}',
            server_prefix=f'{self.name}-c{index}-',
            folder=self.home / name,
            run=self.run / name,
        )

    def port(self, service: str) -> int:
        """Return the TCP port of a service on 127.0.0.1."""
        return self.port_base + PORT_OFFSETS[service]

    def url(self, service: str, path: str = '') -> str:
        """Return the URL of an HTTP service."""
        return f'http://127.0.0.1:{self.port(service)}{path}'


def _stored(home: pathlib.Path) -> dict[str, int | str]:
    """Return what ``save`` wrote, or nothing for a new cloud."""
    path = home / 'cloud.json'
    if not path.is_file():
        return {}
    stored: dict[str, int | str] = json.loads(path.read_text())
    return stored


def _number(value: int | str, name: str, low: int, high: int) -> int:
    """Return ``value`` as a number within bounds, or raise."""
    try:
        number = int(value)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise errors.MinicloudError(
            f'{name} must be a number from {low} to {high}, not {value!r}'
        )
    return number


def _name(value: str) -> str:
    """Return a name that namespaces and cgroups can begin with, or raise."""
    if not re.fullmatch(r'[a-z][a-z0-9-]{0,14}', value):
        raise errors.MinicloudError(
            f'MINICLOUD_NAME must be up to 15 small letters, digits and '
            f'hyphens, not {value!r}'
        )
    return value


def load(
    environ: Mapping[str, str] = os.environ,
    hosts: int | None = None,
    with_cinder: bool = False,
    with_horizon: bool = False,
) -> Cloud:
    """Return the cloud that the environment names.

    A cloud that exists keeps its name, ports and number of hosts; the
    environment and ``hosts`` decide for a new one.

    :param environ: MINICLOUD_HOME, MINICLOUD_CACHE, MINICLOUD_NAME and
        MINICLOUD_PORT_BASE are read.
    :param hosts: number of compute hosts wanted, None for no wish.
    :param with_cinder: have Cinder too; a cloud that has it keeps it.
    :param with_horizon: have Horizon too, likewise.
    :raises MinicloudError: on a value out of range, or one that differs
        from the cloud that exists.
    """
    home = pathlib.Path(
        environ.get('MINICLOUD_HOME') or '/var/lib/nova-vcloud-minicloud'
    )
    cache = pathlib.Path(
        environ.get('MINICLOUD_CACHE') or '/var/cache/nova-vcloud'
    )
    wanted: dict[str, int | str] = {}
    if environ.get('MINICLOUD_NAME'):
        wanted['name'] = _name(environ['MINICLOUD_NAME'])
    if environ.get('MINICLOUD_PORT_BASE'):
        wanted['port_base'] = _number(
            environ['MINICLOUD_PORT_BASE'], 'MINICLOUD_PORT_BASE', 1024, 32000
        )
    if hosts is not None:
        wanted['host_count'] = _number(hosts, '--hosts', 1, 9)
    stored = _stored(home)
    for key, value in wanted.items():
        if key in stored and stored[key] != value:
            raise errors.MinicloudError(
                f'the cloud in {home} has {key} {stored[key]}, not {value}',
                advice='run `minicloud clean` first, or set MINICLOUD_HOME '
                'to another folder',
            )
    chosen = {**wanted, **stored}
    return Cloud(
        home=home.absolute(),
        cache=cache.absolute(),
        name=str(chosen.get('name', DEFAULT_NAME)),
        port_base=int(chosen.get('port_base', DEFAULT_PORT_BASE)),
        host_count=int(chosen.get('host_count', DEFAULT_HOSTS)),
        with_cinder=with_cinder or bool(stored.get('with_cinder')),
        with_horizon=with_horizon or bool(stored.get('with_horizon')),
    )


def save(cloud: Cloud) -> None:
    """Write down what must not change while the cloud exists."""
    record = {
        'name': cloud.name,
        'port_base': cloud.port_base,
        'host_count': cloud.host_count,
        'with_cinder': cloud.with_cinder,
        'with_horizon': cloud.with_horizon,
    }
    cloud.home.mkdir(mode=0o755, parents=True, exist_ok=True)
    (cloud.home / 'cloud.json').write_text(json.dumps(record, indent=1))
