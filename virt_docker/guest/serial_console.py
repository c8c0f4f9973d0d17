# SPDX-License-Identifier: Apache-2.0
"""Interactive consoles: TCP ports for nova-serialproxy, a terminal behind.

Each viewer is attached to the terminal of the server's first process by
itself: all see what it writes, and any may type. The proxy has asked who its
user is and tells us nothing: who may connect is told by address, and a port
is open only as long as somebody may have been given it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import dataclasses
import ipaddress
import select
import socket
import threading
import time

from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine

LOG = log.getLogger(__name__)

#: Of one server, at once; the next one is let go.
MAX_VIEWERS = 8
CHUNK = 16384
#: Bytes that wait for a viewer who does not read; with more he is let go: the
#: engine would stop what the server writes for all who look.
BUFFER = 1 << 20
#: Seconds that a viewer has to read the last words of a terminal.
FAREWELL = 5.0
#: Seconds for which a port stays open without a viewer; Nova's default of
#: [consoleauth] token_ttl.
IDLE = 600.0
#: Seconds between log lines about peers that are refused at one port.
QUIET = 60.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclasses.dataclass
class _Console:
    """A port at which a server's console is.

    :ivar viewers: connections, of the proxy
    :ivar used: when it was last asked for or looked at (time.monotonic)
    :ivar told: when a peer was last refused in the log
    """

    uuid: str
    container: str
    listener: socket.socket
    port: int
    used: float
    viewers: set[socket.socket] = dataclasses.field(default_factory=set)
    told: float = float('-inf')


class Consoles:
    """Consoles of this host's servers; they end with nova-compute.

    :param address: that is listened at
    :param acquire: returns a free port of an address
    :param release: gives a port of an address back
    :param peers: networks from which viewers may connect; the addresses of
        this host always may
    :param idle: seconds for which a port stays open without a viewer
    """

    def __init__(self, engine: Engine, address: str,
                 acquire: Callable[[str], int],
                 release: Callable[[str, int], None],
                 peers: Iterable[str] = (), idle: float = IDLE) -> None:
        self._engine = engine
        self._address = address
        self._acquire = acquire
        self._release = release
        self._peers = [ipaddress.ip_network(each, strict=False)
                       for each in peers]
        self._idle = idle
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
                found = self._consoles[uuid] = self._begin(uuid, container)
            found.used = time.monotonic()
            return self._address, found.port

    def _begin(self, uuid: str, container: str) -> _Console:
        port = self._acquire(self._address)
        try:
            listener = socket.create_server(
                (self._address, port), backlog=MAX_VIEWERS)
        except OSError:
            self._release(self._address, port)
            raise
        console = _Console(uuid, container, listener, port, time.monotonic())
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
        # Closed by the threads that wait for them: the number of a descriptor
        # that is closed here is soon another's, and poll(2) goes by numbers.
        for each in (console.listener, *console.viewers):
            _shut(each)
        self._release(self._address, console.port)

    def _listen(self, console: _Console) -> None:
        with console.listener:
            self._accept(console)

    def _accept(self, console: _Console) -> None:
        """Let viewers in until the port is closed."""
        while not self._closed_idle(console):
            left = console.used + self._idle - time.monotonic()
            try:
                console.listener.settimeout(left if left > 0 else self._idle)
                viewer, peer = console.listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return  # closed
            if self._may_view(console, peer[0]) and self._add(console,
                                                              viewer):
                threading.Thread(target=self._serve, args=(console, viewer),
                                 name=f'viewer-{console.port}',
                                 daemon=True).start()
            else:
                viewer.close()

    def _closed_idle(self, console: _Console) -> bool:
        """Close a port that nobody has used for long; tell whether it is."""
        with self._lock:
            if console.viewers or \
                    time.monotonic() - console.used < self._idle:
                return False
            if self._consoles.get(console.uuid) is console:
                del self._consoles[console.uuid]
                self._end(console)
            return True

    def _may_view(self, console: _Console, peer: str) -> bool:
        if allowed(peer, self._peers):
            return True
        now = time.monotonic()
        if now - console.told > QUIET:  # anybody can have a log line written
            console.told = now
            LOG.warning(
                'Port %d, the console of server %s, is refused to %s: only '
                'this host and [docker] serial_proxy_hosts may connect; add '
                'the address of nova-serialproxy there', console.port,
                console.uuid, peer)
        return False

    def _add(self, console: _Console, viewer: socket.socket) -> bool:
        """Note a viewer; tell whether there was room for one more."""
        with self._lock:
            if len(console.viewers) < MAX_VIEWERS:
                console.viewers.add(viewer)
                return True
        LOG.warning('Console of container %s has %d viewers already',
                    console.container, MAX_VIEWERS)
        return False

    def _serve(self, console: _Console, viewer: socket.socket) -> None:
        """Carry bytes both ways until either end is closed."""
        try:
            with viewer:
                # An engine lets one wait for a container to be started.
                if not self._runs(console.container):
                    return
                with self._engine.attached(console.container) as terminal:
                    carry(viewer, terminal)
        except (OSError, exception.EngineError) as e:
            LOG.info('Console of container %s ended: %s', console.container,
                     e)
        finally:
            with self._lock:
                console.viewers.discard(viewer)
                console.used = time.monotonic()

    def _runs(self, container: str) -> bool:
        return bool(self._engine.container(container)['State']['Running'])


def allowed(peer: str, networks: Iterable[Network]) -> bool:
    """Tell whether a peer is this host, or in one of some networks.

    :param peer: its address
    """
    address = ipaddress.ip_address(peer.partition('%')[0])
    mapped = getattr(address, 'ipv4_mapped', None)
    address = mapped or address
    return (any(address in network for network in networks)
            or address.is_loopback or _is_own(str(address)))


def _is_own(address: str) -> bool:
    """Tell whether an address is one of this host's."""
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # The kernel binds to no other (ip_nonlocal_bind, which routers
            # have, apart).
            probe.bind((address, 0))
        except OSError:
            return False
    return True


