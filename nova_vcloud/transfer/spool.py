# SPDX-License-Identifier: Apache-2.0
"""The directory in which servers of other hosts arrive.

nova-compute admits a server; ``nova-vcloud-receive`` stores what is sent of
it; nova-compute reads that. It may be root, and the account of the receiver
owns the directory: neither follows a symbolic link there, and nova-compute
reads regular files with one name only.

Only the standard library is imported: ssh starts the receiver anew for each
connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import ctypes
import fcntl
import hashlib
import hmac
import io
import json
import os
import re
import stat
import subprocess
import time
from typing import IO
from typing import NamedTuple

MANIFEST = 'manifest.json'
#: Name that the release before gave it.
_OLD_MANIFEST = 'papers.json'
MAX_MANIFEST = 64 << 10  # bytes
#: Bytes that stay free on the file system of the directory.
RESERVE = 64 << 20
#: Seconds from the admission until the sender must have begun.
EXPIRES = 600
#: Seconds for which what is free is counted by another, at most: the
#: receiver's account can hold the lock as long as it likes.
LOCK_TIMEOUT = 10.0
#: Bytes that may wait for the disk. It writes while more comes and the server
#: runs, not when it is down: for each unmount of a root filesystem the kernel
#: waits for all that is dirty on the file system it lies on (ovl_sync_fs).
BEHIND = 16 << 20
SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h

#: Receivers at a time that ssh may have started, each a process.
MAX_RECEIVERS = 64

_ADMISSION = '.admission'
#: File of which each receiver locks a byte.
_RECEIVERS = '.receivers'
_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64,
                                  ctypes.c_int64, ctypes.c_uint]
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_FILE = re.compile(r'(image|layer|changes|disk\.eph(0|[1-9]\d?))\.tar')


class Refused(Exception):
    """What was asked for is not done; says why."""


class Admission(NamedTuple):
    """Permission to send one server here, for one move.

    :ivar token_hash: of :func:`token_hash`
    :ivar migration: UUID of Nova's record of the move
    :ivar sender: address that the sender's TLS certificate must name
    :ivar size: bytes of all files together, at most
    :ivar files: names of the files that may be sent
    :ivar expires: Unix time by which the sender must have begun
    """

    token_hash: str
    migration: str
    sender: str
    size: int
    files: list[str]
    expires: float


def token_hash(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_files(names: Iterable[str]) -> None:
    """See that names are those of files that a move may have.

    :raises Refused: one is not
    """
    for name in names:
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise Refused(f'{name!r} is not the name of a file of a move')


def open_file(path: str) -> IO[bytes]:
    """Open a file that the receiver has stored.

    :raises Refused: it is no regular file, or has another name besides
    :raises FileNotFoundError: there is none
    """
    folder, name = os.path.split(path)
    try:
        where = _open_folder(folder)
    except NotADirectoryError as e:
        raise Refused(f'{folder} is not a directory') from e
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK,
                     dir_fd=where)
    except FileNotFoundError:
        raise
    except OSError as e:  # a symbolic link, a socket
        raise Refused(f'{path} is not a regular file: {e.strerror}') from e
    finally:
        os.close(where)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(fd)
        raise Refused(f'{path} is not a regular file with one name')
    return open(fd, 'rb')


def _open_folder(path: str, dir_fd: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
                   dir_fd=dir_fd)


class Spool:
    """That directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def check(self) -> None:
        """See that only its owner can write to it.

        :raises Refused: with what to change
        :raises FileNotFoundError: there is none
        """
        status = os.lstat(self._path)
        if not stat.S_ISDIR(status.st_mode):
            raise Refused(f'{self._path} is not a directory')
        if os.geteuid() not in (0, status.st_uid):
            raise Refused(
                f'{self._path} belongs to uid {status.st_uid}, and this runs '
                f'as uid {os.geteuid()}: chown {os.geteuid()} {self._path}')
        if status.st_mode & 0o022:
            raise Refused(
                f'others than its owner can write to {self._path} (mode '
                f'{stat.S_IMODE(status.st_mode):o}): chmod 700 {self._path}')
        _check_parents(os.path.realpath(self._path))

    # For nova-compute

    def make(self) -> None:
        """Have the directory.

        :raises Refused: others can write to the one that is there
        """
        with contextlib.suppress(FileExistsError):
            os.makedirs(self._path, mode=0o700)
        self.check()

    def admit(self, server: str, admission: Admission) -> None:
        """Let a server be sent here; an earlier admission of it ends.

        :raises Refused: there is no room, or a name that no file has
        """
        check_files(admission.files)
        if admission.size < 0:
            raise Refused(f'a server of {admission.size} bytes')
        with self._locked() as top:
            self._check_room(server, admission.size)
            temporary = f'{_checked(server)}.new'
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=top)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL
                         | os.O_NOFOLLOW, 0o600, dir_fd=top)
            with open(fd, 'wb', buffering=0) as f:
                _write(f, json.dumps(admission._asdict()).encode())
                owner = os.fstat(top)
                if owner.st_uid != os.geteuid():
                    # The receiver must read it.
                    os.fchown(fd, owner.st_uid, owner.st_gid)
            os.rename(temporary, server + _ADMISSION, src_dir_fd=top,
                      dst_dir_fd=top)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Yield the directory while nobody else counts what is free.

        :raises Refused: somebody does so for too long
        """
        top = _open_folder(self._path)
        deadline = time.monotonic() + LOCK_TIMEOUT
        try:
            while not _try_lock(top):
                if time.monotonic() > deadline:
                    raise Refused(f'{self._path} is locked by another '
                                  'process (lslocks(8) names it)')
                time.sleep(0.01)
            yield top
        finally:
            os.close(top)

    def _check_room(self, server: str, size: int) -> None:
        free = _free(self._path)
        others = sum(self._outstanding(each) for each in self.waiting()
                     if each != server)
        if size + others + RESERVE > free:
            raise Refused(
                f'{self._path} has room for {free >> 20} MiB, of which '
                f'{others >> 20} MiB are to come for other servers; this '
                f'server has {size >> 20} MiB')

    def _outstanding(self, server: str) -> int:
        """Return the bytes that may still come for a server."""
        found = self.admission(server)
        if found is None:
            return 0
        try:
            with os.scandir(os.path.join(self._path, server)) as entries:
                stored = sum(entry.stat(follow_symlinks=False).st_size
                             for entry in entries)
        except OSError:  # it has not begun, or is being removed
            return 0 if time.time() > found.expires else found.size
        return max(0, found.size - stored)

    def admission(self, server: str) -> Admission | None:
        """Return what lets a server be sent here; None when nothing does."""
        path = os.path.join(self._path, _checked(server) + _ADMISSION)
        try:
            with open_file(path) as f:
                return _parsed(f)
        except (FileNotFoundError, Refused, ValueError, TypeError):
            return None

    def revoke(self, server: str) -> None:
        """Let nothing more come for a server; what is there stays."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._path, _checked(server) + _ADMISSION))

    def drop(self, server: str) -> None:
        """Remove what there is of a server; nothing is fine."""
        self.revoke(server)
        _remove(os.path.join(self._path, server))

    def waiting(self) -> list[str]:
        """Return the servers of which something is here."""
        names = {name.removesuffix(_ADMISSION)
                 for name in os.listdir(self._path)}
        return sorted(filter(_UUID.fullmatch, names))

    def folder(self, server: str) -> str:
        """Return the directory of a server, for :func:`open_file`."""
        return os.path.join(self._path, _checked(server))

    def manifest(self, server: str) -> str | None:
        """Return what the sender's nova-compute has written; None for none.

        :raises Refused: it is no manifest
        """
        for name in (MANIFEST, _OLD_MANIFEST):
            with contextlib.suppress(FileNotFoundError), \
                    open_file(os.path.join(self.folder(server), name)) as f:
                text = f.read(MAX_MANIFEST + 1)
                if len(text) > MAX_MANIFEST:
                    raise Refused(f'the manifest of {server} is too large')
                try:
                    return text.decode()
                except UnicodeDecodeError as e:
                    raise Refused(f'the manifest of {server} is no '
                                  'text') from e
        return None

    # For the receiver

    @contextlib.contextmanager
    def receiving(self, most: int = MAX_RECEIVERS) -> Iterator[None]:
        """Be one of the processes that may receive at a time; once in each.

        The kernel ends the lock of one that ends, however it does (fcntl(2)).

        :raises Refused: there are as many already
        """
        fd = os.open(os.path.join(self._path, _RECEIVERS), os.O_RDWR
                     | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not any(_try_lock_byte(fd, number) for number in range(most)):
                raise Refused(
                    f'too many connections: {most} processes of '
                    f'nova-vcloud-receive use {self._path} (--max-receivers)')
            yield
        finally:
            os.close(fd)

    def begin(self, server: str, token: str, manifest: str,
              names: frozenset[str] | None) -> Arrival:
        """Make a directory for a server, with nothing but its manifest.

        :param names: those of the sender in its certificate; None without
        :raises Refused: it was not admitted, or not with that token or from
            that host; another connection sends it; there is no room; others
            can write to the spool
        """
        self.check()
        admission, lock = self._admitted(server, token)
        try:
            if names is not None and admission.sender not in names:
                raise Refused(
                    f'{server} is to come from {admission.sender}, and the '
                    f'certificate names {", ".join(sorted(names)) or "none"}')
            _remove(os.path.join(self._path, server))
            with self._locked() as top:
                self._check_room(server, admission.size)
                os.mkdir(server, mode=0o700, dir_fd=top)
                folder = _open_folder(server, top)
        except BaseException:
            os.close(lock)
            raise
        arrival = Arrival(admission, folder, lock)
        try:
            arrival.write_manifest(manifest)
        except BaseException:
            arrival.close()
            raise
        return arrival

    def _admitted(self, server: str, token: str) -> tuple[Admission, int]:
        """Return the admission of a server, and what locks it."""
        # One answer for all: who has no token learns nothing.
        unknown = Refused(f'no such admission of {server}: nova-compute of '
                          'this host gives it to the sender, for one move')
        path = os.path.join(self._path, _checked(server) + _ADMISSION)
        try:
            f = open_file(path)
        except FileNotFoundError:
            raise unknown from None
        with f:
            found = _parsed(f)
            if not hmac.compare_digest(found.token_hash, token_hash(token)) \
                    or time.time() > found.expires:
                raise unknown
            lock = os.dup(f.fileno())
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Refused(f'a transfer of {server} is in progress') from None
        return found, lock


class Arrival:
    """A server that is being received.

    :param folder: file descriptor of its directory
    :param lock: of its admission, locked
    """

    def __init__(self, admission: Admission, folder: int, lock: int) -> None:
        self._admission = admission
        self._folder = folder
        self._lock = lock
        self._left = admission.size
        self._names: set[str] = set()

    def write_manifest(self, text: str) -> None:
        """Store the manifest."""
        with self._file(MANIFEST) as f:
            _write(f, text.encode())

    def expect(self, size: int) -> None:
        """Take bytes off what may still come.

        :raises Refused: they are more than were announced
        """
        if size > self._left:
            raise Refused(f'more than the {self._admission.size} bytes that '
                          'were announced')
        self._left -= size

    def most_frames(self) -> int:
        """Return how many frames a file may have.

        Senders put 64 KiB in one; only the last of a file has less.
        """
        return self._admission.size // 4096 + 16

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        """Store a file; return its bytes.

        It has its name when it is whole.

        :raises Refused: no such file was announced, or it is here already
        """
        if name not in self._admission.files:
            raise Refused(f'{name!r} is not among the files announced')
        if name in self._names:
            raise Refused(f'{name} was received already')
        self._names.add(name)
        size = started = 0
        with self._file(name) as f:
            for chunk in chunks:
                _write(f, chunk)
                size += len(chunk)
                if size - started >= BEHIND:
                    _start_writing(f, started)
                    started = size
                    self._check()
            _start_writing(f, started)
            self._check()
        return size

    def _check(self) -> None:
        if not os.fstat(self._lock).st_nlink:
            raise Refused('admission expired or revoked')
        if _free(self._folder) < RESERVE:
            raise Refused('no space left in the spool')

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[io.FileIO]:
        fd = os.open(f'{name}.part', os.O_WRONLY | os.O_CREAT | os.O_EXCL
                     | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)
        with open(fd, 'wb', buffering=0) as f:
            yield f
        os.rename(f'{name}.part', name, src_dir_fd=self._folder,
                  dst_dir_fd=self._folder)

    def close(self) -> None:
        """Give up the lock; what has come stays."""
        os.close(self._folder)
        os.close(self._lock)


def _checked(server: str) -> str:
    if not _UUID.fullmatch(server):
        raise Refused(f'{server!r} is not the UUID of a server')
    return server


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_byte(fd: int, number: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _check_parents(path: str) -> None:
    """See that nobody can put another directory in the place of one.

    :raises Refused: with what to change
    """
    parent = os.path.dirname(path)
    if parent == path:
        return
    mode, owner = os.stat(parent).st_mode, os.stat(path).st_uid
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Refused(f'everybody can rename {path}: chmod o-w {parent}')
    if mode & stat.S_IWOTH and owner not in (0, os.geteuid()):
        raise Refused(f'anybody could have made {path}, of uid {owner}, in '
                      f'{parent}: choose another directory')
    _check_parents(parent)


def _parsed(f: IO[bytes]) -> Admission:
    """Return what is in the file of an admission.

    :raises ValueError: nova-compute has not written that
    :raises TypeError: the same
    """
    try:
        found = Admission(**json.loads(f.read(MAX_MANIFEST)))
    except RecursionError as e:
        raise ValueError('no admission') from e
    if (not isinstance(found.size, int) or found.size < 0
            or not isinstance(found.expires, int | float)):
        raise ValueError('no admission')
    return found


def _remove(path: str) -> None:
    """Remove a directory, or what is in its place."""
    if os.path.lexists(path):
        # Not shutil: the account of the receiver may have nested directories
        # deeper than Python can call.
        subprocess.run(['rm', '-rf', '--one-file-system', '--', path],
                       check=False, capture_output=True)


def _free(where: str | int) -> int:
    status = os.statvfs(where)
    return status.f_bavail * status.f_frsize


def _start_writing(f: io.FileIO, start: int) -> None:
    """Have what a file has from ``start`` on go to disk; does not wait."""
    _libc.sync_file_range(f.fileno(), start, 0, SYNC_FILE_RANGE_WRITE)


def _write(f: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[f.write(view):]
