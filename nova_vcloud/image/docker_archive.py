# SPDX-License-Identifier: Apache-2.0
"""Streams a tenant's image archive to the engine with nothing hidden in it.

A docker archive is written anew: its layers under names of ours, each read by
:mod:`nova_vcloud.image.unpacked_size`, then its configuration and its
manifest with what loading needs and no more. So the engine never parses what
we did not, an archive cannot move the name of another image, and a layer is
what its digest says. Memory does not grow with its size.
"""

from __future__ import annotations

from collections.abc import Callable
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

from nova_vcloud.exception import ImageTooLarge
from nova_vcloud.exception import InvalidImageArchive
from nova_vcloud.image import image_config
from nova_vcloud.image import manifests
from nova_vcloud.image import strict_gzip
from nova_vcloud.image import strict_tar
from nova_vcloud.image import unpacked_size

MAX_BYTES = 1 << 40  # unpacked size of an archive when no limit is given
MAX_MANIFEST = 4 << 20  # bytes
MAX_MEMBERS = 4096  # an engine's image has at most 127 layers
# Manifest, configurations and what older engines write of each layer are held
# in memory until it is known which is which.
MAX_HELD = 16 << 20  # bytes of all of them
MAX_LINKS = 16  # symbolic links followed from a layer's name to its file

_BLOCK = tarfile.BLOCKSIZE
_HEAD = 64 << 10
_END = bytes(2 * _BLOCK)
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
# Names an engine would take image names from instead of the manifest, and
# the number of a format that older ones write beside each layer.
_DROPPED = ('repositories', 'index.json', 'oci-layout', 'VERSION')


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
    scale: unpacked_size.Scale


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of an image that is put together of pieces.

    :ivar diff_id: its digest, unpacked
    :ivar chunks: its bytes; None where the engine has it
    :ivar weight: what it takes, where that is known
    """

    blob: manifests.Blob
    diff_id: str
    chunks: Iterable[bytes] | None
    weight: unpacked_size.Weight | None = None


def open_archive(source: Iterable[bytes], tag: str, limit: int = MAX_BYTES,
                 files: int = unpacked_size.MAX_FILES,
                 reserve: Callable[[unpacked_size.Weight], None]
                 = lambda _total: None) -> Archive:
    """Tell what an archive is and return its bytes, made safe to load.

    :param source: the archive, plain or compressed with gzip
    :param tag: ``repository:tag``, the only name the loaded image gets
    :param limit: bytes to which the archive may unpack, and its layers
    :param files: how many files and folders it may have
    :param reserve: as of :class:`unpacked_size.Scale`
    :raises InvalidImageArchive: at once, or from ``chunks`` before its last
        one, so that the engine never sees a bad archive end well
    """
    reader = _Reader(source)
    if reader.peek(len(strict_gzip.MAGIC)) == strict_gzip.MAGIC:
        reader = _Reader(strict_gzip.unpacked(reader.rest(), padded=True))
    kind = classify(reader.peek(_HEAD))
    scale = unpacked_size.Scale(limit, files, reserve)
    chunks = (unpacked_size.Layer(scale, marked=True).passed(reader.rest())
              if kind is Kind.ROOTFS
              else _ImageFilter(reader, tag, scale).chunks())
    # An empty chunk would end a chunked HTTP request early.
    return Archive(kind, filter(None, chunks), scale)


def docker_archive(config: image_config.Config, layers: Iterable[Layer],
                   tag: str, scale: unpacked_size.Scale,
                   verified: Callable[[Layer], None] = lambda _layer: None
                   ) -> Iterator[bytes]:
    """Write what an engine loads of pieces that come from elsewhere.

    :param layers: of the image, lowest first
    :param verified: is given each layer that has passed, with its weight,
        and is what its digests say
    :raises InvalidImageArchive: before the last chunk, when a piece is not
        what its digest says or all are too large
    """
    names = []
    seen: dict[manifests.Blob, Layer] = {}
    for layer in layers:
        names.append(f'{layer.blob.hexdigest}.tar')
        known = seen.get(layer.blob) or layer
        if known.diff_id != layer.diff_id:
            raise InvalidImageArchive(
                'its configuration has two digests of one layer')
        if known is not layer or layer.chunks is None:
            # The engine unpacks it once more, or has it.
            scale.put(known.weight or unpacked_size.Weight())
            seen[layer.blob] = known
            continue
        look = unpacked_size.Layer(scale)
        yield _header(names[-1], layer.blob.size)
        yield from look.passed(manifests.checked(
            layer.blob, layer.chunks), layer.diff_id)
        yield _padding(layer.blob.size)
        seen[layer.blob] = dataclasses.replace(layer, weight=look.weight)
        verified(seen[layer.blob])
    yield from _ending(config, names, tag)


def _ending(config: image_config.Config, layers: list[str],
            tag: str) -> Iterator[bytes]:
    manifest = json.dumps([{'Config': 'config.json', 'Layers': layers,
                            'RepoTags': [tag]}]).encode()
    for name, data in (('config.json', config.data),
                       ('manifest.json', manifest)):
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


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A layer that has been passed on.

    :ivar name: of ours
    """

    name: str
    diff_id: str
    weight: unpacked_size.Weight


