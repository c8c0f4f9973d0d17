# SPDX-License-Identifier: Apache-2.0
"""Transports to ``nova-vcloud-receive`` of another host: ssh, and TLS.

Both authenticate either end and each of their records (RFC 5647, RFC 8446):
what is changed on the way ends the connection.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import select
import socket
import ssl
import subprocess
import time
from typing import IO
from typing import Any
from typing import Protocol
from typing import cast

from nova_vcloud import exception
from nova_vcloud.transfer import listener

CHUNK = 1 << 20
CONNECT_TIMEOUT = 10  # seconds
CLOSE_TIMEOUT = 10  # seconds for an orderly end
#: Bytes of an answer, and of what is kept of an ssh's standard error.
MAX_LINE = 4096
CLOSED = 'connection closed by the remote host'


class Channel(Protocol):
    """A connection to another host.

    Nothing waits for that host without a bound.
    """

    def write(self, data: bytes, timeout: float) -> None:
        """Send all of ``data``.

        :param timeout: seconds for each ``CHUNK`` of it
        :raises TimeoutError: the other end does not read
        :raises OSError: the connection is closed
        """

    def read_line(self, timeout: float) -> bytes:
        """Return the next line; nothing at the end.

        :param timeout: seconds for all of it
        :raises TimeoutError: it does not come
        :raises OSError: it was cut off, or is too long
        """

    def readable(self) -> bool:
        """Tell whether there is something to read, or the end."""

    def close_reason(self) -> str:
        """Return why the other end has closed the connection."""

    def close(self) -> None:
        """End it in order, or else by force."""

    def kill(self) -> None:
        """End it at once, whatever is on its way."""


class Transport(Protocol):
    """How other hosts are reached; from ``[vcloud_migration]``."""

    def check(self) -> None:
        """See that all that is needed here is there.

        :raises HostNotReady: with what to change
        """

    def connect(self, host: str) -> Channel:
        """Return a connection.

        :param host: its address
        :raises OSError: there is none
        """


@dataclasses.dataclass(frozen=True)
class Ssh:
    """The command of another host, by ssh."""

    user: str
    port: int
    identity_file: str
    known_hosts_file: str
    command: str

    def check(self) -> None:
        """ssh says what it lacks when it is used."""

    def connect(self, host: str) -> Channel:
        """Return a connection, which may yet fail."""
        return _Program(self.words(host))

    def words(self, host: str) -> list[str]:
        """Return the command that runs ours on another host."""
        options = {'BatchMode': 'yes', 'ConnectTimeout': CONNECT_TIMEOUT,
                   'StrictHostKeyChecking': 'yes', 'Compression': 'no',
                   # Put first what processors do by themselves.
                   'Ciphers': '^aes128-gcm@openssh.com',
                   # A host that dies is noticed within a minute.
                   'ServerAliveInterval': 15, 'LogLevel': 'ERROR'}
        if self.identity_file:
            options |= {'IdentityFile': self.identity_file,
                        'IdentitiesOnly': 'yes'}
        if self.known_hosts_file:
            options['UserKnownHostsFile'] = self.known_hosts_file
        given = [word for name, value in options.items()
                 for word in ('-o', f'{name}={value}')]
        return ['ssh', '-T', '-p', str(self.port), '-l', self.user, *given,
                '--', host, self.command]


class _Stream:
    """Data to another host, and lines of it, of which nothing is believed.
    """

    def __init__(self) -> None:
        self._received = b''

    def write(self, data: bytes, timeout: float) -> None:
        """Send all of ``data``; see :class:`Channel`."""
        unsent = memoryview(data)
        while unsent:
            deadline = time.monotonic() + timeout
            rest = max(0, len(unsent) - CHUNK)
            while len(unsent) > rest:
                sent = self._send(unsent[:len(unsent) - rest], deadline)
                unsent = unsent[sent:]

    def read_line(self, timeout: float) -> bytes:
        """Return the next line; see :class:`Channel`."""
        deadline = time.monotonic() + timeout
        while b'\n' not in self._received:
            if len(self._received) >= MAX_LINE:
                raise OSError(f'protocol error: a line of more than '
                              f'{MAX_LINE} bytes')
            chunk = self._receive(MAX_LINE - len(self._received), deadline)
            if not chunk:
                break
            self._received += chunk
        line, newline, self._received = self._received.partition(b'\n')
        return line + newline

    def _send(self, data: memoryview, deadline: float) -> int:
        """Send some of it until a time of the monotonic clock."""
        raise NotImplementedError

    def _receive(self, size: int, deadline: float) -> bytes:
        raise NotImplementedError


class _Program(_Stream):
    """A channel to a program's input and from its output.

    Its standard error is read whenever something else is waited for, so that
    it neither waits for us nor fills our memory.
    """

    def __init__(self, words: list[str]) -> None:
        super().__init__()
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, bufsize=0)
        self._pipes = [cast('IO[bytes]', pipe) for pipe in (
            self._process.stdin, self._process.stdout, self._process.stderr)]
        self._stdin, self._stdout, self._stderr = (
            pipe.fileno() for pipe in self._pipes)
        self._stderr_open = True
        self._errors = b''
        os.set_blocking(self._stdin, False)
        widen(self._stdin)

    def _send(self, data: memoryview, deadline: float) -> int:
        self._wait(self._stdin, select.POLLOUT, deadline)
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0

    def _receive(self, size: int, deadline: float) -> bytes:
        self._wait(self._stdout, select.POLLIN, deadline)
        return os.read(self._stdout, size)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        """Wait for one of its pipes.

        :param deadline: of the monotonic clock
        :raises TimeoutError: nothing happens until then
        """
        poll = select.poll()
        poll.register(fd, event)
        if self._stderr_open:
            poll.register(self._stderr, select.POLLIN)
        while True:
            ready = dict(poll.poll(_left(deadline) * 1000))
            if fd in ready:
                return
            if self._stderr in ready and not self._read_errors():
                poll.unregister(self._stderr)

    def _read_errors(self) -> bool:
        """Keep the end of what is on standard error; tell whether it is open.
        """
        chunk = os.read(self._stderr, CHUNK)
        self._errors = (self._errors + chunk)[-MAX_LINE:]
        self._stderr_open = bool(chunk)
        return self._stderr_open

    def readable(self) -> bool:
        return bool(self._received) or _readable(self._stdout)

    def close_reason(self) -> str:
        self._ended()
        if self._process.poll() is None:
            return CLOSED
        return self._errors.decode(errors='replace')

    def _ended(self) -> bool:
        """Wait until it has said all; tell whether it has ended.

        What is on its standard output is thrown away.
        """
        deadline = time.monotonic() + CLOSE_TIMEOUT
        try:
            while self._receive(CHUNK, deadline):
                pass
            while self._stderr_open:
                self._wait(self._stderr, select.POLLIN, deadline)
                self._read_errors()
            self._process.wait(max(0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            return False
        return True

    def close(self) -> None:
        self._pipes[0].close()
        if not self._ended():
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        self._process.kill()
        self._reap()

    def _reap(self) -> None:
        self._process.wait()
        # Not communicate(): a child of it may have them open, too.
        for pipe in self._pipes:
            pipe.close()


@dataclasses.dataclass(frozen=True)
class Tls:
    """The port on which another host listens, by TLS.

    :ivar cert: file of this host's certificate, and ``key`` of its key
    :ivar ca: file of certificates that sign those of the other hosts
    """

    port: int
    cert: str
    key: str
    ca: str

    def check(self) -> None:
        """See that all certificates are there."""
        try:
            self._context  # noqa: B018 - made when it is asked for
        except OSError as e:
            raise exception.HostNotReady(
                'Servers cannot be sent by TLS: set [vcloud_migration] '
                f'tls_cert_file ({self.cert!r}), tls_key_file ({self.key!r}) '
                f'and tls_ca_file ({self.ca!r}) to files in PEM that belong '
                f'together, or transport to ssh: {e}') from e

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        # It wants a certificate, and the address of the host in it.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.cert, self.key)
        context.load_verify_locations(self.ca)
        return context

    def connect(self, host: str) -> Channel:
        """Return a connection."""
        with contextlib.ExitStack() as undo:
            plain = undo.enter_context(socket.create_connection(
                (host, self.port), CONNECT_TIMEOUT))
            listener.prepare(plain)
            plain.settimeout(listener.HANDSHAKE)
            tls = self._context.wrap_socket(plain, server_hostname=host)
            undo.pop_all()
        return _Socket(tls)


class _Socket(_Stream):
    """A channel by a socket."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__()
        self._connection = connection

    def _send(self, data: memoryview, deadline: float) -> int:
        self._connection.settimeout(_left(deadline))
        return self._connection.send(data)

    def _receive(self, size: int, deadline: float) -> bytes:
        self._connection.settimeout(_left(deadline))
        return self._connection.recv(size)

    def readable(self) -> bool:
        return (bool(self._received) or bool(self._connection.pending())
                or _readable(self._connection.fileno()))

    def close_reason(self) -> str:
        return CLOSED

    def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        self._connection.close()


def _left(deadline: float) -> float:
    """Return the seconds until a time of the monotonic clock.

    :raises TimeoutError: it is over
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def widen(pipe: int) -> None:
    """Let a pipe hold a chunk: fewer turns of those at its ends."""
    with contextlib.suppress(OSError):  # more than a user may have
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)


def transport_of(conf: Any) -> Transport:
    """Return the transport that the operator has chosen.

    :param conf: ``[vcloud_migration]``
    """
    if conf.transport == 'tls':
        return Tls(conf.tls_port, conf.tls_cert_file, conf.tls_key_file,
                   conf.tls_ca_file)
    return Ssh(conf.ssh_user, conf.ssh_port, conf.ssh_identity_file,
               conf.ssh_known_hosts_file, conf.receive_command)
