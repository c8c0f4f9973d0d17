# SPDX-License-Identifier: Apache-2.0
"""Where a Docker engine keeps the root filesystem of a container.

Its answers name the directory with some storage drivers and not with others;
what it writes below ``image/`` does with all (moby, layer/filestore.go).
"""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import errno
import os
import pathlib
import subprocess
from typing import Any

from oslo_log import log

from nova_vcloud import exception
from nova_vcloud import privsep

LOG = log.getLogger(__name__)


def place(info: Mapping[str, Any]) -> str:
    """Return the directory of all root filesystems of an engine.

    :param info: ``GET /info`` of the engine
    """
    found = os.path.join(info['DockerRootDir'], info['Driver'])
    # It may be a file system of its own. Who may not look takes the one that
    # it is in.
    while not os.path.isdir(found):
        found = os.path.dirname(found)
    return found


def layer(root: str, driver: str, container: str) -> str | None:
    """Return the name of a container's layer, None when it has none.

    :param root: the engine's data-root
    :param driver: its storage driver
    """
    path = pathlib.Path(root, 'image', driver, 'layerdb/mounts', container,
                        'mount-id')
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


#: Bytes and inodes that a server's start may take of its disk.
ROOM = 16 << 20
ROOM_INODES = 64
#: File beside what a server has written, and bytes of it, in one piece where
#: there is one. Free space in pieces of some blocks is of no use for inodes: a
#: server whose disk has no other is started in what this one gives back.
SPARE = 'spare'
SPARE_SIZE = 1 << 20
#: What follows a container's id in the name of the file that ends its room.
ROOM_SUFFIX = '.room'


def has_room(found: os.statvfs_result) -> bool:
    """Tell whether a file system has the room that a server's start needs.
    """
    return (found.f_bavail * found.f_frsize >= ROOM
            and found.f_favail >= ROOM_INODES)


def is_roomy(found: os.statvfs_result) -> bool:
    """Tell whether free space of a file system cannot be in small pieces.

    Of eight blocks one at most is in use, and of four in a row xfs makes
    inodes (mkfs.xfs(8), sparse).
    """
    return has_room(found) and found.f_bfree >= found.f_blocks // 8 * 7


def keep_spare(place: str) -> None:
    """Have SPARE, or as much of it as there is space for."""
    path = os.path.join(place, SPARE)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
                       | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, SPARE_SIZE)
        finally:
            os.close(file)
    except OSError as e:
        if e.errno != errno.ENOSPC:
            LOG.warning('Cannot allocate %s: %s', path, e)


def give_spare(place: str) -> None:
    """Give back the space of SPARE; none is fine."""
    # Not unlink: xfs frees what it had some time later.
    with contextlib.suppress(FileNotFoundError):
        os.truncate(os.path.join(place, SPARE), 0)


@privsep.disk.entrypoint
def note_room(directory: str, container: str, line: str) -> None:
    """Have the runtime end the room that a container has for its start.

    :param directory: the ``--links`` directory of ``nova-vcloud-runtime``
    :param line: of a store's make_room; '' removes what was noted
    :raises OSError: with the path
    """
    path = os.path.join(directory, container + ROOM_SUFFIX)
    if not line:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    with open(f'{path}.new', 'w', encoding='utf-8') as file:
        file.write(f'{line}\n')
    os.replace(f'{path}.new', path)


@privsep.disk.entrypoint
def noted_room(directory: str, container: str) -> str:
    """Return what :func:`note_room` has noted and no start has ended, or ''.

    :raises OSError: with the path
    """
    path = os.path.join(directory, container + ROOM_SUFFIX)
    try:
        with open(path, encoding='utf-8') as file:
            return file.read().strip()
    except FileNotFoundError:
        return ''


@privsep.disk.entrypoint
def end_room(line: str) -> None:
    """End what a store's make_room began, as the runtime does.

    :param line: of it; '' is fine
    :raises LimitNotEnforced: with the reason
    """
    if not line:
        return
    kind, number, size, count, place = line.split(maxsplit=4)
    if kind == 'reserve':
        tool('xfs_io', '-x', '-c', f'resblks {number}', place)
        if int(count):
            tool('xfs_growfs', '-m', count, place)
        keep_spare(place)
    else:
        tool('xfs_quota', '-x', '-c', quota_command(number, size, count),
             place)


def quota_command(project: int | str, size: int | str,
                  count: int | str) -> str:
    """Return the words of xfs_quota(8) that limit a project.

    :param size: bytes
    :param count: inodes
    """
    # The engine sets both of bytes, df shows the soft one.
    return (f'limit -p bsoft={size} bhard={size} isoft={count} '
            f'ihard={count} {project}')


def tool(*words: str) -> str:
    """Return what a program of the file system prints.

    :raises LimitNotEnforced: with its words, or that it is not installed
    """
    try:
        # Not by oslo's processutils: its preexec_fn makes Python fork(), for
        # which the kernel copies the page tables of all of this process.
        done = subprocess.run(words, capture_output=True, text=True,
                              check=True, env={**os.environ, 'LC_ALL': 'C'})
    except subprocess.CalledProcessError as e:
        said = e.stderr.strip().splitlines() or ['no reason given']
        raise exception.LimitNotEnforced(f'{words[0]}: {said[-1]}') from e
    except OSError as e:
        raise exception.LimitNotEnforced(f'{words[0]}: {e.strerror}') from e
    return done.stdout
