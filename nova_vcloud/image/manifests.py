# SPDX-License-Identifier: Apache-2.0
"""What the manifest of an image says: its configuration and its layers.

The shapes are those of the OCI image specification 1.0 and of Docker's
image manifest, version 2, schema 2, which differ in their names only.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import hashlib
import json
import re
from typing import Any

from nova_vcloud.exception import InvalidImageArchive

MAX_BYTES = 4 << 20  # of a manifest or a configuration; they are in memory
MAX_LAYERS = 127  # an engine runs no image of more

_DOCKER = 'application/vnd.docker.distribution.manifest.'
_OCI = 'application/vnd.oci.image.'
INDEXES = (f'{_OCI}index.v1+json', f'{_DOCKER}list.v2+json')
#: What a registry is asked for.
ACCEPTED = (f'{_OCI}manifest.v1+json', f'{_DOCKER}v2+json', *INDEXES)
#: Those that every engine from 20.10 on can unpack.
_LAYERS = (f'{_OCI}layer.v1.tar', f'{_OCI}layer.v1.tar+gzip',
           'application/vnd.docker.image.rootfs.diff.tar.gzip',
           'application/vnd.docker.image.rootfs.diff.tar')
_SHOWN = 200  # characters of what a registry says, in an error
_DIGEST = re.compile(r'sha256:[0-9a-f]{64}')
#: platform.machine() -> architectures of images it can run, the first best.
RUNS = {
    'x86_64': ('amd64', '386'),
    'aarch64': ('arm64',),
    'ppc64le': ('ppc64le',),
    's390x': ('s390x',),
    'riscv64': ('riscv64',),
}


@dataclasses.dataclass(frozen=True)
class Blob:
    """A piece of an image, by the digest of its bytes."""

    digest: str
    size: int

    @property
    def hexdigest(self) -> str:
        """Return the digest without the name of its algorithm."""
        return self.digest.partition(':')[2]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One image for one kind of machine."""

    config: Blob
    layers: tuple[Blob, ...]


def digest_of(data: bytes) -> str:
    """Return the digest that names some bytes."""
    return f'sha256:{hashlib.sha256(data).hexdigest()}'


def is_digest(text: str) -> bool:
    """Tell whether a text is a digest that we can check."""
    return bool(_DIGEST.fullmatch(text))


def runs(machine: str) -> tuple[str, ...]:
    """Return what images call a machine, by ``platform.machine()``."""
    return RUNS.get(machine, (machine,))


def parse(data: bytes, machine: str) -> Manifest | Blob:
    """Read a manifest, or find the one for a machine in an index.

    :param machine: as ``platform.machine()``
    :returns: the image, or where its manifest is
    :raises InvalidImageArchive: with what is wrong with it
    """
    found = _json(data)
    if found.get('schemaVersion') != 2:
        raise InvalidImageArchive(
            'its manifest is not of version 2; push it with a newer tool')
    if isinstance(found.get('manifests'), list):
        return _of_machine(found['manifests'], machine)
    layers = found.get('layers')
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise InvalidImageArchive(
            f'its manifest does not name 1 to {MAX_LAYERS} layers')
    return Manifest(_blob(found.get('config')),
                    tuple(_layer(layer) for layer in layers))


def _of_machine(entries: list[Any], machine: str) -> Blob:
    """Choose from an index; one alone that says nothing is for all."""
    by_architecture: dict[str, Any] = {}
    for entry in entries:
        platform = entry.get('platform') if isinstance(entry, dict) else None
        where = platform or {'os': 'linux', 'architecture': ''}
        if not isinstance(where, dict):
            raise InvalidImageArchive(
                'its index has a platform that is not an object')
        if where.get('os') == 'linux':
            by_architecture.setdefault(
                str(where.get('architecture')), entry)
    for name in (*runs(machine), ''):
        if name in by_architecture:
            return _blob(by_architecture[name])
    raise InvalidImageArchive(
        f'it has no variant for {machine} under linux, only for '
        f'{", ".join(sorted(by_architecture))[:_SHOWN] or "others"}')


def _layer(entry: Any) -> Blob:
    kind = entry.get('mediaType') if isinstance(entry, dict) else None
    if kind not in _LAYERS:
        raise InvalidImageArchive(
            f'a layer of it is of type {str(kind)[:100]!r}; only plain tar '
            'and tar with gzip are accepted')
    return _blob(entry)


def _blob(entry: Any) -> Blob:
    match entry:
        case {'digest': str(digest), 'size': int(size)} if (
                is_digest(digest) and size >= 0):
            return Blob(digest, size)
    raise InvalidImageArchive('its manifest names a piece without a sha256 '
                              'digest and a size')


def checked(blob: Blob, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass a piece on; the last chunk only when its digest is right.

    :raises InvalidImageArchive: size or digest are not those promised
    """
    digest, size, held = hashlib.sha256(), 0, b''
    for chunk in filter(None, chunks):
        size += len(chunk)
        if size > blob.size:
            break
        digest.update(chunk)
        yield held
        held = chunk
    if size != blob.size:
        word = 'cut off' if size < blob.size else 'longer'
        raise InvalidImageArchive(
            f'its piece {blob.digest} is {word}: {blob.size} bytes are '
            'promised')
    if digest.hexdigest() != blob.hexdigest:
        raise InvalidImageArchive(
            f'its piece {blob.digest} has another digest, sha256:'
            f'{digest.hexdigest()}')
    yield held


def small(blob: Blob, chunks: Iterable[bytes]) -> bytes:
    """Return a piece that is read into memory, checked.

    :raises InvalidImageArchive: also when it is too large for that
    """
    if blob.size > MAX_BYTES:
        raise InvalidImageArchive(
            f'its piece {blob.digest} is larger than {MAX_BYTES} bytes')
    return b''.join(checked(blob, chunks))


def read_json(data: bytes, what: str) -> Any:
    """Read JSON that all readers understand alike.

    :param what: it is, for the error
    :raises InvalidImageArchive: it is none, or names something twice
    """
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidImageArchive(f'its {what} has one name twice')
        return found
    try:
        return json.loads(data.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as e:
        raise InvalidImageArchive(f'its {what} is not JSON') from e


def _json(data: bytes) -> dict[str, Any]:
    found = read_json(data, 'manifest')
    if not isinstance(found, dict):
        raise InvalidImageArchive('its manifest describes no image')
    return found
