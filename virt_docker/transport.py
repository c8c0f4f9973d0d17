# SPDX-License-Identifier: Apache-2.0
"""Data of servers on their way to another host, over ssh.

The other end is ``nova-vcloud-receive``. ssh authenticates both hosts; that
all has come is known by the digest of both ends.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import os
import select
import subprocess
import tempfile
from typing import IO
from typing import cast

from nova_vcloud import exception

CHUNK = 1 << 20
CONNECT_TIMEOUT = 10  # seconds


@dataclasses.dataclass(frozen=True)
class Ssh:
    """How other hosts are reached; from ``[vcloud_migration]``."""

    user: str
    port: int
    identity_file: str
    known_hosts_file: str
    command: str

    def words(self, host: str, asked: Iterable[str],
              more: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs ours on another host.

        :param more: options of ssh_config(5)
        """
        options = {'BatchMode': 'yes', 'ConnectTimeout': CONNECT_TIMEOUT,
                   'StrictHostKeyChecking': 'yes', 'Compression': 'no',
                   # Put first what processors do by themselves.
                   'Ciphers': '^aes128-gcm@openssh.com',
                   # A host that dies is noticed within a minute.
                   'ServerAliveInterval': 15, 'LogLevel': 'ERROR',
                   **(more or {})}
        if self.identity_file:
            options |= {'IdentityFile': self.identity_file,
                        'IdentitiesOnly': 'yes'}
        if self.known_hosts_file:
            options['UserKnownHostsFile'] = self.known_hosts_file
        given = [word for name, value in options.items()
                 for word in ('-o', f'{name}={value}')]
        return ['ssh', '-T', '-p', str(self.port), '-l', self.user, *given,
                '--', host, self.command, *asked]


class Remote:
    """The spool of another host.

    :param host: address of it
    """

    def __init__(self, ssh: Ssh, host: str) -> None:
        self._ssh = ssh
        self._host = host

    @contextlib.contextmanager
    def announced(self, server: str, size: int,
                  papers: str) -> Iterator[Delivery]:
        """Make room for a server, and keep the connection meanwhile.

        To make one takes longer than all that is to be sent of many servers
        when they have stopped. It ends with this process, however that ends.

        :param size: bytes
        :param papers: a line, what the other nova-compute wants to know
        :raises MoveFailed: the host cannot be reached, or has no room
        """
        with tempfile.TemporaryDirectory(prefix='nova-vcloud-') as folder:
            path = os.path.join(folder, 'ssh')
            with subprocess.Popen(
                    self._ssh.words(
                        self._host, ['begin', server, str(size)],
                        {'ControlMaster': 'yes', 'ControlPath': path}),
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, text=True) as process:
                try:
                    self._hand_over(process, papers)
                    yield Delivery(self, server, {
                        'ControlMaster': 'no', 'ControlPath': path})
                finally:
                    _hang_up(process)

    def _hand_over(self, process: subprocess.Popen[str],
                   papers: str) -> None:
        stdin = cast('IO[str]', process.stdin)
        with contextlib.suppress(BrokenPipeError):  # it says why
            stdin.write(papers + '\n')
            stdin.flush()
        if not cast('IO[str]', process.stdout).readline():
            raise self.failed(cast('IO[str]', process.stderr).read())

    def drop(self, server: str) -> None:
        """Remove what there is of a server.

        :raises MoveFailed: the host cannot be reached
        """
        done = subprocess.run(
            self._ssh.words(self._host, ['drop', server]), input='',
            capture_output=True, text=True, check=False)
        if done.returncode:
            raise self.failed(done.stderr)

    def command(self, asked: Iterable[str],
                options: Mapping[str, str]) -> list[str]:
        """Return the command that asks the other host for something."""
        return self._ssh.words(self._host, asked, options)

    def failed(self, said: str) -> exception.MoveFailed:
        """Return the error for what the other host has said."""
        lines = said.strip().splitlines() or ['no reason given']
        return exception.MoveFailed(f'host {self._host}: {lines[-1]}')


class Delivery:
    """A server that is announced.

    :param options: of ssh, to share the connection
    """

    def __init__(self, remote: Remote, server: str,
                 options: Mapping[str, str]) -> None:
        self._remote = remote
        self._server = server
        self._options = options

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        """Send a file and compare what came; return its bytes.

        :raises MoveFailed: it did not come, or not as it was sent
        """
        with self.opened(name) as send:
            return send(chunks)

    @contextlib.contextmanager
    def opened(self, name: str
               ) -> Iterator[Callable[[Iterable[bytes]], int]]:
        """Begin a file; yield what sends it, as :meth:`put` does.

        The other host has its part running when there is something to send.
        """
        with subprocess.Popen(
                self._remote.command(['put', self._server, name],
                                     self._options),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, bufsize=0) as process:
            try:
                yield functools.partial(self._send, process)
            finally:
                process.kill()  # unless it has ended

    def _send(self, process: subprocess.Popen[bytes],
              chunks: Iterable[bytes]) -> int:
        digest, size = hashlib.sha256(), 0
        sink = cast('IO[bytes]', process.stdin).fileno()
        _widen(sink)
        # What it says when it reads no more is the reason.
        with contextlib.suppress(BrokenPipeError):
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                _write_all(sink, chunk)
        out, err = process.communicate()
        if process.returncode:
            raise self._remote.failed(err.decode(errors='replace'))
        if out.decode(errors='replace').split() != [
                digest.hexdigest(), str(size)]:
            raise self._remote.failed('has received other data than were '
                                      'sent')
        return size


def _hang_up(process: subprocess.Popen[str]) -> None:
    """End a connection, in order or else by force."""
    with contextlib.suppress(BrokenPipeError):
        cast('IO[str]', process.stdin).close()
    try:
        process.wait(CONNECT_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()


def _write_all(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view):]


def _widen(pipe: int) -> None:
    """Let a pipe hold a chunk: fewer turns of those at its ends."""
    with contextlib.suppress(OSError):  # more than a user may have
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)


@contextlib.contextmanager
def produced(work: Callable[[str], None]) -> Iterator[Iterator[bytes]]:
    """Let ``work`` write to a pipe, and read it here.

    What runs with privilege may be in another process.

    :param work: is called with the path of the pipe, in another thread; what
        it raises is raised at the end
    """
    with tempfile.TemporaryDirectory(prefix='nova-vcloud-') as folder, \
            futures.ThreadPoolExecutor(1, 'vcloud-move') as pool:
        path = os.path.join(folder, 'data')
        os.mkfifo(path, mode=0o600)
        done = pool.submit(work, path)
        # Without waiting for a writer, which may never come.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _widen(fd)
            chunks = _read(fd, done)
            try:
                yield chunks
            finally:
                # It must not wait for a reader that has given up.
                collections.deque(chunks, maxlen=0)
        finally:
            os.close(fd)
        done.result()


def _read(fd: int, done: futures.Future[None]) -> Iterator[bytes]:
    """Yield what comes, until the writer has ended and all is read."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        ended = done.done()
        if poll.poll(50):
            chunk = os.read(fd, CHUNK)
            if chunk:
                yield chunk
                continue
        if ended:
            return
