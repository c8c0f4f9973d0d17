# SPDX-License-Identifier: Apache-2.0
"""Takes connections of other hosts for ``nova-vcloud-receive``, by TLS.

Both ends show a certificate, as QEMU's migration and NBD have them (RFC 8446).
"""

from __future__ import annotations

import collections
import contextlib
import socket
import socketserver
import ssl
import sys
import threading
import time
from typing import Any
from typing import NoReturn

from nova_vcloud import receiver
from nova_vcloud import spool as spools

HANDSHAKE = 10  # seconds
LINGER = 5  # seconds
GONE = 60  # seconds
#: Connections at a time, each of which takes a thread: of one address, and
#: of all.
MAX_PER_ADDRESS = 32
MAX_CONNECTIONS = 256


class _Connection(socketserver.BaseRequestHandler):
    """One of another host, in a thread of its own."""

    server: Listener

    def handle(self) -> None:
        try:
            self.request.settimeout(HANDSHAKE)
            tls = self.server.context.wrap_socket(self.request,
                                                  server_side=True)
        except OSError as e:
            _log(self.client_address, str(e))
            return
        with contextlib.suppress(OSError), tls, \
                tls.makefile('rb') as source, tls.makefile('w') as sink:
            refused = receiver.Connection(
                self.server.spool, source, sink,
                names_in(tls.getpeercert() or {}), tls.settimeout).serve()
            if refused:
                _log(self.client_address, f'refused: {refused}')
                _linger(tls)


def _log(address: Any, text: str) -> None:
    sys.stderr.write(f'{address[0]}: {text!r}\n')


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
        self.context = context
        self._lock = threading.Lock()
        self._open: collections.Counter[str] = collections.Counter()
        if ':' in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Return a connection that ends within a minute when its host dies."""
        connection, address = super().get_request()
        prepare(connection)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Tell whether one more connection may be; it counts from now on."""
        host = client_address[0]
        with self._lock:
            if (self._open[host] >= MAX_PER_ADDRESS
                    or self._open.total() >= MAX_CONNECTIONS):
                _log(client_address, 'refused: too many connections')
                return False
            self._open[host] += 1
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a thread serve a connection."""
        try:
            super().process_request(request, client_address)
        except BaseException:  # no more threads, say
            self._ended(client_address)
            raise

    def process_request_thread(self, request: Any, client_address: Any
                               ) -> None:
        """Serve a connection, and count it no more."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._ended(client_address)

    def _ended(self, client_address: Any) -> None:
        host = client_address[0]
        with self._lock:
            self._open[host] -= 1
            if not self._open[host]:
                del self._open[host]


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
