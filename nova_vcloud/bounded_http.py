# SPDX-License-Identifier: Apache-2.0
"""HTTP of which an answer takes no more work, nor time, than what it is.

The standard library reads on while a server says that it goes on ("100
Continue"), or says more after the last piece of a body, each time in time.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import Any

from urllib3 import connection

#: Bytes of all that comes before a body.
MAX_HEAD = 1 << 20
#: Bytes that may come for each byte of a body that is read: those of the
#: least piece are six (RFC 9112, 7.1).
_FRAMES = 16
#: Bytes a second, in the long run, of what is waited for; and the seconds for
#: which it may be any, in times of the silence that is allowed.
LEAST_RATE = 64 << 10
PATIENCE = 5


class _Source(io.RawIOBase):
    """What comes by a connection, counted.

    :param raw: the connection
    :param patience: seconds for which it may be as slow as it likes
    """

    def __init__(self, raw: io.RawIOBase, patience: float) -> None:
        self._raw = raw
        self._patience = patience
        self._waited = 0.0
        self._received = 0
        self._left = 0

    def allow(self, size: int) -> None:
        """Have so many bytes come from now on, and no more."""
        self._left = size

    def readable(self) -> bool:
        """Tell that it is."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there.

        :raises HTTPException: it is more than is allowed
        :raises TimeoutError: it comes too slowly
        """
        if self._left <= 0:
            raise http.client.HTTPException(
                'response headers or trailers are too large')
        if self._waited > self._patience + self._received / LEAST_RATE:
            raise TimeoutError(f'less than {LEAST_RATE >> 10} KiB/s received')
        began = time.monotonic()
        size = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._received += size or 0
        self._left -= size or 0
        return size

    def close(self) -> None:
        """Close the connection, unless others use it."""
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer by such a connection."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._source = _Source(self.fp.detach(),
                               PATIENCE * (sock.gettimeout() or 60))
        self.fp = io.BufferedReader(self._source)

    def begin(self) -> None:
        """Read what comes before the body.

        :raises HTTPException: it is too much
        """
        self._source.allow(MAX_HEAD)
        super().begin()

    def read(self, amt: int | None = None) -> bytes:
        """Read some of the body.

        :param amt: bytes, at most
        :raises HTTPException: so few of them come with too much else
        """
        self._source.allow(MAX_HEAD + _FRAMES * (amt or MAX_HEAD))
        return super().read(amt)


class HTTPConnection(connection.HTTPConnection):
    """One with such answers, without TLS."""

    response_class = Response


class HTTPSConnection(connection.HTTPSConnection):
    """One with such answers."""

    response_class = Response
