# SPDX-License-Identifier: Apache-2.0
"""Mounts in which ids are others than on the disk (mount_setattr(2)).

What a server owns is thus the same on every disk that moves and in every
archive, whatever the ids of its host: the kernel translates owners, access
lists and the owners of file capabilities, and refuses ids without a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes
import errno
import os
from typing import Any

from nova_vcloud import userns

#: Of ext4 and xfs; btrfs has it since 5.15 (mount_setattr(2)).
KERNEL = '5.12'
# The numbers are the same on all architectures of OpenStack.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV, _MOUNT_ATTR_NOEXEC = 2, 4, 8
_MOUNT_ATTR_IDMAP = 0x00100000
_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100


class _Attributes(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = (('attr_set', ctypes.c_uint64), ('attr_clr', ctypes.c_uint64),
                ('propagation', ctypes.c_uint64),
                ('userns_fd', ctypes.c_uint64))


@contextlib.contextmanager
def view(path: str, ids: userns.IdMap | None) -> Iterator[str]:
    """Have a directory as who is inside user namespaces of ``ids`` sees it.

    No device in it can be opened: who reads the directory of a server that
    runs finds a device where a file was a moment ago. Mounts below it are not
    in there.

    :param ids: None: owners are as they are; then a kernel before KERNEL
        gives the directory itself, with its devices
    :returns: its path, for this process and its children
    :raises OSError: the kernel or the file system cannot
    """
    with contextlib.ExitStack() as undo:
        try:
            found = undo.enter_context(
                _clone(path, ids.turned()) if ids else tree(path))
            _set(found, attr_set=_MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
                 | _MOUNT_ATTR_NOEXEC)
        except OSError as e:
            if ids or e.errno != errno.ENOSYS:
                raise
            seen = path
        else:
            seen = f'/proc/{os.getpid()}/fd/{found}/.'  # no link for find(1)
        yield seen


def show(source: str, path: str, ids: userns.IdMap) -> None:
    """Mount elsewhere what is mounted, whose disk has ids of inside.

    :raises OSError: the kernel or the file system cannot
    """
    with _clone(source, ids) as found:
        attach(found, path)


def why_not(path: str, ids: userns.IdMap) -> str:
    """Return why :func:`view` cannot be had of a directory; '' if it can."""
    try:
        with view(path, ids) as seen:
            os.stat(seen)
    except OSError as e:
        return str(e)
    return ''


@contextlib.contextmanager
def namespace(ids: userns.IdMap) -> Iterator[int]:
    """Have a file descriptor of a user namespace with these ids.

    :raises OSError: the kernel cannot
    """
    with userns.process(ids) as pid:
        found = os.open(f'/proc/{pid}/ns/user', os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield found
    finally:
        os.close(found)


@contextlib.contextmanager
def tree(path: str) -> Iterator[int]:
    """Have a mount of a file or directory that is nowhere yet.

    :raises OSError: the kernel cannot
    """
    found = _check(_libc().syscall(
        _OPEN_TREE, _AT_FDCWD, os.fsencode(path),
        _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC))
    try:
        yield found
    finally:
        os.close(found)


def attach(mount: int, path: str, folder: int = _AT_FDCWD) -> None:
    """Have a mount of :func:`tree` at a path; a link there is not followed.

    :param folder: an open directory, that a relative path is below
    :raises OSError: the kernel cannot
    """
    _check(_libc().syscall(_MOVE_MOUNT, mount, b'', folder,
                           os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH))


@contextlib.contextmanager
def _clone(path: str, ids: userns.IdMap) -> Iterator[int]:
    """Have a mount whose ids on disk are those inside of ``ids``."""
    with tree(path) as found:
        with namespace(ids) as user:
            _set(found, attr_set=_MOUNT_ATTR_IDMAP, userns_fd=user)
        yield found


def _set(mount: int, **attributes: int) -> None:
    wanted = _Attributes(**attributes)
    _check(_libc().syscall(
        _MOUNT_SETATTR, mount, b'', _AT_EMPTY_PATH, ctypes.byref(wanted),
        ctypes.sizeof(wanted)))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
