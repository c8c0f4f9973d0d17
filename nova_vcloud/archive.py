# SPDX-License-Identifier: Apache-2.0
"""Streams a tenant's image archive to the engine with nothing hidden in it.

Every header of a docker archive is written anew and only what loading needs
is passed on, so that the engine never parses what we did not, and an archive
cannot move the name of another image. Memory does not grow with its size.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import enum
import io
import itertools
import json
import posixpath
import re
import tarfile
from typing import Any
import zlib

from nova_vcloud import manifests
from nova_vcloud.exception import ImageTooLarge
from nova_vcloud.exception import InvalidImageArchive
from nova_vcloud.unpacked import Scale

MAX_BYTES = 1 << 40  # unpacked size of an archive when no limit is given
MAX_MANIFEST = 4 << 20  # bytes; the one member that is held in memory
MAX_MEMBERS = 4096  # an engine's image has at most 127 layers
MAX_EXTENSION = 64 << 10  # bytes of the long-name headers of one member
MAX_LINKS = 16  # symbolic links followed from a layer's name to its file

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_HEAD = 64 << 10
_END = bytes(2 * _BLOCK)
_GZIP = b'\x1f\x8b'
_OTHERS = {
    b'QFI\xfb': 'a qcow2 disk image',
    b'KDMV': 'a VMDK disk image',
    b'\xfd7zXZ': 'compressed with xz; only gzip is accepted',
    b'BZh': 'compressed with bzip2; only gzip is accepted',
    b'\x28\xb5\x2f\xfd': 'compressed with zstd; only gzip is accepted',
}
# First member of what `docker save` (old and new), podman, skopeo, crane and
# kaniko write. Everything else is taken for the `/` of a system.
_DOCKER = re.compile(
    r'((sha256:)?[0-9a-f]{64}([/.]|$)|blobs(/|$)'
    r'|(oci-layout|(index|manifest)\.json|repositories)$)')
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
               tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
# Names an engine would take image names from instead of the manifest.
_DROPPED = ('repositories', 'index.json', 'oci-layout')


class Kind(enum.Enum):
    """What an accepted archive is."""

    IMAGE = 'docker save'
    ROOTFS = 'docker export'


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive on its way: read ``chunks`` to the end, once.

    :ivar scale: knows at the end what the image takes unpacked
    """

    kind: Kind
    chunks: Iterator[bytes]
    scale: Scale


def open_archive(source: Iterable[bytes], tag: str,
                 limit: int = MAX_BYTES) -> Archive:
    """Tell what an archive is and return its bytes, made safe to load.

    :param source: the archive, plain or compressed with gzip
    :param tag: ``repository:tag``, the only name the loaded image gets
    :param limit: bytes to which the archive may unpack, and its layers
    :raises InvalidImageArchive: at once, or from ``chunks`` before its last
        one, so that the engine never sees a bad archive end well
    """
    reader = _Reader(source)
    if reader.peek(len(_GZIP)) == _GZIP:
        reader = _Reader(_gunzip(reader.rest()))
    kind = classify(reader.peek(_HEAD))
    scale = Scale(limit)
    chunks = (_rootfs(reader, scale) if kind is Kind.ROOTFS
              else _ImageFilter(reader, tag, scale).chunks())
    # An empty chunk would end a chunked HTTP request early.
    return Archive(kind, filter(None, chunks), scale)


def docker_archive(config: bytes, layers: Iterable[
        tuple[manifests.Blob, Iterable[bytes]]], tag: str, limit: int
        ) -> Iterator[bytes]:
    """Write what an engine loads of pieces that come from elsewhere.

    :param layers: of the image, lowest first, each with its bytes; with none
        where the engine has that layer
    :raises InvalidImageArchive: before the last chunk, when a piece is not
        what its digest says or all are too large
    """
    scale, names = Scale(limit), []
    weights: dict[manifests.Blob, int] = {}
    for blob, chunks in layers:
        names.append(f'{blob.hexdigest}.tar')
        if blob in weights:  # the engine unpacks it once more
            scale.put(weights[blob])
            continue
        body, before = iter(chunks), scale.total
        first = next(body, None)
        if first is None:
            continue
        yield _header(names[-1], blob.size)
        yield from scale.weighed(manifests.checked(
            blob, itertools.chain([first], body)))
        yield _padding(blob.size)
        weights[blob] = scale.total - before
    manifest = json.dumps([{'Config': 'config.json', 'Layers': names,
                            'RepoTags': [tag]}]).encode()
    for name, data in (('config.json', config), ('manifest.json', manifest)):
        yield _header(name, len(data)) + data + _padding(len(data))
    yield _END


def classify(head: bytes) -> Kind:
    """Tell from its first bytes (64 KiB do) what an archive is.

    :raises InvalidImageArchive: not a tar archive
    """
    if not head:
        raise InvalidImageArchive('it is empty')
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise InvalidImageArchive(f'it is {what}')
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode='r:') as tar:
            # `tar -C folder -c .` begins with the folder itself.
            for info in itertools.islice(tar, 2):
                name = posixpath.normpath(info.name)
                if name != '.':
                    return Kind.IMAGE if _DOCKER.match(name) else Kind.ROOTFS
    except (tarfile.TarError, ValueError, EOFError) as e:
        raise InvalidImageArchive('it is not a tar archive') from e
    raise InvalidImageArchive('it is a tar archive without members')


