# SPDX-License-Identifier: Apache-2.0
"""Takes connections of other hosts for ``nova-vcloud-receive``, by TLS.

Both ends show a certificate, as QEMU's migration and NBD have them (RFC 8446).
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import socket
import socketserver
import ssl
import sys
import threading
import time
from typing import Any
from typing import NoReturn

from nova_vcloud.transfer import receiver
from nova_vcloud.transfer import spool as spools

#: Seconds for a handshake, of both ends, however slowly its bytes come.
HANDSHAKE = 30
LINGER = 5  # seconds
GONE = 60  # seconds
#: Connections at a time, each of which takes a thread: of one certificate, and
#: of all.
MAX_PER_CERTIFICATE = 32
MAX_CONNECTIONS = 256
#: Connections at a time that have shown no certificate yet. One more ends the
#: oldest of the address that has the most of them.
MAX_HANDSHAKES = 128
#: Seconds for the thread of such a one to end.
EVICTION = 5


class _Connection(socketserver.BaseRequestHandler):
    """One of another host, in a thread of its own."""

    server: Listener
    request: ssl.SSLSocket

    def handle(self) -> None:
        tls, connections = self.request, self.server.connections
        try:
            tls.settimeout(HANDSHAKE)
            tls.do_handshake()
        except (OSError, ValueError) as e:
            connections.log(self.client_address[0],
                            f'TLS handshake failed: {e}')
            return
        certificate = tls.getpeercert(binary_form=True) or b''
        with contextlib.suppress(OSError), tls.makefile('rb') as source, \
                tls.makefile('w') as sink:
            tls.settimeout(receiver.BEGIN_TIMEOUT)
            conversation = receiver.Connection(
                self.server.spool, source, sink,
                names_in(tls.getpeercert() or {}), tls.settimeout)
            if connections.authenticated(tls, certificate):
                refused = conversation.serve()
            else:
                refused = conversation.refuse(
                    f'too many connections: one certificate may have '
                    f'{MAX_PER_CERTIFICATE}, all together {MAX_CONNECTIONS}')
            if refused:
                _log(self.client_address[0], f'refused: {refused}')
                _linger(tls)


class Connections:
    """How many there are, before and after the certificate is verified.

    Who has none cannot use up what hosts that have one may have.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        #: Address of each whose handshake goes on, the oldest first.
        self._handshakes: dict[socket.socket, str] = {}
        self._certificates: dict[socket.socket, bytes] = {}
        #: Addresses that have shown a certificate.
        self._known: set[str] = set()
        self._logged = 0.0
        self._unlogged = 0

    def add(self, connection: socket.socket, address: str) -> bool:
        """Count one that begins; tell whether it may.

        :param address: it comes from
        """
        with self._changed:
            if len(self._handshakes) >= MAX_HANDSHAKES:
                self._evict()
            # Its thread wakes at once.
            if not self._changed.wait_for(
                    lambda: len(self._handshakes) < MAX_HANDSHAKES, EVICTION):
                return False
            self._handshakes[connection] = _network(address)
        return True

    def _evict(self) -> None:
        counts = collections.Counter(self._handshakes.values())
        most = max(counts, key=lambda each: (counts[each],
                                             each not in self._known))
        oldest = next(each for each, address in self._handshakes.items()
                      if address == most)
        self.log(most, 'ended: too many connections without a TLS handshake')
        # The thread that uses it ends it; close() would not wake that.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(oldest, socket.SHUT_RDWR)

    def log(self, address: str, text: str) -> None:
        """Log what everybody can cause, once a second at most."""
        with self._changed:
            if time.monotonic() - self._logged < 1:
                self._unlogged += 1
                return
            if self._unlogged:
                text = f'{text} (and {self._unlogged} more such lines)'
            self._logged, self._unlogged = time.monotonic(), 0
        _log(address, text)

    def authenticated(self, connection: socket.socket, certificate: bytes
                      ) -> bool:
        """Count one by its certificate from now on; tell whether it may be.

        One that may not counts as before, until it has ended.
        """
        with self._changed:
            counts = collections.Counter(self._certificates.values())
            if (counts[certificate] >= MAX_PER_CERTIFICATE
                    or counts.total() >= MAX_CONNECTIONS):
                return False
            self._certificates[connection] = certificate
            self._known.add(self._handshakes.pop(connection, ''))
            self._changed.notify_all()
        return True

    def remove(self, connection: socket.socket) -> None:
        """Count one no more."""
        with self._changed:
            self._handshakes.pop(connection, None)
            self._certificates.pop(connection, None)
            self._changed.notify_all()


