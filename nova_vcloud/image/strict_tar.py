# SPDX-License-Identifier: Apache-2.0
"""The headers of a tar, read in the one way that every reader agrees on.

Go's archive/tar, with which an engine unpacks, GNU tar and Python understand
odd archives differently. What they could is refused here, with a reason, so
that what was counted is what is written.

Of ustar, POSIX pax and GNU's format that is accepted which ``docker save``,
``docker export``, GNU tar, bsdtar, busybox, Go, Python and Java write. Names
of fields are those of POSIX.1-2017 pax(1) and of GNU tar's ``tar.h``.
"""

from __future__ import annotations

import dataclasses
import re
import tarfile

from nova_vcloud.exception import InvalidImageArchive

BLOCK = tarfile.BLOCKSIZE
ZEROS = bytes(BLOCK)

MAX_RECORDS = 1 << 20  # bytes of one pax header; Go takes no more either
MAX_NAME = 4095  # bytes of a path: PATH_MAX of Linux without its NUL
MAX_COMPONENT = 255  # bytes: NAME_MAX
MAX_DEPTH = 256  # folders in each other
MAX_GLOBALS = 16  # headers for all that follows; ``git archive`` writes one
MAX_SPARSE = 4096  # blocks of the map of one sparse file
MAX_SIZE = 1 << 62

REGULAR, OLD_REGULAR = tarfile.REGTYPE, tarfile.AREGTYPE
HARD_LINK, SYMLINK = tarfile.LNKTYPE, tarfile.SYMTYPE
FOLDER, SPARSE = tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE
# Types that have no data, whatever their size field says.
_EMPTY = (HARD_LINK, SYMLINK, tarfile.CHRTYPE, tarfile.BLKTYPE, FOLDER,
          tarfile.FIFOTYPE)
_FILES = (REGULAR, OLD_REGULAR, SPARSE)
_PAX, _GLOBAL = tarfile.XHDTYPE, tarfile.XGLTYPE
_LONG = {tarfile.GNUTYPE_LONGNAME: b'path', tarfile.GNUTYPE_LONGLINK:
         b'linkpath'}

_OCTAL = re.compile(rb' *([0-7]+)[ \0]*')
_RECORD = re.compile(rb'([1-9][0-9]{0,7}) ')
_XATTRS = (b'SCHILY.xattr.', b'LIBARCHIVE.xattr.')
# Records that make something else of a member, for some readers.
_REFUSED = re.compile(rb'GNU\.|SCHILY\.(realsize|filetype|size)$|'
                      rb'SUN\.')
_USTAR, _GNU = b'ustar\x0000', b'ustar  \0'


@dataclasses.dataclass(frozen=True)
class Member:
    """What a header, with those before it that describe it, says.

    :ivar name: bytes of its path without ``.``, and without ``/`` around it;
        b'' is the root
    :ivar kind: as its typeflag
    :ivar size: bytes of data that follow, before they are padded
    :ivar real: bytes that these are unpacked to
    :ivar link: where a link leads
    :ivar headers: bytes of all of its headers
    :ivar attributes: bytes of its extended attributes
    """

    name: bytes
    kind: bytes
    size: int
    real: int
    link: bytes
    headers: int
    attributes: int

    @property
    def folder(self) -> bool:
        """Tell whether it is a directory."""
        return self.kind == FOLDER


def bad(reason: str) -> InvalidImageArchive:
    """Return the error of a tar that readers could understand differently."""
    return InvalidImageArchive(f'its tar headers are corrupt: {reason}')


def is_header(block: bytes) -> bool:
    """Tell by its sum whether a block is a header."""
    if len(block) < BLOCK or block[:BLOCK] == ZEROS:
        return False
    return _OCTAL.fullmatch(block[148:156]) is not None and (
        _octal(block[148:156], 'checksum') == _sum(block[:BLOCK]))


def _sum(block: bytes) -> int:
    return sum(block) - sum(block[148:156]) + 8 * 32


