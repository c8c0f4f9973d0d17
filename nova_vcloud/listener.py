# SPDX-License-Identifier: Apache-2.0
"""Takes connections of other hosts for ``nova-vcloud-receive``, by TLS.

Both ends show a certificate, as QEMU's migration and NBD have them (RFC 8446).
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import sys
import time
from typing import Any
from typing import NoReturn

from nova_vcloud import spool as spools

HANDSHAKE = 10  # seconds
LINGER = 5  # seconds
GONE = 60  # seconds


class _Connection(socketserver.BaseRequestHandler):
    """One of another host, in a thread of its own."""

    server: Listener

    def handle(self) -> None:
        try:
            self.request.settimeout(HANDSHAKE)
            tls = self.server.context.wrap_socket(self.request,
                                                  server_side=True)
        except OSError as e:
            sys.stderr.write(f'{self.client_address[0]}: {e}\n')
            return
        with contextlib.suppress(OSError), tls, \
                tls.makefile('rb') as source, tls.makefile('w') as sink:
            tls.settimeout(None)
            if not spools.serve(self.server.spool, source, sink):
                _linger(tls)


def _linger(connection: socket.socket) -> None:
    """Let the other end hear why, though it may be sending.

    A connection that is closed with something unread is reset, and what was
    said last is lost (RFC 1122, 4.2.2.13).
    """
    deadline = time.monotonic() + LINGER
    connection.settimeout(LINGER)
    while connection.recv(spools.CHUNK) and time.monotonic() < deadline:
        pass


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Takes connections of hosts that have a certificate.

    :param address: (host, port)
    :param context: of a TLS server that wants to know its clients
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, spool: spools.Spool, address: tuple[str, int],
                 context: ssl.SSLContext) -> None:
        self.spool = spool
        self.context = context
        if ':' in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Return a connection that ends within a minute when its host dies."""
        found, address = super().get_request()
        prepare(found)
        return found, address


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
