# SPDX-License-Identifier: Apache-2.0
"""gzip (RFC 1952) unpacked in pieces, with nothing in it or after it unseen.

Every member's checksum and length are checked by zlib. What follows the last
one is refused: some readers end there, some fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import zlib

from nova_vcloud.exception import InvalidImageArchive

MAGIC = b'\x1f\x8b'
PIECE = 1 << 20  # bytes of output at once, however well it was packed

_INPUT = 64 << 10
# What is left of an input is copied at the end of each member: where these
# are small, so is the input.
_SMALL = 4 << 10
# pigz, bgzip and estargz write members of 512 bytes and more, and few others.
_FREE_MEMBERS, _BYTES_EACH = 1024, 256


class Gunzip:
    """Unpacks what comes in chunks.

    :param padded: whether zeros may follow, as on a tape
    """

    def __init__(self, *, padded: bool = False) -> None:
        self._padded = padded
        self._stream = _new()
        self._members = 1
        self._total = 0
        self._only_zeros = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what some input unpacks to, a mebibyte at a time at most.

        :raises InvalidImageArchive: it is corrupt
        """
        view, place, step = memoryview(chunk), 0, _INPUT
        while place < len(view):
            piece = bytes(view[place:place + step])
            place += len(piece)
            before = self._members
            yield from self._piece(piece)
            step = _SMALL if self._members > before else _INPUT

    def finish(self) -> None:
        """Say that there is no more.

        :raises InvalidImageArchive: there should be
        """
        if not self._stream.eof:
            raise InvalidImageArchive('it is truncated')

    def _piece(self, left: bytes) -> Iterator[bytes]:
        more = True
        while more:
            if self._stream.eof and not (left := self._after(left)):
                return
            try:
                found = self._stream.decompress(left, PIECE)
            except zlib.error as e:
                raise InvalidImageArchive(
                    f'its gzip data is corrupt: {e}') from e
            self._total += len(found)
            if found:
                yield found
            left = self._stream.unused_data or self._stream.unconsumed_tail
            # A little input can be much output, of which this was a part.
            more = bool(left) or (
                len(found) == PIECE and not self._stream.eof)

    def _after(self, left: bytes) -> bytes:
        """Begin another member, if there is one, or refuse what follows."""
        if self._padded and left:
            rest = left.lstrip(b'\0')
            self._only_zeros = self._only_zeros or len(rest) < len(left)
            left = rest
        if not left:
            return b''
        self._members += 1
        if self._only_zeros or not MAGIC.startswith(left[:2]):
            raise InvalidImageArchive(
                'its gzip data is corrupt: something follows it')
        if self._members > _FREE_MEMBERS + self._total // _BYTES_EACH:
            raise InvalidImageArchive(
                'its gzip data is corrupt: it is of very many empty parts')
        self._stream = _new()
        return left


def _new() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def unpacked(chunks: Iterable[bytes], *, padded: bool = False
             ) -> Iterator[bytes]:
    """Yield what chunks unpack to.

    :param padded: whether zeros may follow
    :raises InvalidImageArchive: they are corrupt, or cut off
    """
    stream = Gunzip(padded=padded)
    for chunk in chunks:
        yield from stream.feed(chunk)
    stream.finish()