class _Reader:
    """Reads exact amounts from chunks of any size, copying only at seams."""

    def __init__(self, source: Iterable[bytes]) -> None:
        self._source = iter(source)
        self._chunk = b''
        self._offset = 0

    def _fill(self) -> bool:
        """Have an unread byte at hand; False at the end."""
        while self._offset >= len(self._chunk):
            try:
                self._chunk = next(self._source)
            except StopIteration:
                self._chunk, self._offset = b'', 0
                return False
            self._offset = 0
        return True

    def peek(self, size: int) -> bytes:
        """Return up to ``size`` next bytes and leave them unread."""
        parts = list(self._upto(size))
        head = b''.join(parts)
        self._chunk = head + self._chunk[self._offset:]
        self._offset = 0
        return head

    def _upto(self, size: int) -> Iterator[bytes]:
        while size and self._fill():
            part = self._chunk[self._offset:self._offset + size]
            self._offset += len(part)
            size -= len(part)
            yield part

    def take(self, size: int) -> Iterator[bytes]:
        """Yield exactly ``size`` bytes."""
        for part in self._upto(size):
            size -= len(part)
            yield part
        if size:
            raise InvalidImageArchive('it is truncated')

    def exactly(self, size: int) -> bytes:
        """Return exactly ``size`` bytes; for small ones."""
        return b''.join(self.take(size))

    def rest(self) -> Iterator[bytes]:
        """Yield all that is left."""
        while self._fill():
            part = self._chunk[self._offset:]
            self._offset = len(self._chunk)
            yield part


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress, at most 1 MiB at a time however well it was packed."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for chunk in chunks:
            left = chunk
            while left:
                if stream.eof:
                    left = left.lstrip(b'\0')  # tape padding
                    stream = stream if not left else zlib.decompressobj(
                        zlib.MAX_WBITS | 16)
                    continue
                yield stream.decompress(left, _CHUNK)
                left = stream.unused_data or stream.unconsumed_tail
        while not stream.eof:
            last = stream.decompress(b'', _CHUNK)
            if not last:
                raise InvalidImageArchive('it is truncated')
            yield last
    except zlib.error as e:
        raise InvalidImageArchive(f'its gzip data is corrupt: {e}') from e


def _rootfs(reader: _Reader, scale: Scale) -> Iterator[bytes]:
    """Pass a root filesystem on; the engine unpacks it as any layer."""
    total = 0
    tail = b''
    for chunk in filter(None, scale.weighed(reader.rest())):
        total += len(chunk)
        _check_total(total, scale.limit)
        # The last block is held back until it is known to be the end mark.
        whole = tail + chunk if len(chunk) < _BLOCK else chunk
        if whole is chunk:
            yield tail
        tail = whole[-_BLOCK:]
        yield whole[:-_BLOCK]
    if tail.strip(b'\0') or total % _BLOCK:
        raise InvalidImageArchive('it is truncated')
    yield tail


def _check_total(total: int, limit: int) -> None:
    if total > limit:
        raise ImageTooLarge(limit)


