# SPDX-License-Identifier: Apache-2.0
"""MariaDB: its data folder, the databases and the user that owns them."""

from collections.abc import Sequence
import shutil
import subprocess

from mini import commands
from mini import settings

USER = "'openstack'@'127.0.0.1'"


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


def create_user(cloud: settings.Cloud, secret: dict[str, str]) -> None:
    """Create the one user that owns the services' databases."""
    statements = [
        f'CREATE USER IF NOT EXISTS {USER};',
        f"ALTER USER {USER} IDENTIFIED BY '{secret['database']}';",
    ]
    _execute(cloud, statements)


def make_empty(cloud: settings.Cloud, names: Sequence[str]) -> None:
    """Make databases anew, without whatever was in them."""
    statements = []
    for name in names:
        statements += [
            f'DROP DATABASE IF EXISTS {name};',
            f'CREATE DATABASE {name} CHARACTER SET utf8mb3;',
            f'GRANT ALL ON {name}.* TO {USER};',
        ]
    _execute(cloud, statements)


def _execute(cloud: settings.Cloud, statements: Sequence[str]) -> None:
    """Run SQL as root; it is not logged, for it has a password."""
    text = '\n'.join(statements)
    commands.run(cloud, 'databases', _client(cloud), stdin=text)