class _ImageFilter:
    """Writes one docker archive anew; the manifest goes out last."""

    def __init__(self, reader: _Reader, tag: str,
                 scale: unpacked_size.Scale) -> None:
        self._reader = reader
        self._tag = tag
        self._scale = scale
        # Of what passes; what the image takes is known by its manifest.
        self._passing = scale.anew()
        self._total = 0
        self._layers: dict[str, _Stored] = {}
        self._held: dict[str, bytes] = {}
        self._links: dict[str, str] = {}
        self._names: set[str] = set()

    def chunks(self) -> Iterator[bytes]:
        """Yield the archive as the engine shall see it."""
        for count, member in enumerate(_members(self._reader)):
            if count >= MAX_MEMBERS:
                raise InvalidImageArchive(
                    f'it has more than {MAX_MEMBERS} members')
            yield from self._member(member)
        # To its very end: the source checks its own sum there.
        for chunk in self._reader.rest():
            if chunk.count(0) != len(chunk):
                raise InvalidImageArchive(
                    'something follows the end of its tar')
        config, layers = self._image()
        yield from _ending(config, layers, self._tag)

    def _member(self, member: strict_tar.Member) -> Iterator[bytes]:
        name = _safe_name(member)
        if member.folder:
            return
        if name in self._names:
            raise InvalidImageArchive(
                f'its tar has a duplicate member, {name}')
        self._names.add(name)
        if member.kind == strict_tar.SYMLINK:
            self._links[name] = _target(name, member.link)
            return
        if member.kind != strict_tar.REGULAR:
            raise InvalidImageArchive(
                f'its member {name} is neither file, folder nor link')
        self._total += member.size
        if self._total > self._scale.limit:
            raise ImageTooLarge(self._scale.limit)
        yield from self._file(name, member.size)

    def _file(self, name: str, size: int) -> Iterator[bytes]:
        head = self._reader.peek(min(size, _BLOCK))
        body = self._reader.take(size)
        if unpacked_size.is_layer(head):
            yield from self._layer(name, size, body)
        elif name.rpartition('/')[2] in _DROPPED or not size:
            for _ in body:
                pass
        elif head.lstrip()[:1] in (b'{', b'['):
            self._hold(name, size, body)
        else:
            raise InvalidImageArchive(
                f'its member {name} is neither a layer (tar, plain or with '
                'gzip) nor JSON')

    def _layer(self, name: str, size: int,
               body: Iterator[bytes]) -> Iterator[bytes]:
        ours = f'{len(self._layers)}.tar'
        look = unpacked_size.Layer(self._passing)
        yield _header(ours, size)
        yield from look.passed(body)
        yield _padding(size)
        self._layers[name] = _Stored(ours, look.diff_id, look.weight)

    def _hold(self, name: str, size: int, body: Iterator[bytes]) -> None:
        if size > MAX_MANIFEST:
            raise InvalidImageArchive(
                f'its {name} is larger than {MAX_MANIFEST} bytes')
        if sum(map(len, self._held.values())) + size > MAX_HELD:
            raise InvalidImageArchive(
                f'its JSON files are larger than {MAX_HELD} bytes')
        self._held[name] = b''.join(body)

    def _image(self) -> tuple[image_config.Config, list[str]]:
        """Return what is loaded; refuse what is not as it says."""
        for name in self._links:
            # A link to a folder could lead out of the archive after all.
            if self._end(name) not in self._names:
                raise InvalidImageArchive(
                    f'its link {name} has an invalid target')
        wanted, names = _only_entry(self._manifest())
        held = self._held.get(self._end(wanted))
        if held is None:
            raise _missing(wanted)
        config = image_config.rewritten(held, len(names))
        return config, [self._checked(name, diff_id).name for name, diff_id
                        in zip(names, config.diff_ids, strict=True)]

    def _manifest(self) -> bytes:
        if 'manifest.json' in self._held:
            return self._held['manifest.json']
        raise InvalidImageArchive(
            'it is an OCI layout without manifest.json; write it with '
            '"docker save" or as docker-archive'
            if self._names & {'oci-layout', 'index.json'} else
            'it has no manifest.json; write it with "docker save"')

    def _checked(self, name: str, diff_id: str) -> _Stored:
        """Return a layer by its name; it may be there more than once."""
        stored = self._layers.get(self._end(name))
        if not stored:
            raise _missing(name)
        if stored.diff_id != diff_id:
            raise InvalidImageArchive(
                f'its layer {name[:100]!r} is {stored.diff_id}, and not '
                f'{diff_id[:100]}, which its configuration names')
        self._scale.put(stored.weight)
        return stored

    def _end(self, name: str) -> str:
        """Return the member to which a name leads; '' when to none."""
        here = posixpath.normpath(name)
        for _ in range(MAX_LINKS):
            if here not in self._links:
                return here
            here = self._links[here]
        return ''


