# SPDX-License-Identifier: Apache-2.0
"""What this host knows of the images on its engine, in files of its own.

When one was last used is the time of its file; whose it is and what it takes
are in it. Beside them: which layers of registries have been looked at. All of
it outlives nova-compute and costs no question to the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import tempfile
import time
from typing import Any

from oslo_concurrency import lockutils

from nova_vcloud.image import docker_archive
from nova_vcloud.image import manifests
from nova_vcloud.image import unpacked_size

MAX_LAYERS = 10_000  # of registries that are remembered
_WAIT = 0.05  # seconds between looks at a lock that another has


@dataclasses.dataclass(frozen=True)
class Record:
    """An image on the engine.

    :ivar project: whose it is; '' for all
    :ivar size: bytes that it takes
    :ivar kept: whether a server was made of it, or it was asked for by
        itself; another goes with the build that brought it
    """

    project: str = ''
    size: int = 0
    kept: bool = True


class Records:
    """The records of one engine's images.

    :param path: folder that all users of the engine share
    """

    def __init__(self, path: str) -> None:
        self._path = pathlib.Path(path)
        self.sizes: dict[str, int] = {}  # of those known to be there

    # Locks: the kernel frees those of a process that dies.

    def locked(self, image_id: str, *, blocking: bool = True
               ) -> contextlib.AbstractContextManager[None]:
        """Keep all others from loading or removing an image.

        :raises AcquireLockFailedException: somebody does, if not ``blocking``
        """
        return _locked(self._folder('locks') / f'image-{image_id}', blocking)

    def counted(self, project: str
                ) -> contextlib.AbstractContextManager[None]:
        """Keep other images of a project from being loaded meanwhile.

        What one takes is known when it is there: those that come at once
        would each be let have all that is left.

        :param project: '' for one without a bound
        """
        if not project:
            return contextlib.nullcontext()
        return _locked(self._folder('locks') / f'project-{project}', True)

    @contextlib.contextmanager
    def building(self, image_id: str) -> Iterator[None]:
        """Tell others that a server is being built of an image."""
        with contextlib.ExitStack() as stack:
            while True:
                file = stack.enter_context(self._builds(image_id))
                fcntl.flock(file, fcntl.LOCK_SH)
                # Who has removed it meanwhile would not know of this build.
                if _is_at(file, self._path / 'builds' / image_id):
                    break
                stack.close()
            yield

    @contextlib.contextmanager
    def unbuilt(self, image_id: str) -> Iterator[bool]:
        """Keep builds from beginning; False where there is one already."""
        with self._builds(image_id) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextlib.contextmanager
    def _builds(self, image_id: str) -> Iterator[int]:
        folder = self._folder('builds')
        file = os.open(folder / image_id, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield file
        finally:
            os.close(file)

    # Images

    def mark(self, image_id: str) -> None:
        """Remember that an image is in use now."""
        path = self._folder('used') / image_id
        path.touch()

    def last_used(self, image_id: str) -> float:
        """Return when an image was in use; of an unknown one it is now."""
        with contextlib.suppress(FileNotFoundError):
            return self._used(image_id).stat().st_mtime
        self.mark(image_id)
        return time.time()

    def known(self, image_id: str) -> bool:
        """Tell whether anything is known of an image."""
        return self._used(image_id).exists()

    def read(self, image_id: str) -> Record:
        """Return what is known of an image; of an earlier release's nothing.
        """
        try:
            found = json.loads(self._used(image_id).read_bytes())
            return Record(str(found['project']), int(found['size']),
                          bool(found['kept']))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return Record()

    def write(self, image_id: str, record: Record) -> None:
        """Remember what an image is, which is in use now."""
        _replace(self._folder('used') / image_id,
                 dataclasses.asdict(record))

    def keep(self, image_id: str) -> None:
        """Have an image stay after the build that brought it."""
        found = self.read(image_id)
        if not found.kept:
            self.write(image_id, dataclasses.replace(found, kept=True))

    def forget(self, image_id: str) -> None:
        """Remove what is known of an image."""
        self.sizes.pop(image_id, None)
        self._used(image_id).unlink(missing_ok=True)
        (self._path / 'builds' / image_id).unlink(missing_ok=True)

    def _used(self, image_id: str) -> pathlib.Path:
        return self._path / 'used' / image_id

    # Layers of registries

    def verified(self, blob: manifests.Blob
                 ) -> tuple[str, unpacked_size.Weight] | None:
        """Return what a piece unpacks to: its digest, and what it takes."""
        path = self._path / 'layers' / blob.hexdigest
        try:
            found = json.loads(path.read_bytes())
            weight = unpacked_size.Weight(int(found['size']),
                                          int(found['files']))
            os.utime(path)
            return str(found['diff_id']), weight
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def verify(self, layer: docker_archive.Layer) -> None:
        """Remember a piece that has been unpacked here, and looked at."""
        weight = layer.weight or unpacked_size.Weight()
        _replace(self._folder('layers') / layer.blob.hexdigest, {
            'diff_id': layer.diff_id, **dataclasses.asdict(weight)})

    def prune_layers(self) -> None:
        """Forget the pieces that were not wanted for longest, if too many."""
        found = sorted((entry.stat().st_mtime, entry.path) for entry in
                       os.scandir(self._folder('layers')))
        for _time, path in found[:max(0, len(found) - MAX_LAYERS)]:
            os.unlink(path)

    def prune_locks(self) -> None:
        """Remove locks of releases before, which stayed for each image."""
        for kind in ('image', 'project'):
            for path in self._path.glob(f'nova-vcloud-{kind}-*'):
                path.unlink(missing_ok=True)

    def _folder(self, name: str) -> pathlib.Path:
        folder = self._path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@contextlib.contextmanager
def _locked(path: pathlib.Path, blocking: bool) -> Iterator[None]:
    """Have a lock that leaves no file: else there is one more for each image.

    oslo's lockutils cannot remove one that somebody may wait for.

    :raises AcquireLockFailedException: others have it, if not ``blocking``
    """
    with contextlib.ExitStack() as stack:
        while (file := _try_lock(path)) is None:
            if not blocking:
                raise lockutils.AcquireLockFailedException(path.name)
            time.sleep(_WAIT)
        stack.callback(os.close, file)
        stack.callback(path.unlink, missing_ok=True)
        yield


def _try_lock(path: pathlib.Path) -> int | None:
    """Return the open file of a lock; None where another has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    if not _is_at(file, path):
        # It was removed between both: the lock is of no use.
        os.close(file)
        return None
    return file


def _is_at(file: int, path: pathlib.Path) -> bool:
    """Tell whether an open file has its name still."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _replace(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Write a file as a whole, or not at all."""
    # Not below the folder of those files, which are listed.
    with tempfile.NamedTemporaryFile(
            'w', dir=path.parent.parent, prefix='new-', delete=False) as f:
        json.dump(content, f)
    os.replace(f.name, path)
