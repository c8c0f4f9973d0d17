# SPDX-License-Identifier: Apache-2.0
"""Device nodes for servers that have a user namespace.

Nobody can open a node that is on a file system of such a namespace (its
superblock has SB_I_NODEV), and /dev of a server is one. So the node is in the
host's /dev, owned by who is root in the server, and mounted over a file.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import ctypes
import os
import pathlib
import shutil
import stat
from typing import Any

from nova_vcloud import idmounts
from nova_vcloud import netns
from nova_vcloud import userns
from nova_vcloud.virt_docker.guest import server_files

#: On devtmpfs, where nodes may be. Only root gets in.
FOLDER = '/dev/nova-vcloud'
MODE = 0o660
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8


def path(namespace: str, name: str) -> str:
    """Return where the node of a server's device is."""
    return os.path.join(FOLDER, namespace, name)


def make(namespace: str, name: str, number: tuple[int, int],
         ids: userns.IdMap) -> str:
    """Have a node that root of a server may use; return its path."""
    node = path(namespace, name)
    pathlib.Path(FOLDER).mkdir(mode=0o700, exist_ok=True)
    pathlib.Path(node).parent.mkdir(mode=0o700, exist_ok=True)
    remove(namespace, name)
    pathlib.Path(node).parent.mkdir(mode=0o700, exist_ok=True)
    os.mknod(node, MODE | stat.S_IFBLK, os.makedev(*number))
    os.chmod(node, MODE)
    os.chown(node, *ids.root)
    return node


def remove(namespace: str, name: str = '') -> None:
    """Remove a node, or all of a server; an absent one is fine."""
    if not name:
        shutil.rmtree(os.path.join(FOLDER, namespace), ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path(namespace, name))
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(FOLDER, namespace))


@netns.own_thread
def show(pid: int, node: str, ids: userns.IdMap) -> None:
    """Mount a node in the /dev of a process.

    :raises OSError: something is there, say
    """
    name, (uid, gid) = os.path.basename(node), ids.root
    with idmounts.tree(node) as tree, _entered(pid) as (_process, folder):
        # What is on this file system is of somebody inside.
        _call('setfsgid', gid)
        _call('setfsuid', uid)
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                         | os.O_WRONLY, 0o600, dir_fd=folder))
        _call('setfsuid', 0)
        _call('setfsgid', 0)
        try:
            idmounts.attach(tree, name, folder)
        except OSError:
            os.unlink(name, dir_fd=folder)
            raise


@netns.own_thread
def hide(pid: int, name: str,
         is_ours: Callable[[server_files.Process, int], bool]) -> None:
    """Undo :func:`show`; where there is something else it stays.

    :param is_ours: tells by a process and its /dev
    :raises OSError: the kernel refused
    """
    with _entered(pid) as (process, folder):
        if is_ours(process, folder):
            os.fchdir(folder)  # of this thread alone
            if _libc().umount2(os.fsencode(name),
                               _MNT_DETACH | _UMOUNT_NOFOLLOW):
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
            os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _entered(pid: int) -> Iterator[tuple[server_files.Process, int]]:
    """Move the calling thread into the mounts of a process; have its /dev."""
    mounts = os.open(f'/proc/{pid}/ns/mnt', os.O_RDONLY | os.O_CLOEXEC)
    try:
        with server_files.process(pid) as process, \
                process.folder('dev') as folder:
            _call('unshare', _CLONE_FS)
            _call('setns', mounts, _CLONE_NEWNS)
            yield process, folder
    finally:
        os.close(mounts)


def _call(name: str, *numbers: int) -> None:
    if getattr(_libc(), name)(*numbers) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