def _missing(name: str) -> InvalidImageArchive:
    return InvalidImageArchive(
        f'its manifest.json names {name[:100]!r}, which is not in it')


def _members(reader: _Reader) -> Iterator[strict_tar.Member]:
    """Yield each header; the caller reads a file's data in between."""
    headers = strict_tar.Headers()
    while not headers.ended:
        if headers.marked and not reader.peek(1):
            return
        member = headers.take(reader.exactly(headers.wanted))
        if member:
            yield member
            padding = reader.exactly(-member.size % _BLOCK)
            if padding.count(0) != len(padding):
                raise strict_tar.bad('non-zero padding after a member')


def _plain(name: str) -> bool:
    return bool(name) and name.isascii() and name.isprintable()


def _safe_name(member: strict_tar.Member) -> str:
    name = member.name.decode('utf-8', 'surrogateescape')
    if not _plain(name or '.' * member.folder):
        raise InvalidImageArchive(
            f'its member {name[:100]!a} has a name no engine writes')
    return name


def _target(name: str, link: bytes) -> str:
    """Return where a link within the archive leads."""
    text = link.decode('utf-8', 'surrogateescape')
    target = posixpath.normpath(
        posixpath.join(posixpath.dirname(name), text))
    if (not _plain(text) or target == '..' or target.startswith(('/', '../'))
            or name == 'manifest.json'):
        raise InvalidImageArchive(
            f'its link {name} has an invalid target')
    return target


def _only_entry(data: bytes) -> tuple[str, list[str]]:
    """Return the names of the configuration and layers of the one image.

    Layers from elsewhere (``LayerSources``) and a ``Parent`` among the
    engine's images are left out.
    """
    manifest: Any = manifests.read_json(data, 'manifest.json')
    if isinstance(manifest, list) and len(manifest) > 1:
        raise InvalidImageArchive(
            f'it has {len(manifest)} images; save one alone')
    match manifest:
        case [{'Config': str(config), 'Layers': list(layers)}] if all(
                isinstance(layer, str) for layer in layers):
            return config, layers
    raise InvalidImageArchive('its manifest.json describes no image')


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
