# SPDX-License-Identifier: Apache-2.0
"""Make the databases, their schemas and Keystone's first contents."""

from importlib import metadata
import pathlib
import shutil
import subprocess

from mini import commands
from mini import settings
from mini import stamps

DATABASES = (
    'keystone',
    'glance',
    'placement',
    'neutron',
    'nova',
    'nova_api',
    'nova_cell0',
)


def initialize(cloud: settings.Cloud) -> str | None:
    """Make MariaDB's data folder; a half-made one is made anew."""
    folder = cloud.data / 'mysql'
    run = cloud.run / 'mysql'
    run.mkdir(exist_ok=True)
    shutil.chown(run, 'mysql')
    if folder.is_dir():
        return 'there already'
    new = cloud.data / 'mysql.new'
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    shutil.chown(new, 'mysql')
    commands.run(
        cloud,
        'mariadb-install',
        [
            *('mariadb-install-db', '--no-defaults', '--user=mysql'),
            f'--datadir={new}',
            '--skip-test-db',
        ],
    )
    new.rename(folder)
    return None


def answers(cloud: settings.Cloud) -> bool:
    """Tell whether MariaDB executes statements."""
    done = subprocess.run(
        [*_client(cloud), '-e', 'SELECT 1'], capture_output=True, check=False
    )
    return done.returncode == 0


def _client(cloud: settings.Cloud) -> list[str]:
    """Return the client's command line: root, through the socket."""
    socket = cloud.run / 'mysql' / 'mysql.sock'
    return ['mariadb', '--no-defaults', '-uroot', f'--socket={socket}']


def create(cloud: settings.Cloud, secret: dict[str, str]) -> None:
    """Create the databases and the one user that owns them."""
    user = "'openstack'@'127.0.0.1'"
    lines = [
        f'CREATE USER IF NOT EXISTS {user};',
        f"ALTER USER {user} IDENTIFIED BY '{secret['database']}';",
    ]
    for name in DATABASES:
        lines.append(
            f'CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb3;'
        )
        lines.append(f'GRANT ALL ON {name}.* TO {user};')
    commands.run(cloud, 'databases', _client(cloud), stdin='\n'.join(lines))


def _manage(
    cloud: settings.Cloud,
    program: str,
    config: pathlib.Path,
    *words: str,
    env: dict[str, str] | None = None,
    accept: tuple[int, ...] = (),
) -> None:
    path = cloud.venv / 'bin' / program
    command = [path, '--config-file', config, *words]
    commands.run(cloud, program, command, env, accept=accept)


def keystone_keys(cloud: settings.Cloud) -> str | None:
    """Make the keys of tokens and credentials."""
    config = cloud.etc / 'keystone' / 'keystone.conf'

    def work() -> None:
        for kind in ('fernet', 'credential'):
            folder = cloud.etc / 'keystone' / f'{kind}-keys'
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _manage(
                cloud,
                'keystone-manage',
                config,
                f'{kind}_setup',
                '--keystone-user=root',
                '--keystone-group=root',
            )

    return stamps.once(cloud, 'keystone-keys', '', work)


def sync_keystone(
    cloud: settings.Cloud, secret: dict[str, str]
) -> str | None:
    """Make Keystone's schema, its admin and its own endpoints."""
    config = cloud.etc / 'keystone' / 'keystone.conf'
    url = cloud.url('keystone', '/v3')

    def work() -> None:
        _manage(cloud, 'keystone-manage', config, 'db_sync')
        _manage(
            cloud,
            'keystone-manage',
            config,
            'bootstrap',
            '--bootstrap-region-id=RegionOne',
            f'--bootstrap-admin-url={url}',
            f'--bootstrap-internal-url={url}',
            f'--bootstrap-public-url={url}',
            env={'OS_BOOTSTRAP_PASSWORD': secret['admin']},
        )

    key = f'{metadata.version("keystone")} {url}'
    return stamps.once(cloud, 'keystone', key, work)


def sync_placement(cloud: settings.Cloud) -> str | None:
    """Make Placement's schema."""
    config = cloud.etc / 'placement' / 'placement.conf'
    env = {'OS_PLACEMENT_CONFIG_DIR': str(config.parent)}

    def work() -> None:
        _manage(cloud, 'placement-manage', config, 'db', 'sync', env=env)

    key = metadata.version('openstack-placement')
    return stamps.once(cloud, 'placement', key, work)


def sync_glance(cloud: settings.Cloud) -> str | None:
    """Make Glance's schema."""
    config = cloud.etc / 'glance' / 'glance-api.conf'
    return stamps.once(
        cloud,
        'glance',
        metadata.version('glance'),
        lambda: _manage(cloud, 'glance-manage', config, 'db_sync'),
    )


def sync_neutron(cloud: settings.Cloud) -> str | None:
    """Make Neutron's schema."""
    folder = cloud.etc / 'neutron'
    return stamps.once(
        cloud,
        'neutron',
        metadata.version('neutron'),
        lambda: _manage(
            cloud,
            'neutron-db-manage',
            folder / 'neutron.conf',
            '--config-file',
            str(folder / 'ml2_conf.ini'),
            'upgrade',
            'heads',
        ),
    )


def sync_nova(cloud: settings.Cloud) -> str | None:
    """Make Nova's schemas, cell0 and the one cell with servers."""
    config = cloud.etc / 'nova' / 'nova.conf'
    # nova-manage ends with 2 when an `up` that was cut short made the cell.
    steps: list[tuple[tuple[str, ...], tuple[int, ...]]] = [
        (('api_db', 'sync'), ()),
        (('cell_v2', 'map_cell0'), ()),
        (('db', 'sync'), ()),
        (('cell_v2', 'create_cell', '--name=cell1'), (2,)),
    ]

    def work() -> None:
        for words, accept in steps:
            _manage(cloud, 'nova-manage', config, *words, accept=accept)

    return stamps.once(cloud, 'nova', metadata.version('nova'), work)


def discover_hosts(cloud: settings.Cloud) -> None:
    """Map compute hosts that registered themselves to their cell."""
    config = cloud.etc / 'nova' / 'nova.conf'
    _manage(cloud, 'nova-manage', config, 'cell_v2', 'discover_hosts')