class _Flow:
    """Bytes from one socket to another, those that wait in a buffer.

    :param limit: bytes that wait at most
    """

    def __init__(self, source: socket.socket, sink: socket.socket,
                 limit: int) -> None:
        self.source = source
        self.sink = sink
        self._limit = limit
        self._waiting = bytearray()

    @property
    def waits(self) -> bool:
        """Whether there is something for the sink."""
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return len(self._waiting) >= self._limit

    def read(self) -> bool:
        """Take what the source has; tell whether it has not ended."""
        data = self.source.recv(CHUNK)
        self._waiting += data
        return bool(data)

    def write(self) -> None:
        """Give the sink what it takes."""
        with contextlib.suppress(BlockingIOError):
            del self._waiting[:self.sink.send(self._waiting[:CHUNK])]


def carry(viewer: socket.socket, terminal: socket.socket) -> None:
    """Carry bytes between a viewer and a terminal until either ends.

    The terminal is always read: a viewer who does not take what it says is
    let go. What he types waits until the terminal takes it.

    :raises OSError: of either, or that the viewer does not read
    """
    shown = _Flow(terminal, viewer, BUFFER)
    typed = _Flow(viewer, terminal, CHUNK)
    for each in (viewer, terminal):
        each.setblocking(False)
    poll = select.poll()  # select() knows no descriptor above 1023
    while _step(poll, shown, typed):
        if shown.full:
            raise OSError(f'a viewer did not read {BUFFER} bytes')
    _farewell(shown)


def _step(poll: select.poll, shown: _Flow, typed: _Flow) -> bool:
    """Move what can be moved; tell whether both ends are open."""
    flows = {flow.source.fileno(): (flow, back)
             for flow, back in ((typed, shown), (shown, typed))}
    for number, (flow, back) in flows.items():
        # Who types more than the terminal takes is not read meanwhile.
        poll.register(number, (0 if flow.full else select.POLLIN)
                      | (select.POLLOUT if back.waits else 0))
    for number, events in poll.poll():
        flow, back = flows[number]
        if events & select.POLLOUT:
            back.write()
        if events & select.POLLIN:
            if not flow.read():
                return False
        elif events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            return False
    return True


def _farewell(shown: _Flow) -> None:
    """Let a viewer read what a terminal has said last."""
    deadline = time.monotonic() + FAREWELL
    while shown.waits and (left := deadline - time.monotonic()) > 0:
        shown.sink.settimeout(left)
        shown.write()


def _shut(each: socket.socket) -> None:
    # Whoever waits for it in another thread wakes up.
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
