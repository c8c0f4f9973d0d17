# SPDX-License-Identifier: Apache-2.0
"""What a layer takes once it is unpacked, and its digest, as it passes by.

A layer is a tar, plain or compressed with gzip. Its headers declare all that
an engine will write, so that a bomb (much from little: gzip, sparse files,
very many small ones, folders that only names of files imply) is known before
a byte of it is on a disk. What an engine could understand differently is
refused: no layer is unpacked to more than is counted here.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import hashlib

from nova_vcloud.exception import ImageTooLarge
from nova_vcloud.exception import InvalidImageArchive
from nova_vcloud.exception import TooManyFiles
from nova_vcloud.image import strict_gzip
from nova_vcloud.image import strict_tar

#: What a file takes at least, and in multiples of what: a block.
BLOCK = 4096
#: Files and folders of one image when nothing else is said. Debian with a
#: desktop has 300,000.
MAX_FILES = 1_000_000

_LINK = 512  # bytes of a name in a folder: NAME_MAX, and what is kept with it
_REFUSED = {b'\xfd7zXZ': 'xz', b'BZh': 'bzip2', b'\x28\xb5\x2f\xfd': 'zstd'}
# https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts
_WHITEOUT, _OPAQUE = b'.wh.', b'.wh..wh..opq'


@dataclasses.dataclass(frozen=True)
class Weight:
    """What something takes on a disk.

    :ivar size: bytes, with those that an engine notes of its headers
    :ivar files: inodes, or names where several are of one
    """

    size: int = 0
    files: int = 0

    def __sub__(self, other: Weight) -> Weight:
        return Weight(self.size - other.size, self.files - other.files)

    def __add__(self, other: Weight) -> Weight:
        return Weight(self.size + other.size, self.files + other.files)


class Scale:
    """Adds up what the layers of one image take.

    :param limit: bytes that all of them may take
    :param files: how many files and folders they may have
    :param reserve: is told of each new total before it is taken, and raises
        ImageTooLarge where others have the room
    """

    def __init__(self, limit: int, files: int = MAX_FILES,
                 reserve: Callable[[Weight], None] = lambda _total: None
                 ) -> None:
        self.limit = limit
        self.files = files
        self.reserve = reserve
        self.total = Weight()

    def put(self, weight: Weight) -> None:
        """Count something.

        :raises ImageTooLarge: it is too much
        :raises TooManyFiles: they are too many
        """
        self.total += weight
        if self.total.size > self.limit:
            raise ImageTooLarge(self.limit)
        if self.total.files > self.files:
            raise TooManyFiles(self.files)
        self.reserve(self.total)

    def anew(self) -> Scale:
        """Return one of the same bounds with nothing on it."""
        return Scale(self.limit, self.files, self.reserve)


def is_layer(head: bytes) -> bool:
    """Tell by its first 512 bytes whether something is a layer.

    :raises InvalidImageArchive: it is one that cannot be weighed
    """
    for magic, what in _REFUSED.items():
        if head.startswith(magic):
            raise InvalidImageArchive(
                f'a layer of it is compressed with {what}; only gzip is '
                'accepted')
    return (head.startswith(strict_gzip.MAGIC)
            or strict_tar.is_header(head[:strict_tar.BLOCK])
            or head[:strict_tar.BLOCK] == strict_tar.ZEROS)


class Layer:
    """One layer that passes by.

    :param scale: on which its weight is put
    :param marked: whether it must have its mark of the end; where its digest
        is known, that is proof enough
    """

    def __init__(self, scale: Scale, *, marked: bool = False) -> None:
        self._scale = scale
        self._before = scale.total
        self._digest = hashlib.sha256()
        self._tar = _Tar(scale, marked=marked)

    @property
    def diff_id(self) -> str:
        """Return the digest of what has passed, unpacked."""
        return f'sha256:{self._digest.hexdigest()}'

    @property
    def weight(self) -> Weight:
        """Return what was put on the scale for it."""
        return self._scale.total - self._before

    def passed(self, chunks: Iterable[bytes],
               diff_id: str | None = None) -> Iterator[bytes]:
        """Pass the layer on; its last chunk only when all of it is right.

        :param diff_id: what its digest has to be, where that is known
        :raises ImageTooLarge: before the bytes that are too many
        :raises InvalidImageArchive: it is none, or not that one
        """
        source = filter(None, chunks)
        held = b''
        while len(held) < strict_tar.BLOCK and (chunk := next(source, None)):
            held += chunk
        if not is_layer(held):
            raise InvalidImageArchive('a layer of it is no tar')
        gzip = (strict_gzip.Gunzip() if held.startswith(strict_gzip.MAGIC)
                else None)
        self._look(gzip, held)
        for chunk in source:
            self._look(gzip, chunk)
            yield held
            held = chunk
        if gzip:
            gzip.finish()
        self._tar.finish()
        if diff_id not in (None, self.diff_id):
            raise InvalidImageArchive(
                f'a layer of it is {self.diff_id}, and not {diff_id}, which '
                'its configuration names')
        yield held

    def _look(self, gzip: strict_gzip.Gunzip | None, chunk: bytes) -> None:
        for data in gzip.feed(chunk) if gzip else (chunk,):
            self._digest.update(data)
            self._tar.feed(data)


class _Tar:
    """Counts the members of a tar that comes in chunks."""

    def __init__(self, scale: Scale, *, marked: bool) -> None:
        self._scale = scale
        self._marked = marked
        self._headers = strict_tar.Headers()
        self._tree = _Tree()
        self._skip = 0  # bytes of data until the padding
        self._padding = 0  # bytes of it until the next header
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        """Take some bytes."""
        view = memoryview(data)
        while view:
            if self._headers.ended:
                self._after(view)
                return
            if self._skip:
                step = min(self._skip, len(view))
                self._skip -= step
                view = view[step:]
                continue
            wanted = self._padding or self._headers.wanted
            step = min(wanted - len(self._held), len(view))
            self._held += view[:step]
            view = view[step:]
            if len(self._held) == wanted:
                whole = bytes(self._held)
                self._held.clear()
                self._take(whole)

    def finish(self) -> None:
        """Say that there is no more.

        :raises InvalidImageArchive: there should be
        """
        if (self._skip or self._padding or self._held
                or not self._headers.between
                or (self._marked and not self._headers.marked)):
            raise InvalidImageArchive('it is truncated')

    def _take(self, whole: bytes) -> None:
        if self._padding:
            self._padding = 0
            if whole.count(0) != len(whole):
                raise strict_tar.bad('non-zero padding after a member')
            return
        member = self._headers.take(whole)
        if member is None:
            return
        self._skip, self._padding = (member.size,
                                     -member.size % strict_tar.BLOCK)
        self._scale.put(self._tree.add(member))

    def _after(self, view: memoryview) -> None:
        """Look at what follows the end: zeros, to fill a tape's block."""
        if bytes(view).count(0) != len(view):
            raise strict_tar.bad('something follows the mark of the end')
        self._scale.put(Weight(len(view)))


