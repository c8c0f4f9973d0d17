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
import select
import socket
import ssl
import subprocess
from typing import IO
from typing import Any
from typing import Protocol
from typing import cast

from nova_vcloud import exception
from nova_vcloud import listener

CHUNK = 1 << 20
CONNECT_TIMEOUT = 10  # seconds
MAX_LINE = 4096  # bytes of an answer; the rest of a longer one is not read


class Channel(Protocol):
    """A connection to another host."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``.

        :raises OSError: the other end takes no more
        """

    def line(self) -> bytes:
        """Return the next line; nothing at the end.

        :raises OSError: it was cut off, or is too long
        """

    def spoke(self) -> bool:
        """Tell whether there is something to hear, or the end."""

    def why(self) -> str:
        """Return the reason for an end."""

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


class _Program:
    """A channel to a program's input and from its output."""

    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, bufsize=0)
        self._sink = cast('IO[bytes]', self._process.stdin)
        widen(self._sink.fileno())

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._sink.write(view):]

    def line(self) -> bytes:
        return _line(cast('IO[bytes]', self._process.stdout))

    def spoke(self) -> bool:
        return _readable(cast('IO[bytes]', self._process.stdout))

    def why(self) -> str:
        try:
            _out, said = self._process.communicate(timeout=CONNECT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return 'it closed the connection'
        return said.decode(errors='replace')

    def close(self) -> None:
        try:
            self._process.communicate(timeout=CONNECT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        # Not communicate(): a child of it may have them open, too.
        for pipe in (self._process.stdin, self._process.stdout,
                     self._process.stderr):
            cast('IO[bytes]', pipe).close()


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
            tls = self._context.wrap_socket(plain, server_hostname=host)
            undo.pop_all()
        tls.settimeout(None)
        return _Socket(tls)


class _Socket:
    """A channel by a socket."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lines = connection.makefile('rb')

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)

    def line(self) -> bytes:
        return _line(self._lines)

    def spoke(self) -> bool:
        return bool(self._connection.pending()) or _readable(self._connection)

    def why(self) -> str:
        return 'it closed the connection'

    def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        self._lines.close()
        self._connection.close()


def _line(source: IO[bytes]) -> bytes:
    """Return a line of another host, of which nothing is believed."""
    line = source.readline(MAX_LINE)
    if len(line) == MAX_LINE and not line.endswith(b'\n'):
        raise OSError(f'it says more than {MAX_LINE} bytes in a line')
    return line


def _readable(source: Any) -> bool:
    poll = select.poll()
    poll.register(source, select.POLLIN)
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
