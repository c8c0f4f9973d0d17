# SPDX-License-Identifier: Apache-2.0
"""Data of servers on their way to another host.

What is said on the way, and that connections are kept. That all has come is
known by the bytes that both ends have counted.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import os
import select
import tempfile
import threading

from nova_vcloud import exception
from nova_vcloud.transfer import channels
from nova_vcloud.transfer import receiver

#: Bytes that a frame has at least; only the last of a file has less.
_FRAME = 64 << 10
#: Seconds that another host is waited for, unless the operator says else.
TIMEOUT = 120.0


class NoAnswer(exception.MoveFailed):
    """Another host was waited for in vain."""


class Session:
    """A connection to ``nova-vcloud-receive`` of another host.

    :param timeout: seconds for an answer, and for each MiB that is sent
    :raises MoveFailed: the host cannot be reached, or is of another release
    """

    def __init__(self, transport: channels.Transport, host: str,
                 timeout: float = TIMEOUT) -> None:
        self._host = host
        self._timeout = timeout
        try:
            self._channel = transport.connect(host)
        except OSError as e:
            raise self._failed(str(e)) from e
        try:
            greeting = self._line()
            if greeting.startswith('no '):
                raise self._failed(greeting.removeprefix('no '))
            if greeting != receiver.VERSION:
                raise self._failed(
                    f'protocol version {greeting!r} is not supported: this '
                    f'release speaks {receiver.VERSION!r}')
        except BaseException:
            self.kill()
            raise

    def ask(self, *words: str) -> str:
        """Return the answer to a request.

        :raises MoveFailed: with what the other host says
        """
        with self._heard():
            self._frame(' '.join(words).encode())
        return self._answer()

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        """Send a file of the server that was begun; return its bytes.

        :raises MoveFailed: it did not come whole
        """
        size = 0
        with self._heard():
            self._frame(f'put {name}'.encode())
        for block in _blocks(chunks):
            if self._channel.readable():  # so early only to refuse
                raise self._failed(f'protocol error: {self._answer()!r} '
                                   'before the end of a file')
            with self._heard():
                self._frame(block)
            size += len(block)
        with self._heard():
            self._frame(b'')
        said = self._answer()
        if said != str(size):
            raise self._failed(f'{name} is incomplete: {said} bytes of '
                               f'{size} were received')
        return size

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """Have it say why, when the other host takes no more."""
        try:
            yield
        except TimeoutError as e:
            raise self._timed_out('received no data') from e
        except OSError as e:
            self._answer()
            raise self._failed(str(e)) from e

    def _frame(self, data: bytes) -> None:
        self._channel.write(receiver.LENGTH.pack(len(data)), self._timeout)
        self._channel.write(data, self._timeout)

    def _answer(self) -> str:
        """Return what follows a 'yes'."""
        word, _space, rest = self._line().partition(' ')
        if word != 'yes':
            raise self._failed(rest)
        return rest

    def _line(self) -> str:
        try:
            line = self._channel.read_line(self._timeout)
        except TimeoutError as e:
            raise self._timed_out('did not answer') from e
        except OSError as e:
            raise self._failed(str(e)) from e
        if not line:
            raise self._failed(self._channel.close_reason())
        return line.decode(errors='replace').rstrip('\n')

    def _failed(self, said: str) -> exception.MoveFailed:
        """Return the error for what the other host has said."""
        lines = said.strip().splitlines() or ['no reason given']
        return exception.MoveFailed(f'host {self._host}: {lines[-1]}')

    def _timed_out(self, what: str) -> NoAnswer:
        return NoAnswer(f'host {self._host}: nova-vcloud-receive {what} for '
                        f'{self._timeout:g} seconds')

    def kill(self) -> None:
        """End the connection at once, whatever is on its way."""
        self._channel.kill()

    def close(self) -> None:
        """End the connection in order, or else by force."""
        self._channel.close()


class Hosts:
    """Other hosts, and the connections to them.

    To make one takes longer than all that is to be sent of many a server, so
    it is kept for the next. They end with this process, however that ends.

    :param persist: seconds for which one is kept
    :param timeout: of :class:`Session`
    """

    def __init__(self, transport: channels.Transport, persist: float,
                 timeout: float = TIMEOUT) -> None:
        self._transport = transport
        self._persist = persist
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: dict[str, list[tuple[Session, threading.Timer]]] = {}

    def check(self) -> None:
        """See that all that is needed here is there.

        :raises HostNotReady: with what to change
        """
        self._transport.check()

    def remote(self, host: str) -> Remote:
        """Return the spool of another host.

        :param host: its address
        """
        return Remote(self, host)

    @contextlib.contextmanager
    def asked(self, host: str, *words: str) -> Iterator[Session]:
        """Ask a host for something; yield the connection for what follows.

        :raises MoveFailed: it cannot be reached, or what it says
        """
        session = self._begun(host, words)
        try:
            yield session
        except BaseException:
            session.kill()
            raise
        self._keep(host, session)

    def _begun(self, host: str, words: Iterable[str]) -> Session:
        while session := self._taken(host):
            try:
                session.ask(*words)
            except NoAnswer:
                # Nor would it by the others; the server may be down.
                session.kill()
                raise
            except exception.MoveFailed:
                # It may have died meanwhile, with the other host.
                session.kill()
            else:
                return session
        session = Session(self._transport, host, self._timeout)
        try:
            session.ask(*words)
        except BaseException:
            session.kill()
            raise
        return session

    def _taken(self, host: str) -> Session | None:
        with self._lock:
            if not self._idle.get(host):
                return None
            session, timer = self._idle[host].pop()
        timer.cancel()
        return session

    def _keep(self, host: str, session: Session) -> None:
        if not self._persist:
            session.close()
            return
        timer = threading.Timer(self._persist, self._expire, (host, session))
        timer.daemon = True
        with self._lock:
            self._idle.setdefault(host, []).append((session, timer))
        timer.start()

    def _expire(self, host: str, session: Session) -> None:
        with self._lock:
            idle = self._idle[host]
            found = [each for each in idle if each[0] is session]
            for each in found:
                idle.remove(each)
        if found:  # nobody has taken it at this very moment
            session.close()

    def close(self) -> None:
        """End the connections that nobody uses."""
        for host in list(self._idle):
            while session := self._taken(host):
                session.close()


class Remote:
    """The spool of another host."""

    def __init__(self, hosts: Hosts, host: str) -> None:
        self._hosts = hosts
        self._host = host

    @contextlib.contextmanager
    def announced(self, server: str, token: str,
                  manifest: str) -> Iterator[Delivery]:
        """Begin a server, and have a connection meanwhile.

        :param token: of the other host's nova-compute, which admits it
        :param manifest: a line, what that nova-compute wants to know
        :raises MoveFailed: the host cannot be reached, or refuses
        """
        with self._hosts.asked(self._host, 'begin', server, token,
                               manifest) as session:
            yield Delivery(session)


class Delivery:
    """A server that is announced."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        """Send a file; return its bytes.

        :raises MoveFailed: it did not come whole
        """
        return self._session.put(name, chunks)


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces that are not small, nor empty."""
    small: list[bytes] = []
    size = 0
    for chunk in chunks:
        small.append(chunk)
        size += len(chunk)
        if size >= _FRAME:
            yield b''.join(small) if len(small) > 1 else chunk
            small, size = [], 0
    if size:
        yield b''.join(small)


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
            channels.widen(fd)
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
            chunk = os.read(fd, channels.CHUNK)
            if chunk:
                yield chunk
                continue
        if ended:
            return
