# SPDX-License-Identifier: Apache-2.0
"""Checks of the destination of a move, before the server stops."""

from __future__ import annotations

from nova_vcloud import exception
from nova_vcloud.virt_docker.rootfs import overlay


def check_room(what: str, path: str, size: int, entries: int) -> None:
    """Refuse a server that a file system has no room for.

    :param what: it is of, in an operator's words
    :param path: of a directory of it
    :param size: bytes
    :param entries: files and directories
    :raises MoveFailed: with both figures
    """
    free, inodes = overlay.room(path)
    if size > free:
        raise exception.MoveFailed(
            f'{what} has room for {free >> 20} MiB, and the server needs '
            f'{-(-size >> 20)} MiB')
    if inodes is not None and entries > inodes:
        raise exception.MoveFailed(
            f'{what} has {inodes} inodes left, and the server needs '
            f'{entries}')