def _network(address: str) -> str:
    """Return whose an address is: one may have a /64 of IPv6 (RFC 6177)."""
    if ':' not in address:
        return address
    interface = ipaddress.IPv6Interface(f'{address.partition("%")[0]}/64')
    mapped = interface.ip.ipv4_mapped
    return str(mapped or interface.network)


def _log(address: str, text: str) -> None:
    sys.stderr.write(f'{address}: {text!r}\n')


def names_in(certificate: Any) -> frozenset[str]:
    """Return the addresses that a verified certificate names.

    :param certificate: as ``ssl.SSLSocket.getpeercert`` tells it
    """
    # OpenSSL writes IPv6 in a way of its own (0:0:0:0:0:0:0:1).
    return frozenset(
        canonical(value)
        for kind, value in certificate.get('subjectAltName', ())
        if kind == 'IP Address')


def canonical(address: str) -> str:
    """Return an address in the form in which it is compared."""
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family,
                                                         address.strip()))
    except OSError:
        return address


def _linger(connection: socket.socket) -> None:
    """Let the other end hear why, though it may be sending.

    A connection that is closed with something unread is reset, and what was
    said last is lost (RFC 1122, 4.2.2.13).
    """
    deadline = time.monotonic() + LINGER
    connection.settimeout(LINGER)
    while connection.recv(receiver.CHUNK) and time.monotonic() < deadline:
        pass


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Takes connections of hosts that have a certificate.

    :param address: (host, port)
    :param context: of a TLS server that wants to know its clients
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, spool: spools.Spool, address: tuple[str, int],
                 context: ssl.SSLContext) -> None:
        self.spool = spool
        self.connections = Connections()
        self._context = context
        if ':' in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Return a connection that ends within a minute when its host dies.

        Its handshake is for its own thread.
        """
        connection, address = super().get_request()
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            prepare(connection)
            tls = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False)
            undo.pop_all()
        return tls, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Tell whether one more connection may be; it counts from now on."""
        if self.connections.add(request, client_address[0]):
            return True
        self.connections.log(client_address[0],
                             'refused: too many TLS handshakes')
        return False

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and count it no more."""
        try:
            super().shutdown_request(request)
        finally:
            self.connections.remove(request)


def prepare(connection: socket.socket) -> None:
    """Set what both ends of a connection want (tcp(7)).

    The kernel ends one whose other end is gone, and sends at once: a request
    after a few bytes would wait for a delayed acknowledgement, 40 ms.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15),
                          (socket.TCP_KEEPINTVL, 15),
                          (socket.TCP_KEEPCNT, 3), (socket.TCP_NODELAY, 1),
                          (socket.TCP_USER_TIMEOUT, GONE * 1000)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def listen(spool: spools.Spool, address: str, cert: str, key: str,
           ca: str) -> NoReturn:
    """Take connections until this process ends.

    :param address: HOST:PORT
    :param cert: file of this host's certificate; ``key`` of its private key
    :param ca: file of certificates that sign those of the other hosts
    :raises OSError: a file cannot be read, or the port is taken
    :raises ValueError: not an address
    """
    host, _colon, port = address.rpartition(':')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(cert, key)
    context.load_verify_locations(ca)
    with Listener(spool, (host.strip('[]'), int(port)), context) as listener:
        listener.serve_forever()
    raise AssertionError('it ends with the process only')
