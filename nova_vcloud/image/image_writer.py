# SPDX-License-Identifier: Apache-2.0
"""Writes an image with a configuration and a layer of our own making.

The form is what ``docker load`` takes (moby, image/tarexport): a
configuration in the words of the OCI image specification, the tars of its
layers, and manifest.json, which names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import datetime as dt
import hashlib
import io
import json
import tarfile
from typing import Any

from nova_vcloud.exception import InvalidImageArchive

#: Of an image's description by the engine -> in its configuration.
_TOP = {'Created': 'created', 'Author': 'author',
        'Architecture': 'architecture', 'Variant': 'variant', 'Os': 'os',
        'OsVersion': 'os.version', 'Comment': 'comment'}
#: Names an engine would take image names from instead of the manifest.
_DROPPED = ('manifest.json', 'repositories', 'index.json', 'oci-layout')
_MAX_SMALL = 4 << 20  # bytes of a configuration; it is in memory
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_END = bytes(2 * _BLOCK)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer on its way: ``chunks`` are read once.

    :ivar size: bytes of its tar
    """

    size: int
    chunks: Iterable[bytes]


def configuration(image: Mapping[str, Any],
                  drop: Iterable[str] = ()) -> dict[str, Any]:
    """Return the configuration of an image, but for its layers.

    :param image: as the engine describes it (``GET /images/{name}/json``)
    :param drop: labels that are left out
    """
    found = {word: image[name] for name, word in _TOP.items()
             if image.get(name)}
    return {**found, 'config': settings(image.get('Config') or {}, drop)}


def settings(config: Mapping[str, Any],
             drop: Iterable[str] = ()) -> dict[str, Any]:
    """Return the part of a configuration that says how to run an image.

    What says nothing is left out: null, '', false, 0, [] and {} mean the
    same to an engine as no field.

    :param drop: labels that are left out
    """
    found = dict(config)
    found['Labels'] = {name: value for name, value in (
        config.get('Labels') or {}).items() if name not in drop}
    return {name: value for name, value in found.items() if value}


def single(layer: Layer, config: Mapping[str, Any], tag: str,
           comment: str) -> Iterator[bytes]:
    """Write an image of one layer.

    :param config: without layers and history, which are made anew
    :param tag: ``repository:tag``
    :param comment: of the one entry of its history
    """
    writer = _Writer(tag)
    yield from writer.layer(layer)
    yield from writer.end({**config, 'rootfs': {}, 'history': []}, [],
                          comment)


def extended(saved: Iterable[bytes], layer: Layer,
             config: Mapping[str, Any], tag: str, comment: str,
             drop: Iterable[str] = ()) -> Iterator[bytes]:
    """Write an image with one layer more.

    :param saved: what ``docker save`` writes of the image
    :param config: fields of how to run it that are others now
    :param tag: ``repository:tag``
    :param comment: of the new entry of its history
    :param drop: labels that are left out
    :raises InvalidImageArchive: ``saved`` is no image
    """
    writer = _Writer(tag)
    yield from writer.layer(layer)
    reader = _Saved(saved)
    yield from reader.members()
    entry, found = reader.described()
    run = settings({**(found.get('config') or {}), **config}, drop)
    yield from writer.end({**found, 'config': run}, entry['Layers'],
                          comment)


class _Writer:
    """Writes what one image has of its own."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        # A name such as engines give, and no layer of an image has.
        self._folder = hashlib.sha256(tag.encode()).hexdigest()
        self._digest = hashlib.sha256()

    def layer(self, layer: Layer) -> Iterator[bytes]:
        """Yield the member that is the layer.

        :raises InvalidImageArchive: it is not as large as it says
        """
        yield header(f'{self._folder}/layer.tar', layer.size)
        size = 0
        for chunk in layer.chunks:
            size += len(chunk)
            if size > layer.size:
                break
            self._digest.update(chunk)
            yield chunk
        if size != layer.size:
            raise InvalidImageArchive(
                f'a layer of it has not the {layer.size} bytes it should have')
        yield bytes(-layer.size % _BLOCK)

    def end(self, config: Mapping[str, Any], layers: Iterable[str],
            comment: str) -> Iterator[bytes]:
        """Yield configuration, manifest and the end.

        :param config: with the layers below this one
        """
        now = dt.datetime.now(dt.UTC).isoformat().replace(
            '+00:00', 'Z')
        below = (config.get('rootfs') or {}).get('diff_ids') or []
        whole = {
            **config, 'created': now,
            'rootfs': {'type': 'layers', 'diff_ids': [
                *below, f'sha256:{self._digest.hexdigest()}']},
            'history': [*(config.get('history') or ()), {
                'created': now, 'created_by': 'nova-vcloud',
                'comment': comment}]}
        name = f'{self._folder}/config.json'
        manifest = [{'Config': name, 'RepoTags': [self._tag], 'Layers': [
            *layers, f'{self._folder}/layer.tar']}]
        for member, value in ((name, whole), ('manifest.json', manifest)):
            data = json.dumps(value).encode()
            yield header(member, len(data)) + data + bytes(
                -len(data) % _BLOCK)
        yield _END


class _Saved:
    """Reads what ``docker save`` writes of one image."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._file = io.BufferedReader(_Chunks(chunks), _CHUNK)
        self._small: dict[str, bytes] = {}

    def members(self) -> Iterator[bytes]:
        """Yield all members but those that name images."""
        try:
            with tarfile.open(fileobj=self._file, mode='r|',
                              bufsize=_CHUNK) as tar:
                for info in tar:
                    yield from self._member(tar, info)
        except tarfile.TarError as e:
            raise InvalidImageArchive(f'it is no tar archive: {e}') from e

    def _member(self, tar: tarfile.TarFile,
                info: tarfile.TarInfo) -> Iterator[bytes]:
        file = tar.extractfile(info) if info.isreg() else None
        if info.issym():
            yield header(info.name, link=info.linkname)
        if not file:
            return
        if info.size <= _MAX_SMALL and not info.name.endswith('.tar'):
            data = file.read()
            file = io.BytesIO(data)
            if data[:1] in (b'{', b'['):  # JSON, and not a layer
                self._small[info.name] = data
        if info.name in _DROPPED:
            return
        yield header(info.name, info.size)
        yield from iter(lambda: file.read(_CHUNK), b'')
        yield bytes(-info.size % _BLOCK)

    def described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the image's entry of the manifest, and its configuration."""
        try:
            entry = json.loads(self._small['manifest.json'])[0]
            found = json.loads(self._small[entry['Config']])
        except (KeyError, IndexError, TypeError, ValueError) as e:
            raise InvalidImageArchive(
                f'the engine has not written an image: {e!r}') from e
        return entry, found


class _Chunks(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = filter(None, iter(chunks))
        self._rest = memoryview(b'')

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b''))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def header(name: str, size: int = 0, *, link: str = '') -> bytes:
    """Return the header of a member, a file or a symbolic link."""
    info = tarfile.TarInfo(name)
    info.size, info.linkname = size, link
    info.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
    return info.tobuf(tarfile.PAX_FORMAT)