class Headers:
    """Takes the headers of a tar one after another.

    Give :meth:`take` as many bytes as :attr:`wanted` says, and skip what a
    member has of data, and its padding, before the next.
    """

    def __init__(self) -> None:
        self.wanted = BLOCK
        self.ended = False  # two blocks of zeros
        self.marked = False  # one at least
        self._next = self._header
        self._described: dict[bytes, bytes] = {}  # of the member that follows
        self._kinds: set[bytes] = set()  # of the headers that say so
        self._length = 0  # bytes of these headers
        self._data = 0  # bytes of the extension that is wanted
        self._globals = 0
        self._sparse: _Sparse | None = None

    @property
    def between(self) -> bool:
        """Tell whether no member has begun."""
        return not self._kinds and self._sparse is None

    def take(self, block: bytes) -> Member | None:
        """Read the next headers; return a member when one is complete.

        :raises InvalidImageArchive: readers could differ on it
        """
        found = self._next(block)
        if found is not None:
            self._described, self._kinds = {}, set()
            self._length, self._sparse = 0, None
        return found

    def _expect(self, what: object, size: int = BLOCK) -> None:
        self._next, self.wanted = what, size  # type: ignore[assignment]

    def _header(self, block: bytes) -> Member | None:
        if block == ZEROS:
            if not self.between:
                raise bad('one describes a member that does not come')
            self.marked, self.ended = True, self.marked
            return None
        if self.marked:
            raise bad('a member after the mark of the end')
        _check_form(block)
        kind, size = block[156:157], _size(block)
        self._length += BLOCK
        if kind in (_PAX, _GLOBAL) or kind in _LONG:
            self._extension(kind, size)
            return None
        return self._member(block, kind, size)

    def _extension(self, kind: bytes, size: int) -> None:
        """Want the data of a header that describes what follows."""
        if kind in self._kinds:
            raise bad('two of one kind describe one member')
        # Some readers forget, at a global one, what was said before.
        if self._kinds and (kind in (_PAX, _GLOBAL) or _PAX in self._kinds):
            raise bad('those of different kinds describe one member')
        limit = MAX_NAME + 1 if kind in _LONG else MAX_RECORDS
        if not 0 < size <= limit:
            raise InvalidImageArchive('a header in it is absurdly long' if size
                                      else 'a header in it is empty')
        self._kinds.add(kind)
        self._data = size
        self._expect(self._described_by(kind), size + -size % BLOCK)

    def _described_by(self, kind: bytes) -> object:
        def read(data: bytes) -> None:
            self._length += len(data)
            found, padding = data[:self._data], data[self._data:]
            if padding.count(0) != len(padding):
                raise bad('non-zero padding after a header')
            if kind in _LONG:
                self._described[_LONG[kind]] = _long(found)
            elif kind == _PAX:
                self._described = _records(found)
            else:
                self._global(_records(found))
            self._expect(self._header)
        return read

    def _global(self, said: dict[bytes, bytes]) -> None:
        """Allow what ``git archive`` says of all members: its commit."""
        self._globals += 1
        if set(said) != {b'comment'} or self._globals > MAX_GLOBALS:
            raise bad('one for all members, which not all readers heed')
        self._kinds.discard(_GLOBAL)

    def _member(self, block: bytes, kind: bytes, size: int) -> Member | None:
        if kind not in _EMPTY and kind not in _FILES:
            raise bad(f'a member of type {kind!r}')
        said = self._described
        size = int(said.get(b'size', size))
        path = said.get(b'path') or _own_name(block)
        if kind in _FILES and path.endswith(b'/'):
            # Tars before 1988 had no type for folders.
            if kind != OLD_REGULAR or size or said:
                raise bad('a file whose name is that of a folder')
            kind = FOLDER
        if kind in _EMPTY and size:
            raise bad('a size of what has no data')
        member = Member(
            _path(path), REGULAR if kind == OLD_REGULAR else kind, size, size,
            _link(kind, said.get(b'linkpath') or _text(block[157:257])),
            self._length, sum(len(key) + len(value)
                              for key, value in said.items()
                              if key.startswith(_XATTRS)))
        if kind != SPARSE:
            return member
        return self._begin_sparse(block, member)

    def _begin_sparse(self, block: bytes, member: Member) -> Member | None:
        if b'size' in self._described or block[257:265] != _GNU:
            raise bad('a sparse file in another format than GNU\'s')
        self._sparse = _Sparse(member, _number(block[483:495], 'real size'))
        return self._map(block[386:482], block[482], block[495:])

    def _more_map(self, block: bytes) -> Member | None:
        self._length += BLOCK
        if self._length > MAX_SPARSE * BLOCK:
            raise bad('a sparse file of too many pieces')
        return self._map(block[:504], block[504], block[505:])

    def _map(self, entries: bytes, more: int, rest: bytes) -> Member | None:
        if self._sparse is None or more > 1 or rest.count(0) != len(rest):
            raise bad('the map of a sparse file')
        full = self._sparse.add(entries)
        if more:
            if not full:
                raise bad('the map of a sparse file')
            self._expect(self._more_map)
            return None
        self._expect(self._header)
        return dataclasses.replace(
            self._sparse.checked(), headers=self._length)


