# SPDX-License-Identifier: Apache-2.0
"""Bring each service's databases to the schema of its installed version."""

from collections.abc import Sequence
from importlib import metadata
import pathlib

from mini import commands
from mini import database
from mini import settings
from mini import stamps


def _manage(
    cloud: settings.Cloud,
    program: str,
    config: pathlib.Path,
    *words: str,
    env: dict[str, str] | None = None,
) -> None:
    """Run one of the services' own management programs."""
    path = f'{cloud.venv}/bin/{program}'
    command = [path, '--config-file', str(config), *words]
    commands.run(cloud, program, command, env)


def _make(
    cloud: settings.Cloud,
    package: str,
    databases: Sequence[str],
    jobs: Sequence[Sequence[str]],
    config: pathlib.Path,
    program: str,
    env: dict[str, str] | None = None,
) -> str | None:
    """Run the jobs of one service once per version of its package.

    MariaDB does not take a half-done change of a schema back. So, until the
    jobs were all done for the first time, they begin with empty databases.
    """
    name = f'schema-{package}'

    def work() -> None:
        if not stamps.ever(cloud, name):
            database.make_empty(cloud, databases)
        for job in jobs:
            _manage(cloud, program, config, *job, env=env)

    return stamps.once(cloud, name, metadata.version(package), work)


def keystone_keys(cloud: settings.Cloud) -> str | None:
    """Make the keys of tokens and credentials."""
    config = cloud.etc / 'keystone' / 'keystone.conf'
    owner = ('--keystone-user=root', '--keystone-group=root')

    def work() -> None:
        for kind in ('fernet', 'credential'):
            folder = cloud.etc / 'keystone' / f'{kind}-keys'
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _manage(cloud, 'keystone-manage', config, f'{kind}_setup', *owner)

    return stamps.once(cloud, 'keystone-keys', '', work)


def keystone(cloud: settings.Cloud, secret: dict[str, str]) -> str | None:
    """Make Keystone's schema, its admin and its own endpoints."""
    url = cloud.url('keystone', '/v3')
    bootstrap = (
        'bootstrap',
        '--bootstrap-region-id=RegionOne',
        f'--bootstrap-admin-url={url}',
        f'--bootstrap-internal-url={url}',
        f'--bootstrap-public-url={url}',
    )
    return _make(
        cloud,
        'keystone',
        ['keystone'],
        [('db_sync',), bootstrap],
        cloud.etc / 'keystone' / 'keystone.conf',
        'keystone-manage',
        {'OS_BOOTSTRAP_PASSWORD': secret['admin']},
    )


def placement(cloud: settings.Cloud) -> str | None:
    """Make Placement's schema."""
    folder = cloud.etc / 'placement'
    return _make(
        cloud,
        'openstack-placement',
        ['placement'],
        [('db', 'sync')],
        folder / 'placement.conf',
        'placement-manage',
        {'OS_PLACEMENT_CONFIG_DIR': str(folder)},
    )


def glance(cloud: settings.Cloud) -> str | None:
    """Make Glance's schema."""
    return _make(
        cloud,
        'glance',
        ['glance'],
        [('db_sync',)],
        cloud.etc / 'glance' / 'glance-api.conf',
        'glance-manage',
    )


def cinder(cloud: settings.Cloud) -> str | None:
    """Make Cinder's schema."""
    return _make(
        cloud,
        'cinder',
        ['cinder'],
        [('db', 'sync')],
        cloud.etc / 'cinder' / 'cinder.conf',
        'cinder-manage',
    )


def neutron(cloud: settings.Cloud) -> str | None:
    """Make Neutron's schema."""
    folder = cloud.etc / 'neutron'
    plugin = ('--config-file', str(folder / 'ml2_conf.ini'))
    return _make(
        cloud,
        'neutron',
        ['neutron'],
        [(*plugin, 'upgrade', 'heads')],
        folder / 'neutron.conf',
        'neutron-db-manage',
    )


def nova(cloud: settings.Cloud) -> str | None:
    """Make Nova's schemas, cell0 and the one cell with servers."""
    jobs: list[Sequence[str]] = [
        ('api_db', 'sync'),
        ('cell_v2', 'map_cell0'),
        ('db', 'sync'),
    ]
    if not stamps.ever(cloud, 'schema-nova'):
        jobs.append(('cell_v2', 'create_cell', '--name=cell1'))
    return _make(
        cloud,
        'nova',
        ['nova', 'nova_api', 'nova_cell0'],
        jobs,
        cloud.etc / 'nova' / 'nova.conf',
        'nova-manage',
    )


def discover_hosts(cloud: settings.Cloud) -> None:
    """Map compute hosts that registered themselves to their cell."""
    config = cloud.etc / 'nova' / 'nova.conf'
    _manage(cloud, 'nova-manage', config, 'cell_v2', 'discover_hosts')
