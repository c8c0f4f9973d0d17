# SPDX-License-Identifier: Apache-2.0
"""What other hosts may say to the one that receives a server, and its answers.

A connection begins with a line that says what is here; then requests are
taken until its input ends. All that comes is in frames: their length, 8 bytes
in network order, and as many bytes. A request is a frame of words, answered
by a line; after that of a file come frames of data, the last of them empty. A
line that begins with ``no`` is the end, and says why. Requests are::

    begin SERVER TOKEN MANIFEST
    put NAME

A file is one of the server that the connection has begun; the next ``begin``
ends that.

Only the standard library is imported: ssh starts this anew for each
connection.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import io
import os
import select
import struct
import time
from typing import IO
from typing import Any

from nova_vcloud.transfer import spool as spools

VERSION = 'nova-vcloud-receive 3'
CHUNK = 1 << 20
#: Bytes of a request, with the manifest of a server.
MAX_REQUEST = spools.MAX_MANIFEST
LENGTH = struct.Struct('!Q')
#: Seconds in which a connection must have begun a server, and in which each
#: later request comes once it has begun to come.
BEGIN_TIMEOUT = 30
#: Seconds for which data of a file are awaited.
DATA_TIMEOUT = 300
#: Seconds between two requests: a server is given time to stop, and a
#: connection is kept for the next one.
IDLE_TIMEOUT = 7200


class Input(io.RawIOBase):
    """A pipe or file that is read with a time-out."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._timeout: float = BEGIN_TIMEOUT
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def readable(self) -> bool:
        """Tell that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, once something is.

        :raises TimeoutError: nothing came
        """
        if not self._poll.poll(self._timeout * 1000):
            raise TimeoutError
        return os.readv(self._fd, [buffer])

    def set_timeout(self, seconds: float) -> None:
        """Set the time-out."""
        self._timeout = seconds


class Connection:
    """One host, and what it may do with a spool.

    :param names: those in the host's certificate; None without
    :param set_timeout: sets how many seconds the source waits for more
    """

    def __init__(self, spool: spools.Spool, source: io.BufferedReader,
                 sink: IO[str], names: frozenset[str] | None = None,
                 set_timeout: Callable[[float], None] = lambda _seconds: None
                 ) -> None:
        self._spool = spool
        self._source = source
        self._sink = sink
        self._names = names
        self._set_timeout = set_timeout
        self._arrival: spools.Arrival | None = None

    def serve(self) -> str:
        """Do what the other host asks for, until it asks for nothing more.

        :returns: why it was refused; '' when it was not
        """
        try:
            self._say(VERSION)
            for request in self._requests():
                self._say(f'yes {self._answer(request)}')
        except TimeoutError:
            return self.refuse('timed out: no data received')
        except (spools.Refused, ValueError) as e:  # no text, or no number
            return self.refuse(str(e))
        except BrokenPipeError:
            return ''  # nobody is there any more
        except OSError as e:
            return self.refuse(f'{e.filename or "spool"}: {e.strerror}')
        finally:
            self._end()
        return ''

    def _say(self, line: str) -> None:
        print(line, file=self._sink, flush=True)

    def refuse(self, reason: str) -> str:
        """Say that nothing more is done; return why, in a line."""
        line = ' '.join(reason.split())
        with contextlib.suppress(OSError):
            self._say(f'no {line}')
        return line

    def _end(self) -> None:
        if self._arrival:
            self._arrival.close()
            self._arrival = None

    def _requests(self) -> Iterator[str]:
        # However slowly its bytes come: who sends one now and then would keep
        # a connection that others need.
        deadline = time.monotonic() + BEGIN_TIMEOUT
        self._set_timeout(BEGIN_TIMEOUT)
        while self._source.peek(1):
            if self._arrival:
                deadline = time.monotonic() + BEGIN_TIMEOUT
            length = int(LENGTH.unpack(self._read(LENGTH.size, deadline))[0])
            if length > MAX_REQUEST:
                raise spools.Refused(f'a request of {length} bytes')
            yield self._read(length, deadline).decode()
            self._set_timeout(IDLE_TIMEOUT)

    def _read(self, size: int, deadline: float) -> bytes:
        """Return so many bytes.

        :param deadline: of the monotonic clock
        :raises TimeoutError: they do not come in time
        :raises Refused: the connection has ended
        """
        data = b''
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._set_timeout(left)
            chunk = self._source.read1(size - len(data))
            if not chunk:
                raise spools.Refused('connection closed by the sender')
            data += chunk
        return data

    def _answer(self, request: str) -> str:
        """Do what another host asks for; return what it is told."""
        match request.split(' ', 3):
            case ['begin', server, token, manifest]:
                self._end()
                self._arrival = self._spool.begin(server, token, manifest,
                                                  self._names)
                return 'done'
            case ['put', name]:
                if self._arrival is None:
                    raise spools.Refused('no server was begun')
                self._set_timeout(DATA_TIMEOUT)
                return str(self._arrival.put(name,
                                             self._chunks(self._arrival)))
        raise spools.Refused(f'{request[:80]!r} is no request')

    def _chunks(self, arrival: spools.Arrival) -> Iterator[bytes]:
        """Yield what frames of a file bring.

        :raises Refused: it is too much, or the end is missing
        """
        frames = 0
        while left := self._length():
            arrival.expect(left)
            frames += 1
            if frames > arrival.most_frames():
                raise spools.Refused('the file came in too many frames')
            while left:
                # Not more: the rest may be a request.
                chunk = self._source.read(min(left, CHUNK))
                if not chunk:
                    raise spools.Refused('a file ended within a frame')
                left -= len(chunk)
                yield chunk

    def _length(self) -> int:
        """Return the length of the next frame.

        :raises Refused: there is none
        """
        head = self._source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            raise spools.Refused('connection closed by the sender')
        return int(LENGTH.unpack(head)[0])
