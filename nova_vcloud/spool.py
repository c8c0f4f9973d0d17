# SPDX-License-Identifier: Apache-2.0
"""What other hosts may do with the spool, in which servers arrive.

A connection begins with a line that says what is here; then requests are
taken until its input ends. All that comes is in frames: their length, 8 bytes
in network order, and as many bytes. A request is a frame of words, answered
by a line; after that of a file come frames of data, the last of them empty. A
line that begins with ``no`` is the end, and says why.

Only the standard library is imported: ssh starts this anew for each
connection.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes
import io
import os
import re
import shutil
import struct
from typing import IO

VERSION = 'nova-vcloud-receive 2'
CHUNK = 1 << 20
MAX_REQUEST = 1 << 20  # bytes, with the papers of a server
LENGTH = struct.Struct('!Q')
PAPERS = 'papers.json'
#: Of what is left when a server has arrived.
RESERVE = 64 << 20
#: Bytes that may wait for the disk. It writes while more comes and the server
#: runs, not when it is down: for each unmount of a root filesystem the kernel
#: waits for all that is dirty on the file system it lies on (ovl_sync_fs).
BEHIND = 16 << 20
SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h

_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64,
                                  ctypes.c_int64, ctypes.c_uint]
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_NAME = re.compile(r'[a-z][a-z0-9.-]{0,40}')


class Refused(Exception):
    """What was asked for is not done; says why."""


class Spool:
    """What other hosts may do with a directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _folder(self, server: str) -> str:
        if not _UUID.fullmatch(server):
            raise Refused(f'{server!r} is not the UUID of a server')
        return os.path.join(self._path, server)

    def begin(self, server: str, size: str, papers: str) -> None:
        """Make a directory for a server, with nothing but its papers.

        :param size: bytes that are to come
        :param papers: what nova-compute wants to know of it
        :raises Refused: there is no room for them
        """
        folder = self._folder(server)
        if not size.isdecimal():
            raise Refused(f'{size!r} is not a number of bytes')
        free = shutil.disk_usage(self._path).free
        if int(size) + RESERVE > free:
            raise Refused(
                f'{self._path} has room for {free >> 20} MiB, the server '
                f'has {int(size) >> 20} MiB')
        self.drop(server)
        os.mkdir(folder, mode=0o700)
        with self._made(server, PAPERS) as f:
            _write(f, papers.encode())

    def put(self, server: str, name: str, source: io.BufferedReader) -> int:
        """Store a file; return its bytes.

        It has its name when it is whole.

        :param source: of the frames
        :raises Refused: the name is none of ours, or the end is missing
        """
        if not _NAME.fullmatch(name):
            raise Refused(f'{name!r} is not the name of a file')
        size, started = 0, 0
        with self._made(server, name) as f:
            while left := _length(source):
                size += left
                while left:
                    # Not more: the rest may be a request.
                    chunk = source.read(min(left, CHUNK))
                    if not chunk:
                        raise Refused(f'{name} ended within a frame')
                    left -= len(chunk)
                    _write(f, chunk)
                if size - started >= BEHIND:
                    _start_writing(f, started)
                    started = size
            _start_writing(f, started)
        return size

    @contextlib.contextmanager
    def _made(self, server: str, name: str) -> Iterator[io.FileIO]:
        path = os.path.join(self._folder(server), name)
        with open(f'{path}.part', 'xb', buffering=0) as f:
            yield f
        os.replace(f'{path}.part', path)

    def drop(self, server: str) -> None:
        """Remove what there is of a server; nothing is fine."""
        shutil.rmtree(self._folder(server), ignore_errors=True)

    def answer(self, request: str, source: io.BufferedReader) -> str:
        """Do what another host asks for; return what it is told.

        :param source: of the frames that may follow
        :raises Refused: with the reason
        """
        match request.split(' ', 3):
            case ['begin', server, size, papers]:
                self.begin(server, size, papers)
            case ['put', server, name]:
                return str(self.put(server, name, source))
            case ['drop', server]:
                self.drop(server)
            case _:
                raise Refused(f'{request[:80]!r} is no request')
        return 'done'


def _start_writing(f: io.FileIO, start: int) -> None:
    """Have what a file has from ``start`` on go to disk; does not wait."""
    _libc.sync_file_range(f.fileno(), start, 0, SYNC_FILE_RANGE_WRITE)


def _write(f: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[f.write(view):]


def _length(source: io.BufferedReader) -> int:
    """Return the length of the next frame.

    :raises Refused: there is none
    """
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise Refused('the connection has ended')
    return int(LENGTH.unpack(head)[0])


def _requests(source: io.BufferedReader) -> Iterator[str]:
    while source.peek(1):
        length = _length(source)
        if length > MAX_REQUEST:
            raise Refused(f'a request of {length} bytes')
        text = source.read(length)
        if len(text) < length:
            raise Refused('the connection has ended')
        yield text.decode()


def serve(spool: Spool, source: io.BufferedReader, sink: IO[str]) -> bool:
    """Do what another host asks for, until it asks for nothing more.

    :returns: whether all was done
    """
    try:
        print(VERSION, file=sink, flush=True)
        for request in _requests(source):
            print('yes', spool.answer(request, source), file=sink, flush=True)
    except (Refused, ValueError) as e:  # no text, or no number
        return _refuse(str(e), sink)
    except BrokenPipeError:
        return False  # nobody is there any more
    except OSError as e:
        return _refuse(f'{e.filename or "spool"}: {e.strerror}', sink)
    return True


def _refuse(reason: str, sink: IO[str]) -> bool:
    with contextlib.suppress(OSError):
        print('no', reason.replace('\n', ' '), file=sink, flush=True)
    return False
