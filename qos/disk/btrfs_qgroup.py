# SPDX-License-Identifier: Apache-2.0
"""Sizes of root filesystems that are subvolumes of btrfs (btrfs-qgroup(8)).

The files of the image count, for what a subvolume shows is what it has. An
engine that was told a size applies it at each start again, over one that was
set since: it is not told.

There is no limit of inodes and no need of one: btrfs makes them as they are
wanted, out of bytes that count.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud.qos.disk import rootfs

DRIVER = 'btrfs'
#: Whether a container has a size later only when it was made with one.
AT_CREATION = False
#: Whether a size can be taken back.
SHRINKS = True
REMARK = ('the files of the image count, and inodes as bytes; df inside shows '
          'the whole store')
STEP = 1  # bytes


def why_not(info: Mapping[str, Any]) -> str:
    """Return what is missing for sizes to hold; '' when nothing is."""
    path = rootfs.place(info)
    try:
        listed(path)
    except exception.LimitNotEnforced as e:
        return (f'{e}; install btrfs-progs and run: btrfs quota enable '
                f'{path}')
    return ''


@privsep.disk.entrypoint
def listed(path: str) -> str:
    """Return the quota groups of a file system, one a line.

    :raises LimitNotEnforced: it counts none
    """
    return rootfs.tool('btrfs', 'qgroup', 'show', '-r', '--raw', '-f', path)


@privsep.disk.entrypoint
def look(root: str, container: str) -> tuple[int, int] | None:
    """Return the bytes a container uses and may use, 0 being any number.

    :param root: the engine's data-root
    :returns: None when there is no such container
    :raises LimitNotEnforced: the file system cannot tell
    """
    path = _subvolume(root, container)
    if path is None:
        return None
    # Qgroupid Referenced Exclusive 'Max referenced' Path, below two lines.
    words = rootfs.tool('btrfs', 'qgroup', 'show', '-r', '--raw', '-f',
                        path).splitlines()[-1].split()
    return int(words[1]), 0 if words[3] == 'none' else int(words[3])


@privsep.disk.entrypoint
def limit(root: str, container: str, size: int) -> None:
    """Let a container use so many bytes, 0 being any number.

    :raises LimitNotEnforced: with the reason
    """
    path = _subvolume(root, container)
    if path is None:
        raise exception.LimitNotEnforced(f'no container {container}')
    rootfs.tool('btrfs', 'qgroup', 'limit', str(size or 'none'), path)


def make_room(root: str, container: str) -> str:
    """Return '': a start writes nothing to the subvolume of a container.

    And btrfs removes files of one that is full without asking its limit.
    """
    return ''


def _subvolume(root: str, container: str) -> str | None:
    name = rootfs.layer(root, DRIVER, container)
    return name and os.path.join(root, DRIVER, 'subvolumes', name)