class _Tree:
    """The files of a layer, as far as they decide what others take.

    What is known of a name is known by its hash, which has a key: very many
    names take 60 bytes each.
    """

    def __init__(self) -> None:
        self._folders = {hash(b'')}
        self._others: set[int] = set()
        self._opaque: set[int] = set()

    def add(self, member: strict_tar.Member) -> Weight:
        """Return what a member takes, with the folders that it implies.

        :raises InvalidImageArchive: what it takes depends on who unpacks it
        """
        name = member.name
        folder, _, last = name.rpartition(b'/')
        implied = self._make(folder) if name else 0
        if last.startswith(_WHITEOUT):
            self._whiteout(member, folder, last)
        elif member.folder:
            if hash(name) in self._others:
                raise strict_tar.bad('a folder where it has a file')
            self._folders.add(hash(name))
        else:
            self._file(member)
        size = member.headers + BLOCK * implied
        if member.kind == strict_tar.HARD_LINK:
            return Weight(size + _LINK, 1 + implied)
        # Attributes that do not fit in an inode have a block.
        return Weight(size + max(BLOCK, _blocks(member.real))
                      + _blocks(member.attributes), 1 + implied)

    def _file(self, member: strict_tar.Member) -> None:
        if hash(member.name) in self._folders:
            raise strict_tar.bad('a file where it has a folder')
        # A store would copy a file of a layer below for a link to it.
        if member.kind == strict_tar.HARD_LINK and (
                hash(member.link) not in self._others):
            raise strict_tar.bad(
                f'a hard link {member.name[:100]!a} to a file that is not '
                'before it in its layer')
        self._others.add(hash(member.name))

    def _make(self, folder: bytes) -> int:
        """Note a folder and those above it; return how many are new."""
        new = 0
        while hash(folder) not in self._folders:
            above, _, last = folder.rpartition(b'/')
            if hash(folder) in self._others or last.startswith(_WHITEOUT):
                raise strict_tar.bad('a file below what is no folder')
            self._folders.add(hash(folder))
            new += 1
            folder = above
        return new

    def _whiteout(self, member: strict_tar.Member, folder: bytes,
                  last: bytes) -> None:
        """Refuse one for the layer's own files, and those of AUFS."""
        if last == _OPAQUE:
            if hash(folder) in self._opaque:
                raise strict_tar.bad('a folder is opaque twice')
            self._opaque.add(hash(folder))
            return
        hidden = last.removeprefix(_WHITEOUT)
        path = hash(folder + b'/' + hidden if folder else hidden)
        if (not hidden or hidden.startswith(_WHITEOUT) or member.real
                or hidden in (b'.', b'..')
                or path in self._folders or path in self._others):
            raise strict_tar.bad('a whiteout that not all stores heed')


def _blocks(size: int) -> int:
    return size + -size % BLOCK
