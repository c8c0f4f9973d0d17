# SPDX-License-Identifier: Apache-2.0
"""Ways into the cloud: the LAN's namespace, ssh into servers, logs."""

from collections.abc import Sequence
import os
import pathlib
import subprocess
from typing import NoReturn

from mini import errors
from mini import network
from mini import services
from mini import settings

DEFAULT_USER = 'root'


def lan_command(cloud: settings.Cloud, command: Sequence[str]) -> list[str]:
    """Return a command that runs where the servers' gateway is."""
    return ['ip', 'netns', 'exec', cloud.lan_netns, *command]


def lan(cloud: settings.Cloud, command: Sequence[str]) -> NoReturn:
    """Become a command in the LAN's namespace; a shell if none is given."""
    if cloud.lan_netns not in network.namespaces():
        raise errors.MinicloudError(
            f'there is no namespace {cloud.lan_netns}',
            advice='run `minicloud up`',
        )
    shell = os.environ.get('SHELL', '/bin/sh')
    words = lan_command(cloud, command or [shell])
    os.execvp(words[0], words)


def ssh_command(
    cloud: settings.Cloud, address: str, user: str, command: Sequence[str]
) -> list[str]:
    """Return the ssh command for a server's address."""
    known = cloud.home / 'known_hosts'
    options = (
        *('-i', str(cloud.key)),
        *('-o', 'IdentitiesOnly=yes'),
        *('-o', f'UserKnownHostsFile={known}'),
        # Servers come and go, and an address may return as another server.
        *('-o', 'StrictHostKeyChecking=no'),
        *('-o', 'LogLevel=ERROR'),
        *('-o', 'ConnectTimeout=10'),
    )
    words = ['ssh', *options, f'{user}@{address}', *command]
    return lan_command(cloud, words)


def follow(cloud: settings.Cloud, service: str, follow_on: bool) -> NoReturn:
    """Become a tail of a service's log.

    :raises MinicloudError: naming the logs there are.
    """
    path = services.log_path(cloud, service)
    if not path.is_file():
        names = sorted(p.stem for p in cloud.log.glob('*.log'))
        raise errors.MinicloudError(
            f'no log of {service!r}', advice=f'choose of: {" ".join(names)}'
        )
    options = ['-F'] if follow_on else []
    os.execvp('tail', ['tail', '-n', '200', *options, str(path)])


def forget_host_keys(cloud: settings.Cloud, address: str) -> None:
    """Drop the ssh host key of a server that is made anew."""
    known = cloud.home / 'known_hosts'
    if pathlib.Path(known).is_file():
        subprocess.run(
            ['ssh-keygen', '-q', '-R', address, '-f', str(known)],
            capture_output=True,
            check=False,
        )
