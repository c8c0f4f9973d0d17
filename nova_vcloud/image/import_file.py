# SPDX-License-Identifier: Apache-2.0
"""From what an operator has (a file, a folder) to what Glance shall keep.

Nothing is taken that a compute host would refuse later.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import itertools
import json
import pathlib
import platform
import subprocess
import tarfile
from typing import IO

from nova_vcloud.exception import InvalidImageArchive
from nova_vcloud.image import docker_archive
from nova_vcloud.image import image_config
from nova_vcloud.image import manifests
from nova_vcloud.image import unpacked_size

CHUNK = 1 << 20
TAG = 'nova-vcloud/imported:latest'  # compute hosts give it another

#: Name of an architecture in images -> in Nova (nova.objects.fields).
ARCHITECTURES = {'amd64': 'x86_64', '386': 'i686', 'arm64': 'aarch64',
                 'arm': 'armv7l', 'ppc64le': 'ppc64le', 's390x': 's390x',
                 'riscv64': 'riscv64'}

#: Reads a member of an OCI image layout.
Read = Callable[[str], Iterator[bytes]]


@dataclasses.dataclass(frozen=True)
class Found:
    """A file that compute hosts accept.

    :ivar size: bytes that it takes unpacked
    :ivar architecture: as Nova calls it; '' where nobody says
    """

    path: pathlib.Path
    kind: docker_archive.Kind
    size: int
    architecture: str


def accepted(source: pathlib.Path, folder: pathlib.Path) -> Found:
    """Look at an image; have it in a form that compute hosts accept.

    :param source: a root filesystem (folder or tar), what ``docker save``
        writes, or an OCI image (folder or tar)
    :param folder: for a file of another form, where one is needed
    :raises InvalidImageArchive: it is nothing of that
    :raises OSError: it cannot be read
    """
    path = folder / 'image.tar'
    if (source / 'oci-layout').exists():
        _write(path, _converted(lambda name: _chunks(
            (source / name).open('rb'))))
    elif source.is_dir():
        _pack(source, path)
    elif _is_oci(source):
        with tarfile.open(source) as tar:
            _write(path, _converted(lambda name: _member(tar, name)))
    else:
        path = source
    opened = docker_archive.open_archive(_chunks(path.open('rb')), TAG)
    for _ in opened.chunks:
        pass  # the whole of it is looked at
    return Found(path, opened.kind, opened.scale.total.size,
                 _architecture(path)
                 if opened.kind is docker_archive.Kind.IMAGE else '')


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        yield from iter(lambda: file.read(CHUNK), b'')


def _write(path: pathlib.Path, chunks: Iterable[bytes]) -> None:
    with path.open('wb') as f:
        f.writelines(chunks)


def _pack(source: pathlib.Path, path: pathlib.Path) -> None:
    """Pack a root filesystem, with owners by number and all attributes."""
    # What is mounted in it (/proc, /sys) is not of it.
    done = subprocess.run(
        ['tar', '--numeric-owner', '--xattrs', '--xattrs-include=*', '--acls',
         '--one-file-system', '-C', source, '-cf', path, '.'],
        check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f'tar: {done.stderr.strip()[-500:]}')


def _is_oci(source: pathlib.Path) -> bool:
    """Tell whether a tar is an OCI layout that Docker does not load."""
    with contextlib.suppress(tarfile.TarError), tarfile.open(source) as tar:
        # It begins with what only such an archive has.
        names = {info.name.removeprefix('./').partition('/')[0]
                 for info in itertools.islice(tar, 1)}
        if names & {'blobs', 'oci-layout', 'index.json', '.'}:
            members = {name.removeprefix('./') for name in tar.getnames()}
            return 'oci-layout' in members and 'manifest.json' not in members
    return False


def _member(tar: tarfile.TarFile, name: str) -> Iterator[bytes]:
    for path in (name, f'./{name}'):
        with contextlib.suppress(KeyError):
            if file := tar.extractfile(path):
                yield from _chunks(file)
                return
    raise InvalidImageArchive(f'it has no file {name}')


def _converted(read: Read) -> Iterator[bytes]:
    """Return the ``docker save`` form of an OCI image layout."""
    machine = platform.machine()

    def blob(wanted: manifests.Blob) -> Iterator[bytes]:
        return read(f'blobs/sha256/{wanted.hexdigest}')
    try:
        found = manifests.parse(b''.join(read('index.json')), machine)
        for _ in range(2):  # an index may name another
            if isinstance(found, manifests.Blob):
                found = manifests.parse(
                    manifests.small(found, blob(found)), machine)
        if isinstance(found, manifests.Blob):
            raise InvalidImageArchive('it is an index of indexes')
        config = manifests.small(found.config, blob(found.config))
    except OSError as e:
        raise InvalidImageArchive(f'it has no file {e.filename}') from e
    written = image_config.rewritten(config, len(found.layers))
    return docker_archive.docker_archive(written, [
        docker_archive.Layer(layer, diff_id, blob(layer)) for layer,
        diff_id in zip(
            found.layers, written.diff_ids, strict=True)],
        TAG, unpacked_size.Scale(docker_archive.MAX_BYTES))


def _architecture(path: pathlib.Path) -> str:
    """Return what an image that was looked at is made for."""
    with tarfile.open(path) as tar:
        manifest = json.loads(b''.join(_member(tar, 'manifest.json')))
        config = json.loads(b''.join(_member(tar, manifest[0]['Config'])))
    word = config.get('architecture', '')
    return ARCHITECTURES.get(word, word)
