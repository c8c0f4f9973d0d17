# SPDX-License-Identifier: Apache-2.0
"""Sends an image to Glance so that the connection is never silent for long.

What serves Glance gives up on a request whose next piece does not come in
time (uWSGI: 4 s, ``chunked-input-timeout``); an engine or a busy disk may need
longer for one. So the request begins when there is a reserve, and while the
source is silent it goes on with small pieces of that.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import threading
from typing import Any
from typing import Protocol

from nova import context as nova_context
from nova import exception as nova_exception

from nova_vcloud import exception

PIECE = 1 << 18  # bytes
RESERVE = 8 << 20  # bytes
#: Bytes at which the source goes on once there are enough: not at each piece.
LOW = RESERVE * 3 // 4
#: Bytes that are kept for silent times, and what is sent of them how often:
#: enough for more than an hour.
KEPT = RESERVE // 2
CRUMB = 1 << 10
PATIENCE = 1.0  # seconds


class ImageApi(Protocol):
    """What is used of ``nova.image.glance.API``."""

    def get(self, context: nova_context.RequestContext,
            id_or_uri: str) -> dict[str, Any]:
        """Return an image's record."""

    def update(self, context: nova_context.RequestContext, id_or_uri: str,
               image_info: dict[str, Any], data: Any = None,
               purge_props: bool = False) -> dict[str, Any]:
        """Change an image's record and upload its data."""

    def delete(self, context: nova_context.RequestContext,
               image_id: str) -> Any:
        """Remove an image."""


def send(glance: ImageApi, context: nova_context.RequestContext,
         image_id: str, metadata: dict[str, Any],
         chunks: Iterable[bytes]) -> int:
    """Upload an image; return its bytes.

    :raises UploadFailed: Glance has not got what was sent; says why
    """
    with fed(chunks) as feed:
        try:
            found = glance.update(context, image_id, metadata, feed)
        except nova_exception.NovaException as e:
            # Nova tells nobody of some that it knows, ImageNotFound first.
            raise exception.UploadFailed(
                f'the image service did not take image {image_id}: {e}'
            ) from e
        # Nova tries again when the connection breaks, and sends what is left.
        if (found.get('status'), found.get('size')) != ('active', feed.sent):
            raise exception.UploadFailed(
                f'the image service has {found.get("size")} bytes of image '
                f'{image_id}, which is {found.get("status")}; '
                f'{feed.sent} bytes were sent')
        return feed.sent


@contextlib.contextmanager
def fed(chunks: Iterable[bytes]) -> Iterator[Feed]:
    """Have chunks as a file that is ready to be read, for a while.

    :raises Exception: what the source raises before there is a reserve
    """
    feed = Feed(chunks)
    try:
        feed.wait()
        yield feed
    finally:
        feed.close()


class Feed:
    """Chunks as a file, as Glance's client wants it.

    What the client reads at once it sends at once, a mebibyte; uWSGI refuses
    that (chunked-input-limit) unless it is told otherwise.

    :ivar sent: bytes that were read of it
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._waiting = bytearray()
        self._change = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self.sent = 0
        self._thread = threading.Thread(
            target=self._pump, name='vcloud-upload', daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        source = iter(self._chunks)
        try:
            for chunk in source:
                if not self._put(chunk):
                    break
        except Exception as e:  # noqa: BLE001 - raised where it is read
            self._error = e
        finally:
            with contextlib.suppress(Exception):
                if hasattr(source, 'close'):
                    source.close()
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _put(self, chunk: bytes) -> bool:
        """Add a chunk when there is room; False: nobody reads any more."""
        with self._change:
            if len(self._waiting) >= RESERVE:
                self._change.wait_for(
                    lambda: self._closed or len(self._waiting) < LOW)
            self._waiting += chunk
            self._change.notify_all()
            return not self._closed

    def wait(self) -> None:
        """Wait for the reserve, or for all there is.

        :raises Exception: what the source has raised
        """
        with self._change:
            self._change.wait_for(
                lambda: self._ended or len(self._waiting) >= RESERVE)
            self._check()

    def _check(self) -> None:
        if self._error:
            raise exception.UploadFailed(
                f'the image could not be read: {self._error}'
            ) from self._error

    def read(self, size: int = -1) -> bytes:
        """Return some bytes, b'' at the end.

        :raises UploadFailed: the source has failed; no end is ever seen then
        """
        with self._change:
            self._change.wait_for(
                lambda: self._ended or len(self._waiting) > KEPT, PATIENCE)
            if not self._ended and not self._waiting:
                self._change.wait_for(
                    lambda: self._ended or bool(self._waiting))
            self._check()
            most = (PIECE if self._ended or len(self._waiting) > KEPT
                    else CRUMB)
            count = min(size, most) if size > 0 else most
            found = bytes(self._waiting[:count])
            del self._waiting[:count]
            self.sent += len(found)
            if len(self._waiting) < LOW:
                self._change.notify_all()
            return found

    def close(self) -> None:
        """Leave the source; returns when it is left."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join()
