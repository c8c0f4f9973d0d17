# SPDX-License-Identifier: Apache-2.0
"""Sizes of root filesystems of overlay2 on xfs with project quotas.

See xfs_quota(8). What a server writes counts, the files of its image do not.
The engine gives a container a project, and only one that is made with a size.
It limits bytes alone: a size is whole here with a limit of inodes beside it,
without which a server takes all of the host's with empty files.
"""

from __future__ import annotations

from collections.abc import Mapping
import fcntl
import os
import pathlib
import struct
from typing import Any

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud.qos.disk import devices
from nova_vcloud.qos.disk import rootfs

DRIVER = 'overlay2'
#: Whether a container has a size later only when it was made with one.
AT_CREATION = True
#: Whether a size can be taken back.
SHRINKS = True
REMARK = ('the files of the image do not count; df inside shows it, and df -i '
          'one inode for each 16 KiB')
STEP = 4096  # bytes; a block of the file system
OPTIONS = ('prjquota', 'pquota')
#: Bytes of a size for which a server may have an inode: the ratio of
#: mke2fs.conf(5), which a virtual machine's disk would have.
BYTES_PER_INODE = 16384

_GET_ATTRIBUTES = 0x801c581f  # FS_IOC_FSGETXATTR, linux/fs.h
_ATTRIBUTES = struct.Struct('=IIIII8x')  # struct fsxattr; project is 4th


def why_not(info: Mapping[str, Any]) -> str:
    """Return what is missing for sizes to hold; '' when nothing is."""
    backing = dict(info.get('DriverStatus') or ()).get('Backing Filesystem')
    if backing != 'xfs':
        return (f'overlay2 needs xfs with project quotas for it and is on '
                f'{backing}, whose bytes and inodes all servers share; on a '
                'kernel without them, btrfs holds it')
    path = os.path.realpath(rootfs.place(info))
    mounts = pathlib.Path('/proc/self/mountinfo').read_text()
    _source, options = devices.mounted(path, mounts)
    if not any(name in options for name in OPTIONS):
        return f'{path} is on xfs without project quotas; mount it -o pquota'
    try:
        usable(path)
    except exception.LimitNotEnforced as e:
        return f'{e}; install xfsprogs'
    return ''


@privsep.disk.entrypoint
def usable(path: str) -> str:
    """Return the state of the project quotas of a file system.

    :raises LimitNotEnforced: nobody can tell
    """
    return _quota(path, 'state -p')


@privsep.disk.entrypoint
def look(root: str, container: str) -> tuple[int, int] | None:
    """Return the bytes a container uses and may use, 0 being any number.

    A limit of bytes without the limit of inodes that belongs to it is none.

    :param root: the engine's data-root
    :returns: None when there is no such container
    :raises LimitNotEnforced: the file system cannot tell
    """
    path = _directory(root, container)
    if path is None:
        return None
    project = _project(path)
    if not project:
        return 0, 0
    return parse(_said(path, project))


def _said(path: str, project: int) -> str:
    return _quota(
        path, *(f'quota -p {kind} -N -v {project}' for kind in ('-b', '-i')))


def parse(text: str) -> tuple[int, int]:
    """Return the bytes that a project uses and may use, 0 being any number.

    :param text: what xfs_quota(8) says of its blocks, and then of its inodes:
        device, used, soft and hard limit, and more, in one line or two
    """
    words, inodes = text.split(), _inodes(text)
    used, size = int(words[1]) * 1024, _least(words) * 1024
    # A size that is no whole number of blocks is rounded, its inodes are not.
    if not size or abs(_least(inodes) - inodes_of(size)) > 1:
        return used, 0
    return used, size


def _inodes(text: str) -> list[str]:
    """Return the words about inodes: device, used, and the limits."""
    words = text.split()
    return words[words.index(words[0], 1):]


def _least(words: list[str]) -> int:
    return min((int(word) for word in words[2:4] if int(word)), default=0)


def inodes_of(size: int) -> int:
    """Return the inodes that a server with so many bytes may have."""
    return size // BYTES_PER_INODE


@privsep.disk.entrypoint
def limit(root: str, container: str, size: int) -> None:
    """Let a container use so many bytes, 0 being any number.

    :raises LimitNotEnforced: with the reason
    """
    path = _directory(root, container)
    if path is None:
        raise exception.LimitNotEnforced(f'no container {container}')
    project = _project(path)
    if not project:
        raise exception.LimitNotEnforced(
            'the server was made without a size of its disk and can have '
            'none later; move it to another host')
    _quota(path, rootfs.quota_command(project, size, inodes_of(size)))


@privsep.disk.entrypoint
def make_room(root: str, container: str) -> str:
    """Have room in the quota of a stopped container for its start.

    What the engine and the kernel's overlay make beside what a server has
    written is of its project, or could not be renamed into that.

    :returns: line for the runtime that ends it; '' when there was room
    :raises LimitNotEnforced: it cannot be had
    """
    path = _directory(root, container)
    project = _project(path) if path is not None else 0
    if path is None or not project:
        return ''
    said = _said(path, project)
    used, size = parse(said)
    files, count = int(_inodes(said)[1]), inodes_of(size)
    if not size or (used + rootfs.ROOM <= size
                    and files + rootfs.ROOM_INODES <= count):
        return ''
    _quota(path, rootfs.quota_command(
        project, max(used, size) + rootfs.ROOM,
        max(files, count) + rootfs.ROOM_INODES))
    return f'quota {project} {size} {count} {_mount(path)}'


def _directory(root: str, container: str) -> str | None:
    name = rootfs.layer(root, DRIVER, container)
    return name and os.path.join(root, DRIVER, name)


def _project(path: str) -> int:
    """Return the number of the project of a directory, 0 for none."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = fcntl.ioctl(folder, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))
    finally:
        os.close(folder)
    return int(_ATTRIBUTES.unpack(found)[3])


def _quota(path: str, *commands: str) -> str:
    return rootfs.tool('xfs_quota', '-x', *(
        word for command in commands for word in ('-c', command)),
        _mount(path))


def _mount(path: str) -> str:
    mount = os.path.realpath(path)
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    return mount
