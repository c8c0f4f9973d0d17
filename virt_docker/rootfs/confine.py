# SPDX-License-Identifier: Apache-2.0
"""Runs a program that sees one directory of the host, and its own files.

What unpacks an archive of another host gets a mount namespace of its own, in
which there is nothing but the programs of this host, read-only, and the
directory it unpacks to. Whatever name, link or device an archive has, there
is nothing else to which it could lead.

Of the standard library alone, and run as a file, without the environment and
site-packages: a server is down while it starts.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys

#: Where it is run, by :func:`words`.
_NEW_ROOT = '/tmp'  # noqa: S108 - covered by a file system of its own
_FOLDER = '/folder'
#: Programs, and the libraries they need.
_PROGRAMS = ('usr', 'bin', 'sbin', 'lib', 'lib64')
_PATH = ('/usr/bin', '/bin')
_ENVIRONMENT = {'LC_ALL': 'C.UTF-8', 'PATH': ':'.join(_PATH)}

# linux/sched.h, linux/mount.h
_CLONE_NEWNS = 0x00020000
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _MOVE, _REC, _PRIVATE = 32, 4096, 8192, 16384, 1 << 18

# The numbers are the same on all architectures of OpenStack.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_IDMAP = 0x00100000
_AT_EMPTY_PATH, _AT_FDCWD = 0x1000, -100

_libc = ctypes.CDLL(None, use_errno=True)


def words(folder: str, program: list[str], most: int | None = None,
          namespace: int | None = None) -> list[str]:
    """Return the command that runs a program so.

    :param folder: which it has as its working directory
    :param most: bytes of the largest file that it may write
    :param namespace: file descriptor, to be inherited, of the user namespace
        by which owners in the directory are translated (mount_setattr(2))
    """
    return [sys.executable, '-I', '-S', os.path.abspath(__file__), folder,
            str(most or 0), str(-1 if namespace is None else namespace),
            *program]


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str | None, target: str, flags: int,
           kind: str | None = None, options: str | None = None) -> None:
    given = [text if text is None else os.fsencode(text)
             for text in (source, target, kind, options)]
    _check(_libc.mount(given[0], given[1], given[2], ctypes.c_ulong(flags),
                       given[3]), f'mount {target}')


def _mapped(folder: str, namespace: int) -> int:
    """Return a mount of a directory with translated owners."""
    tree = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(folder),
                         _OPEN_TREE_CLONE)
    _check(min(tree, 0), f'open_tree {folder}')
    # struct mount_attr: set, clear, propagation, user namespace
    wanted = struct.pack('=QQQQ', _MOUNT_ATTR_IDMAP, 0, 0, namespace)
    _check(_libc.syscall(_MOUNT_SETATTR, tree, b'', _AT_EMPTY_PATH, wanted,
                         len(wanted)), f'mount_setattr {folder}')
    return int(tree)


def _enter(folder: str, namespace: int) -> None:
    """Have a root directory with that folder and programs only."""
    _check(_libc.unshare(_CLONE_NEWNS), 'unshare')
    _mount(None, '/', _REC | _PRIVATE)
    # Of this namespace, and before something covers the way to it.
    source = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW) \
        if namespace < 0 else _mapped(folder, namespace)
    _mount('tmpfs', _NEW_ROOT, _NOSUID | _NODEV, 'tmpfs', 'size=64k,mode=755')
    for name in _PROGRAMS:
        _show(f'/{name}', f'{_NEW_ROOT}/{name}')
    target = _NEW_ROOT + _FOLDER
    os.mkdir(target)
    if namespace < 0:
        _mount(f'/proc/self/fd/{source}', target, _BIND)
    else:
        _check(_libc.syscall(_MOVE_MOUNT, source, b'', _AT_FDCWD,
                             os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH),
               f'move_mount {target}')
        os.close(namespace)
    _mount(None, target, _REMOUNT | _BIND | _NOSUID | _NODEV | _NOEXEC)
    os.close(source)
    _mount(None, _NEW_ROOT, _REMOUNT | _RDONLY | _NOSUID | _NODEV)
    # As switch_root(8): pivot_root cannot leave a root that is an initramfs.
    os.chdir(_NEW_ROOT)
    _mount('.', '/', _MOVE)
    os.chroot('.')
    os.chdir(_FOLDER)


def _show(path: str, target: str) -> None:
    """Have a directory of the host in the new root, not to be written to."""
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
    elif os.path.isdir(path):
        os.mkdir(target)
        _mount(path, target, _BIND)
        _mount(None, target, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def main() -> None:
    """Become the program; ``sys.argv``: folder, bytes, namespace, its words.
    """
    folder, most, namespace, *program = sys.argv[1:]
    try:
        _enter(folder, int(namespace))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if int(most):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
            # Python ignores it, and tar a file that it cannot make as large.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        # Not os.execvpe: it imports, and there is nothing left to import.
        path = next(filter(os.path.exists, (
            f'{each}/{program[0]}' for each in _PATH)), program[0])
        os.execve(path, program, _ENVIRONMENT)  # noqa: S606
    except OSError as e:
        sys.exit(f'{e.filename or program[0]}: {e.strerror}')


if __name__ == '__main__':
    main()
