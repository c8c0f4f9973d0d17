# SPDX-License-Identifier: Apache-2.0
"""Opens what is in a server that runs, and waits for nobody in it.

A server with CAP_SYS_ADMIN may mount a file system that a program of its own
answers for (FUSE), or an overlay on one, on any path. Who only asks for the
attributes of what is there waits for that program, and no signal ends it. So
each step of a path is a reference (open(2), O_PATH), for which nobody is
asked, and the kernel says what is mounted there before it is used: a file
system of memory, or one that the host has mounted itself.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes
import errno
import functools
import os
import re
import stat
import struct
from typing import IO
from typing import Any

#: Of which nobody is asked; a server may mount them.
_MEMORY = frozenset({'tmpfs', 'devtmpfs', 'ramfs'})
_REFERENCE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DONT_SYNC = 0x4000  # AT_STATX_DONT_SYNC: what is known, nobody is asked
_TYPE_AND_MODE = 0x3  # STATX_TYPE | STATX_MODE


class Process:
    """A process of a server: this one, whoever gets its number.

    :ivar fd: its directory in /proc
    """

    def __init__(self, fd: int, fdinfo: int) -> None:
        self.fd = fd
        self._fdinfo = fdinfo

    @functools.cached_property
    def _hosts(self) -> set[str]:
        """Return what the host has mounted; asked first from its mounts."""
        return {*_devices('/proc/self/mountinfo'),
                *self._devices_of_the_engine()}

    def _devices_of_the_engine(self) -> set[str]:
        """Return what is mounted where the process was started from.

        The engine may have mounts of its own, as one of snap has.
        """
        status = self._text('status').decode(errors='surrogateescape')
        parent = re.findall(r'^PPid:\s*(\d+)', status, re.M)[0]
        try:
            if os.path.samestat(
                    os.stat('ns/mnt', dir_fd=self.fd),
                    os.stat(f'/proc/{parent}/ns/mnt')):
                return set()
            return set(_devices(f'/proc/{parent}/mountinfo'))
        except OSError:
            return set()

    def groups(self) -> str:
        """Return its control groups, as of proc_pid_cgroup(5).

        A server may have made groups of its own, with any bytes in their
        names.
        """
        return self._text('cgroup').decode('utf-8', 'surrogateescape')

    def _text(self, name: str) -> bytes:
        with self._file(name) as file:
            return file.read()

    def _file(self, name: str) -> IO[bytes]:
        return open(os.open(name, os.O_RDONLY | os.O_CLOEXEC,
                            dir_fd=self.fd), 'rb')

    @contextlib.contextmanager
    def root(self) -> Iterator[int]:
        """Have its root directory.

        :raises OSError: EXDEV: it is not one that the host has mounted
        """
        # Through a link, which leads where nobody is asked.
        with self._checked(os.open('root', os.O_PATH | os.O_CLOEXEC,
                                   dir_fd=self.fd)) as top:
            yield top

    @contextlib.contextmanager
    def below(self, folder: int, *names: str) -> Iterator[int]:
        """Have a reference to what is below a folder of this process.

        No link is followed.

        :raises OSError: EXDEV: it is on a file system that waits for somebody
        """
        with contextlib.ExitStack() as places:
            for name in names:
                folder = places.enter_context(self._checked(
                    os.open(name, _REFERENCE, dir_fd=folder)))
            yield folder

    @contextlib.contextmanager
    def folder(self, *names: str) -> Iterator[int]:
        """Have a reference to a directory by its path below the root.

        :raises OSError: as :meth:`below`; ENOTDIR: it is a link, say
        """
        with self.root() as top, self.below(top, *names) as found:
            if not stat.S_ISDIR(os.fstat(found).st_mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR),
                              '/'.join(names))
            yield found

    @contextlib.contextmanager
    def _checked(self, place: int) -> Iterator[int]:
        try:
            self.check(place)
            yield place
        finally:
            os.close(place)

    def check(self, place: int) -> str:
        """Return the kind of the file system of a reference.

        :raises OSError: EXDEV: it may wait for somebody
        """
        # Not fstatfs(2), which FUSE asks the server for.
        with open(os.open(str(place), os.O_RDONLY | os.O_CLOEXEC,
                          dir_fd=self._fdinfo), 'rb') as file:
            number = re.findall(rb'^mnt_id:\s*(\d+)', file.read(), re.M)[0]
        with self._file('mountinfo') as mounts:
            for line in mounts:
                words = line.split()
                if words[0] == number:
                    kind = words[words.index(b'-', 6) + 1].decode(
                        errors='surrogateescape')
                    if words[2].decode() in self._hosts or kind in _MEMORY:
                        return kind
                    break
            else:
                kind = 'one that is mounted no more'
        raise OSError(errno.EXDEV, f'a file system of the server: {kind}')


def _devices(mountinfo: str) -> Iterator[str]:
    """Yield the numbers of mounted file systems (proc_pid_mountinfo(5))."""
    with open(mountinfo, 'rb') as mounts:
        for line in mounts:
            yield line.split(maxsplit=3)[2].decode()


@contextlib.contextmanager
def process(pid: int) -> Iterator[Process]:
    """Have a process of a server.

    :raises OSError: it is gone
    """
    with contextlib.ExitStack() as fds:
        fd = os.open(f'/proc/{pid}', os.O_PATH | os.O_DIRECTORY)
        fds.callback(os.close, fd)
        # Now: a thread may move to where /proc is the server's.
        fdinfo = os.open('/proc/self/fdinfo', os.O_PATH | os.O_DIRECTORY)
        fds.callback(os.close, fdinfo)
        yield Process(fd, fdinfo)


def device(path: str) -> int | None:
    """Return the number of a block device; None for anything else.

    :param path: also a link of /proc/PID/fd, to a file on whatever it is
    :raises OSError: there is nothing
    """
    found = ctypes.create_string_buffer(256)  # struct statx
    if _libc().statx(-1, os.fsencode(path), _DONT_SYNC, _TYPE_AND_MODE,
                     found):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    mode, = struct.unpack_from('=H', found, 28)
    return os.makedev(*struct.unpack_from('=II', found, 128)) \
        if stat.S_ISBLK(mode) else None


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