class _ImageFilter:
    """Rewrites one docker archive; the manifest goes out last."""

    def __init__(self, reader: _Reader, tag: str, scale: Scale) -> None:
        self._reader = reader
        self._tag = tag
        self._limit = scale.limit
        self._scale = scale
        self._total = 0
        self._weights: dict[str, int] = {}  # of members, unpacked
        self._links: dict[str, str | None] = {}  # None: a file
        self._manifest: bytes | None = None
        self._oci = False

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive as the engine shall see it."""
        for count, info in enumerate(_members(self._reader)):
            if count >= MAX_MEMBERS:
                raise InvalidImageArchive(
                    f'it has more than {MAX_MEMBERS} members')
            yield from self._member(info)
        # To its very end: the source checks its own sum there.
        for _ in self._reader.rest():
            pass
        manifest = self._checked_manifest()
        yield _header('manifest.json', len(manifest))
        yield manifest + _padding(len(manifest))
        yield _END

    def _member(self, info: tarfile.TarInfo) -> Iterator[bytes]:
        name = _safe_name(info)
        if info.type == tarfile.DIRTYPE:
            if name != '.':
                yield _header(name, kind=tarfile.DIRTYPE, mode=0o755)
            return
        self._note(name, info)
        if info.type == tarfile.SYMTYPE:
            yield _header(name, kind=tarfile.SYMTYPE, link=info.linkname)
            return
        body = self._reader.take(info.size)
        if name == 'manifest.json':
            if info.size > MAX_MANIFEST:
                raise InvalidImageArchive(
                    f'its manifest.json is larger than {MAX_MANIFEST} bytes')
            self._manifest = b''.join(body)
        elif name in _DROPPED:
            for _ in body:
                pass
        else:
            scale = Scale(self._limit)
            yield _header(name, info.size)
            yield from scale.weighed(body)
            yield _padding(info.size)
            self._weights[name] = scale.total
        self._reader.exactly(-info.size % _BLOCK)

    def _note(self, name: str, info: tarfile.TarInfo) -> None:
        """Remember a file or link; refuse what no engine writes."""
        if name in self._links:
            raise InvalidImageArchive(f'it has {name} twice')
        if info.type == tarfile.SYMTYPE:
            target = posixpath.normpath(
                posixpath.join(posixpath.dirname(name), info.linkname))
            if (not _plain(info.linkname) or _outside(target)
                    or name == 'manifest.json'):
                raise InvalidImageArchive(f'its link {name} leads astray')
            self._links[name] = target
            return
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise InvalidImageArchive(
                f'its member {name} is neither file, folder nor link')
        self._total += info.size
        _check_total(self._total, self._limit)
        self._oci = self._oci or name in ('oci-layout', 'index.json')
        self._links[name] = None

    def _checked_manifest(self) -> bytes:
        if self._manifest is None:
            raise InvalidImageArchive(
                'it is an OCI layout without manifest.json; write it with '
                '"docker save" or as docker-archive' if self._oci else
                'it has no manifest.json; write it with "docker save"')
        for name in self._links:
            # A link to a folder could lead out of the archive after all.
            if not self._is_file(name):
                raise InvalidImageArchive(f'its link {name} leads astray')
        entry = _only_entry(self._manifest)
        for name in (entry['Config'], *entry['Layers']):
            if not self._is_file(name):
                raise InvalidImageArchive(
                    f'its manifest.json names {name[:100]!r}, which is not '
                    'in it')
        self._weigh(entry['Layers'])
        return json.dumps([{**entry, 'RepoTags': [self._tag]}]).encode()

    def _weigh(self, layers: list[str]) -> None:
        """Add up what the layers take; one may be there more than once."""
        for name in layers:
            self._scale.put(self._weights.get(self._file(name) or '', 0))

    def _is_file(self, name: str) -> bool:
        """Tell whether a name leads to a member that is a file."""
        return self._file(name) is not None

    def _file(self, name: str) -> str | None:
        """Return the member that is the file a name leads to."""
        here = posixpath.normpath(name)
        for _ in range(MAX_LINKS):
            if here not in self._links:
                return None
            target = self._links[here]
            if target is None:
                return here
            here = target
        return None


def _members(reader: _Reader) -> Iterator[tarfile.TarInfo]:
    """Yield each header; the caller reads a file's data in between."""
    try:
        while True:
            block = reader.exactly(_BLOCK)
            if not block.strip(b'\0'):
                return
            yield _read_member(reader, block)
    except (tarfile.TarError, ValueError) as e:
        raise InvalidImageArchive(f'its tar headers are corrupt: {e}') from e


def _read_member(reader: _Reader, block: bytes) -> tarfile.TarInfo:
    """Parse one header, with the long-name headers before it."""
    info = tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
    headers = block
    while info.type in _EXTENSIONS:
        if not 0 <= info.size <= MAX_EXTENSION - len(headers):
            raise InvalidImageArchive('a header in it is absurdly long')
        headers += reader.exactly(info.size + -info.size % _BLOCK)
        block = reader.exactly(_BLOCK)
        headers += block
        info = tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
    if headers is not block:
        with tarfile.open(fileobj=io.BytesIO(headers), mode='r:') as tar:
            info = tar.next() or info
    if info.size < 0 or info.sparse is not None:
        raise InvalidImageArchive('a header in it is absurd')
    return info


def _plain(name: str) -> bool:
    return bool(name) and name.isascii() and name.isprintable()


def _outside(path: str) -> bool:
    return path == '..' or path.startswith(('/', '../'))


def _safe_name(info: tarfile.TarInfo) -> str:
    name = posixpath.normpath(info.name)
    if not _plain(info.name):
        raise InvalidImageArchive(
            f'its member {info.name[:100]!a} has a name no engine writes')
    if _outside(name) or '..' in info.name.split('/'):
        raise InvalidImageArchive(
            f'its member {info.name[:100]!r} lies outside of it')
    return name


def _only_entry(data: bytes) -> dict[str, Any]:
    """Return what loading needs of the one image in a manifest.

    Layers from elsewhere (``LayerSources``) and a ``Parent`` among the
    engine's images are left out.
    """
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise InvalidImageArchive('its manifest.json is not JSON') from e
    if isinstance(manifest, list) and len(manifest) > 1:
        raise InvalidImageArchive(
            f'it has {len(manifest)} images; save one alone')
    match manifest:
        case [{'Config': str(config), 'Layers': list(layers)}] if all(
                isinstance(layer, str) for layer in layers):
            return {'Config': config, 'Layers': layers}
    raise InvalidImageArchive('its manifest.json describes no image')


def _header(name: str, size: int = 0, *, kind: bytes = tarfile.REGTYPE,
            mode: int = 0o644, link: str = '') -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode, info.linkname = size, kind, mode, link
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