class _Sparse:
    """The map of a sparse file in GNU's own format."""

    def __init__(self, member: Member, real: int) -> None:
        self._member = member
        self._real = real
        self._end = 0  # of the last piece
        self._data = 0  # bytes of all pieces

    def add(self, entries: bytes) -> bool:
        """Take a part of the map; tell whether it has no free place."""
        for place in range(0, len(entries), 24):
            entry = entries[place:place + 24]
            if not entry[0]:
                if entries.count(0, place) != len(entries) - place:
                    raise bad('the map of a sparse file')
                return False
            offset = _number(entry[:12], 'offset')
            length = _number(entry[12:], 'length')
            if offset < self._end:
                raise bad('the pieces of a sparse file overlap')
            self._end = offset + length
            self._data += length
        return True

    def checked(self) -> Member:
        """Return the member with its real size."""
        if self._data != self._member.size or self._end > self._real:
            raise bad('the pieces of a sparse file are not its size')
        return dataclasses.replace(self._member, real=self._real)


def _check_form(block: bytes) -> None:
    """Refuse a header whose fields readers could look for elsewhere."""
    if _octal(block[148:156], 'checksum') != _sum(block):
        raise bad('a checksum is wrong')
    magic, kind = block[257:265], block[156:157]
    if magic == _USTAR:
        free = block[500:]  # of star something is there
    elif magic == _GNU:
        free = b'' if kind == SPARSE else block[345:]
    elif magic == bytes(8):
        free = block[257:]
    else:
        raise bad('a format that is neither ustar, pax nor GNU\'s')
    if free.count(0) != len(free):
        raise bad('something where its format has nothing')


def _octal(field: bytes, what: str) -> int:
    found = _OCTAL.fullmatch(field)
    if not found:
        raise bad(f'a {what} that is no number')
    return int(found[1], 8)


def _number(field: bytes, what: str) -> int:
    """Return a number as octal digits, or in base 256 (GNU, star)."""
    if field[0] != 0x80:
        return _octal(field, what)
    found = int.from_bytes(field[1:], 'big')
    if found > MAX_SIZE:
        raise bad(f'a {what} that is absurd')
    return found


def _size(block: bytes) -> int:
    return _number(block[124:136], 'size')


def _records(data: bytes) -> dict[bytes, bytes]:
    """Return what a pax header says: ``LENGTH KEY=VALUE\\n`` each."""
    said: dict[bytes, bytes] = {}
    place = 0
    while place < len(data):
        head = _RECORD.match(data, place)
        end = place + int(head[1]) if head else 0
        if not head or not head.end() < end <= len(data) or (
                data[end - 1:end] != b'\n'):
            raise bad('a record that is none')
        key, equals, value = data[head.end():end - 1].partition(b'=')
        if not equals or not key or b'\0' in key or key in said:
            raise bad('a record that is none, or is there twice')
        _check_record(key, value)
        said[key] = value
        place = end
    return said


def _check_record(key: bytes, value: bytes) -> None:
    if _REFUSED.match(key):
        raise bad(f'a record {key[:40].decode("ascii", "replace")!r}; write '
                  'sparse files with --format=gnu, or without --sparse')
    if key == b'size' and not (value.isdigit() and len(value) < 19):
        raise bad('a size that is no number')
    if key in (b'path', b'linkpath') and (not value or b'\0' in value):
        raise bad('a name that is none')


def _long(data: bytes) -> bytes:
    """Return a name that has a header of its own."""
    name = data.rstrip(b'\0')
    if not name or b'\0' in name:
        raise bad('a name that is none')
    return name


def _text(field: bytes) -> bytes:
    return field.partition(b'\0')[0]


def _own_name(block: bytes) -> bytes:
    name = _text(block[:100])
    if block[257:265] == _USTAR and block[345]:
        return _text(block[345:500]) + b'/' + name
    return name


def _path(name: bytes) -> bytes:
    """Return a path as it is below the root.

    :raises InvalidImageArchive: not every reader would take it
    """
    parts = [part for part in name.split(b'/') if part not in (b'', b'.')]
    if not name or b'..' in parts:
        raise InvalidImageArchive(
            f'its member {name[:100]!a} lies outside of it')
    if (len(name) > MAX_NAME or len(parts) > MAX_DEPTH
            or any(len(part) > MAX_COMPONENT for part in parts)):
        raise InvalidImageArchive(
            f'its member {name[:100]!a} has too long a name')
    return b'/'.join(parts)


def _link(kind: bytes, link: bytes) -> bytes:
    if kind not in (HARD_LINK, SYMLINK):
        return b''
    if not 0 < len(link) <= MAX_NAME:
        raise bad('a link to nowhere')
    return _path(link) if kind == HARD_LINK else link
