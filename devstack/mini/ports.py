# SPDX-License-Identifier: Apache-2.0
"""Check that the cloud's TCP ports are free, and name who holds them."""

from collections.abc import Collection
from collections.abc import Mapping
import contextlib
import errno
import os
import pathlib
import socket

from mini import errors

PROC = pathlib.Path('/proc')
LISTEN = '0A'


def is_free(port: int) -> bool:
    """Tell whether 127.0.0.1:port can be listened on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def listening_inodes(table: str, port: int) -> set[str]:
    """Return the socket inodes that listen on ``port``.

    :param table: content of /proc/net/tcp or tcp6.
    """
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        local_port = int(fields[1].rpartition(':')[2], 16)
        if fields[3] == LISTEN and local_port == port:
            found.add(fields[9])
    return found


def holder(port: int, proc: pathlib.Path = PROC) -> tuple[int, str] | None:
    """Return pid and command line of the process listening on ``port``."""
    inodes: set[str] = set()
    for table in ('tcp', 'tcp6'):
        path = proc / 'net' / table
        if path.exists():
            inodes |= listening_inodes(path.read_text(), port)
    wanted = {f'socket:[{inode}]' for inode in inodes}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        if wanted and _open_files(entry) & wanted:
            raw = (entry / 'cmdline').read_bytes()
            return int(entry.name), raw.replace(b'\0', b' ').decode()
    return None


def _open_files(process: pathlib.Path) -> set[str]:
    """Return what a process has open; less if it ends while we look."""
    found: set[str] = set()
    try:
        for descriptor in (process / 'fd').iterdir():
            # Descriptors come and go; the one of this listing is ours.
            with contextlib.suppress(OSError):
                found.add(os.readlink(descriptor))
    except OSError:
        pass
    return found


def require_free(ports: Mapping[str, int], own: Collection[int]) -> None:
    """Raise unless every port is free or held by one of our own pids.

    :param ports: port per service.
    :param own: pids of the cloud's own processes.
    :raises MinicloudError: naming each port and its holder.
    """
    taken = []
    for service, port in ports.items():
        if is_free(port):
            continue
        held = holder(port)
        if held is not None and held[0] in own:
            continue
        who = f'pid {held[0]} ({held[1][:60].strip()})' if held else 'unknown'
        taken.append(f'port {port} for {service} is held by {who}')
    if taken:
        raise errors.MinicloudError(
            '; '.join(taken),
            advice='end that process, or choose another block of ports with '
            'MINICLOUD_PORT_BASE=<first port>',
        )
