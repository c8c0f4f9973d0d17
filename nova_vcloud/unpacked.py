# SPDX-License-Identifier: Apache-2.0
"""How much room a layer takes once it is unpacked, told while it passes by.

A layer is a tar, plain or compressed. Its headers declare all that an engine
will write, so that a bomb (much from little: gzip, sparse files, very many
small ones) is known before a byte of it is on a disk.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import tarfile
import zlib

from nova_vcloud.exception import ImageTooLarge
from nova_vcloud.exception import InvalidImageArchive

#: What a file takes at least, and in multiples of what: a block.
BLOCK = 4096

_HEADER = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_MAX_RECORDS = 1 << 20  # bytes of the extended header of one file
_GZIP = b'\x1f\x8b'
_REFUSED = {b'\xfd7zXZ': 'xz', b'BZh': 'bzip2', b'\x28\xb5\x2f\xfd': 'zstd'}
# Types without data whatever their size field says, as for Go's archive/tar.
_HEADER_ONLY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE,
                tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
# Those that describe what follows and are no files themselves.
_DESCRIBING = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
               tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_REAL_SIZES = ('GNU.sparse.realsize', 'GNU.sparse.size', 'SCHILY.realsize')


class Scale:
    """Adds up what the layers of one image take.

    :param limit: bytes that all of them may take
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0  # bytes

    def add(self, size: int) -> None:
        """Count one file.

        :raises ImageTooLarge: it is the one too many
        """
        self.put(max(BLOCK, size + -size % BLOCK))

    def put(self, weight: int) -> None:
        """Count what was weighed before.

        :raises ImageTooLarge: it is too much
        """
        self.total += weight
        if self.total > self.limit:
            raise ImageTooLarge(self.limit)

    def weighed(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass a layer on, weighed; what is no layer weighs nothing.

        :raises ImageTooLarge: before the bytes that are too many
        :raises InvalidImageArchive: a layer that cannot be weighed
        """
        source = filter(None, chunks)
        head = b''
        while len(head) < _HEADER and (chunk := next(source, None)):
            head += chunk
        for magic, what in _REFUSED.items():
            if head.startswith(magic):
                raise InvalidImageArchive(
                    f'a layer of it is compressed with {what}; only gzip is '
                    'accepted')
        tar = _Tar(self)
        feed: Callable[[bytes], None] = _nothing
        if head.startswith(_GZIP):
            feed = _Gunzip(tar).feed
        elif _is_header(head[:_HEADER]):
            feed = tar.feed
        feed(head)
        yield head
        for chunk in source:
            feed(chunk)
            yield chunk


def _nothing(_chunk: bytes) -> None:
    """Weigh what is no layer: a manifest, a configuration."""


def _is_header(block: bytes) -> bool:
    """Tell it by its sum, which some have made of signed bytes."""
    if len(block) < _HEADER:
        return False
    rest = block[:148] + b' ' * 8 + block[156:]
    unsigned = sum(rest)
    return _number(block[148:156]) in (
        unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes) -> int:
    """Return a number as octal digits, or in base 256; -1 for neither."""
    if field[0] & 0x80:
        return int.from_bytes(field, 'big') - (0x80 << 8 * (len(field) - 1))
    text = field.partition(b'\0')[0].strip()
    try:
        return int(text or b'0', 8)
    except ValueError:
        return -1


class _Gunzip:
    """Decompresses for a :class:`_Tar`, a mebibyte at a time at most."""

    def __init__(self, tar: _Tar) -> None:
        self._tar = tar
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, chunk: bytes) -> None:
        """Take some compressed bytes."""
        more = True
        while more and not self._tar.ended:
            if self._stream.eof:
                self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                found = self._stream.decompress(chunk, _CHUNK)
            except zlib.error as e:
                raise InvalidImageArchive(
                    f'the gzip data of a layer of it is corrupt: {e}') from e
            self._tar.feed(found)
            chunk = self._stream.unused_data or self._stream.unconsumed_tail
            # A little input can be much output, of which this was a part.
            more = bool(chunk) or len(found) == _CHUNK


class _Tar:
    """Reads the headers of a tar that comes in chunks."""

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._skip = 0  # bytes until the next header
        self._wanted = _HEADER  # bytes that are read as a whole
        self._held = bytearray()
        self._records: int | None = None  # length of those that come now
        self._said: dict[str, int] = {}  # by them, of the file that follows
        self._map: int | None = None  # bytes after a sparse file's map
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Take some bytes."""
        view = memoryview(data)
        while view and not self.ended:
            if self._skip:
                step = min(self._skip, len(view))
                self._skip -= step
            else:
                step = min(self._wanted - len(self._held), len(view))
                self._held += view[:step]
                if len(self._held) == self._wanted:
                    whole = bytes(self._held)
                    self._held.clear()
                    self._wanted = _HEADER
                    self._take(whole)
            view = view[step:]

    def _take(self, whole: bytes) -> None:
        if self._records is not None:
            self._said = _numbers(whole[:self._records])
            self._records = None
        elif self._map is not None:
            if not whole[504]:
                self._skip, self._map = self._map, None
        elif not whole.strip(b'\0'):
            self.ended = True
        elif _is_header(whole):
            self._header(whole)
        else:
            raise InvalidImageArchive('the tar of a layer of it is corrupt')

    def _header(self, block: bytes) -> None:
        kind = block[156:157]
        size = max(0, _number(block[124:136]))
        if kind in _DESCRIBING:
            self._description(kind, size)
            return
        real = size = self._said.get('size', size)
        if kind == tarfile.GNUTYPE_SPARSE:
            real = max(size, _number(block[483:495]))
        real = max(real, *(self._said.get(name, 0) for name in _REAL_SIZES))
        self._said = {}
        if kind == tarfile.LNKTYPE:
            return
        empty = kind in _HEADER_ONLY
        self._scale.add(0 if empty else real)
        data = 0 if empty else size + -size % _HEADER
        if kind == tarfile.GNUTYPE_SPARSE and block[482]:
            self._map = data
        else:
            self._skip = data

    def _description(self, kind: bytes, size: int) -> None:
        padded = size + -size % _HEADER
        if kind != tarfile.XHDTYPE:
            self._skip = padded
            return
        if size > _MAX_RECORDS:
            raise InvalidImageArchive(
                'a header in a layer of it is absurdly long')
        self._said = {}
        if size:
            self._records, self._wanted = size, padded


def _numbers(records: bytes) -> dict[str, int]:
    """Return the sizes in an extended header: ``LENGTH KEY=VALUE\\n`` each."""
    found = {}
    while records:
        length, _, _rest = records.partition(b' ')
        if not length.isdigit() or not 0 < int(length) <= len(records):
            raise InvalidImageArchive('the tar of a layer of it is corrupt')
        record, records = records[:int(length)], records[int(length):]
        key, _, value = record[len(length) + 1:-1].partition(b'=')
        name = key.decode('utf-8', 'replace')
        if name in (*_REAL_SIZES, 'size') and value.isdigit():
            found[name] = int(value)
    return found
