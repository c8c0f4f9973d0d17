# SPDX-License-Identifier: Apache-2.0
"""`minicloud status`: what runs, how big it is, where to reach it."""

import dataclasses
from importlib import metadata

from mini import config
from mini import leftovers
from mini import processes
from mini import settings
from mini import supervision

MIB = 1 << 20
VERSIONS = {
    'nova': 'nova',
    'neutron': 'neutron',
    'keystone': 'keystone',
    'glance': 'glance',
    'placement': 'openstack-placement',
    'nova-vcloud': 'nova-vcloud',
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One service as the operator sees it."""

    name: str
    state: str
    pid: int
    memory_mib: int
    description: str


def _memory(cloud: settings.Cloud) -> dict[str, int]:
    """Return the proportional memory in bytes, per service."""
    used: dict[str, int] = {}
    for process in processes.members(cloud.home):
        size = processes.pss_bytes(process.pid)
        used[process.service] = used.get(process.service, 0) + size
    return used


def rows(cloud: settings.Cloud) -> list[Row]:
    """Return one row per service; none when supervisord does not run."""
    control = supervision.Supervision(cloud)
    if not control.is_running():
        return []
    memory = _memory(cloud)
    return [
        Row(
            name,
            info['statename'],
            info['pid'],
            memory.get(name, 0) // MIB,
            info['description'],
        )
        for name, info in sorted(control.states().items())
    ]


def total_mib(cloud: settings.Cloud) -> tuple[int, int]:
    """Return MiB used by the cloud itself, and by its servers."""
    own = sum(_memory(cloud).values())
    guests = leftovers.container_pids(cloud.hosts)
    servers = sum(processes.pss_bytes(pid) for pid in guests)
    return own // MIB, servers // MIB


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'not installed'


def summary(cloud: settings.Cloud) -> str:
    """Return how to use the cloud, in a few lines."""
    own, servers = total_mib(cloud)
    dashboard = ''
    if cloud.with_horizon:
        dashboard = (
            f'  {cloud.url("horizon")}/   # domain Default, user and '
            'password as in the file below\n'
        )
    return (
        f'memory: {own} MiB for the cloud, {servers} MiB in servers\n'
        f'how to use it:\n{dashboard}'
        f'  . {config.openrc_path(cloud, "admin")}   # a tenant: '
        f'{config.openrc_path(cloud, "demo").name}\n'
        '  openstack server create --image debian-12 --flavor c1.small '
        '--key-name operator --nic net-id=lan,v4-fixed-ip=10.77.0.50 '
        '--wait web\n'
        '  devstack/minicloud ssh web'
    )


def show(cloud: settings.Cloud) -> None:
    """Print the state of the cloud."""
    found = rows(cloud)
    if not found:
        print(f'the cloud in {cloud.home} is down')
        return
    print(f'{"service":<24}{"state":<10}{"pid":>8}{"MiB":>7}  ')
    for row in found:
        print(
            f'{row.name:<24}{row.state:<10}{row.pid or "-":>8}'
            f'{row.memory_mib:>7}  {row.description}'
        )
    print()
    for name in ('keystone', 'nova-api', 'neutron-api', 'glance', 'placement'):
        print(f'{name:<24}{cloud.url(name)}')
    for host in cloud.hosts:
        print(f'{"docker on " + host.name:<24}unix://{host.socket}')
    versions = (f'{k} {_version(v)}' for k, v in VERSIONS.items())
    print(f'\n{", ".join(versions)}')
    print(summary(cloud))
