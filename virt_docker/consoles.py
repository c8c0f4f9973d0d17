# SPDX-License-Identifier: Apache-2.0
"""Interactive consoles: TCP ports for nova-serialproxy, a terminal behind.

Each viewer is attached to the terminal of the server's first process by
itself: all see what it writes, and any may type.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import dataclasses
import select
import socket
import threading

from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine

LOG = log.getLogger(__name__)

#: Of one server, at once; the next one is let go.
MAX_VIEWERS = 8
CHUNK = 16384


@dataclasses.dataclass
class _Console:
    """A port at which a server's console is.

    :ivar viewers: connections, of the proxy
    """

    container: str
    listener: socket.socket
    port: int
    viewers: set[socket.socket] = dataclasses.field(default_factory=set)


class Consoles:
    """Consoles of this host's servers; they end with nova-compute.

    :param address: that is listened at
    :param acquire: returns a free port of an address
    :param release: gives a port of an address back
    """

    def __init__(self, engine: Engine, address: str,
                 acquire: Callable[[str], int],
                 release: Callable[[str, int], None]) -> None:
        self._engine = engine
        self._address = address
        self._acquire = acquire
        self._release = release
        self._lock = threading.Lock()
        self._consoles: dict[str, _Console] = {}

    def open(self, uuid: str, container: str) -> tuple[str, int]:
        """Return (address, port) of the console of a server.

        :param container: id of its container
        """
        with self._lock:
            found = self._consoles.get(uuid)
            if found and found.container != container:
                self._end(self._consoles.pop(uuid))
                found = None
            if found is None:
                found = self._consoles[uuid] = self._begin(container)
            return self._address, found.port

    def _begin(self, container: str) -> _Console:
        port = self._acquire(self._address)
        try:
            listener = socket.create_server(
                (self._address, port), backlog=MAX_VIEWERS)
        except OSError:
            self._release(self._address, port)
            raise
        console = _Console(container, listener, port)
        threading.Thread(target=self._listen, args=(console,), daemon=True,
                         name=f'console-{port}').start()
        return console

    def close(self, uuid: str) -> None:
        """Close a server's console and let its viewers go; none is fine."""
        with self._lock:
            console = self._consoles.pop(uuid, None)
            if console:
                self._end(console)

    def _end(self, console: _Console) -> None:
        for each in (console.listener, *console.viewers):
            _shut(each)
        console.listener.close()
        self._release(self._address, console.port)

    def _listen(self, console: _Console) -> None:
        while True:
            try:
                viewer, _where = console.listener.accept()
            except OSError:
                return  # closed
            with self._lock:
                free = len(console.viewers) < MAX_VIEWERS
                if free:
                    console.viewers.add(viewer)
            if not free:
                LOG.warning('Console of container %s has %d viewers already',
                            console.container, MAX_VIEWERS)
                viewer.close()
                continue
            threading.Thread(target=self._serve, args=(console, viewer),
                             name=f'viewer-{console.port}',
                             daemon=True).start()

    def _serve(self, console: _Console, viewer: socket.socket) -> None:
        """Carry bytes both ways until either end is closed."""
        try:
            with viewer:
                # An engine lets one wait for a container to be started.
                if not self._runs(console.container):
                    return
                with self._engine.attached(console.container) as terminal:
                    _carry(viewer, terminal)
        except (OSError, exception.EngineError) as e:
            LOG.info('Console of container %s ended: %s', console.container,
                     e)
        finally:
            with self._lock:
                console.viewers.discard(viewer)

    def _runs(self, container: str) -> bool:
        return bool(self._engine.container(container)['State']['Running'])


def _carry(one: socket.socket, two: socket.socket) -> None:
    other = {one: two, two: one}
    while True:
        ready, _writers, _errors = select.select([one, two], [], [])
        for each in ready:
            data = each.recv(CHUNK)
            if not data:
                return
            other[each].sendall(data)


def _shut(each: socket.socket) -> None:
    # Whoever waits for it in another thread wakes up.
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
