# SPDX-License-Identifier: Apache-2.0
"""The ssh servers of the compute hosts, over which servers move."""

import pathlib

from mini import commands
from mini import config
from mini import settings

#: Where Debian's sshd wants its empty folder; a fresh machine has no /run.
PRIVILEGE_FOLDER = pathlib.Path('/run/sshd')


def folder(cloud: settings.Cloud) -> pathlib.Path:
    """Return where keys and configuration of all hosts are."""
    return cloud.etc / 'ssh'


def identity(cloud: settings.Cloud) -> pathlib.Path:
    """Return the private key by which hosts let each other in."""
    return folder(cloud) / 'id_move'


def known_hosts(cloud: settings.Cloud) -> pathlib.Path:
    """Return the file with the keys of all hosts."""
    return folder(cloud) / 'known_hosts'


def configuration(cloud: settings.Cloud, host: settings.Host) -> pathlib.Path:
    """Return the configuration of a host's ssh server."""
    return folder(cloud) / f'{host.name}.conf'


def prepare(cloud: settings.Cloud) -> str | None:
    """Make the keys, and let each host in to hand over servers only."""
    PRIVILEGE_FOLDER.mkdir(mode=0o755, exist_ok=True)
    made = [_key(cloud, path) for path in (
        identity(cloud), *(_host_key(cloud, h) for h in cloud.hosts))]
    public = identity(cloud).with_suffix('.pub').read_text().strip()
    lines = []
    for host in cloud.hosts:
        command = (f'{cloud.venv}/bin/nova-vcloud-receive '
                   f'--spool {host.folder}/nova/vcloud-moves')
        config.write_one(config.Rendered(
            folder(cloud) / f'{host.name}.keys',
            f'restrict,command="{command}" {public}\n'))
        words = _host_key(cloud, host).with_suffix('.pub').read_text().split()
        lines.append(f'[{host.address}]:{cloud.port("sshd")} '
                     f'{words[0]} {words[1]}\n')
    config.write_one(config.Rendered(known_hosts(cloud), ''.join(lines)))
    return None if any(made) else 'there already'


def _host_key(cloud: settings.Cloud, host: settings.Host) -> pathlib.Path:
    return folder(cloud) / f'{host.name}_key'


def _key(cloud: settings.Cloud, path: pathlib.Path) -> bool:
    """Make a key pair; tell whether it was not there."""
    if path.is_file() and path.with_suffix('.pub').is_file():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    commands.run(cloud, 'ssh-keygen', [
        'ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', path.stem,
        '-f', str(path)])
    return True
