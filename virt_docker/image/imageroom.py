# SPDX-License-Identifier: Apache-2.0
"""The room that images have on this host's engine, and who has how much."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import os
import re
import sys
import time

from oslo_concurrency import lockutils
from oslo_log import log
from oslo_utils import units

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.image import unpacked_size
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.image import imagerecords

LOG = log.getLogger(__name__)

REPOSITORY = 'nova-vcloud/'
#: Seconds for which an image that was just asked for is in use: what is made
#: of it may not be on the engine, nor in the list that Nova gave us.
GRACE = 60
#: Nothing that is counted here comes near it.
NO_BOUND = sys.maxsize

_OURS = re.compile(rf'{re.escape(REPOSITORY)}'
                   r'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):latest')


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What an operator allows.

    :ivar max_project_gb: GiB that images of one project may take; 0: any
    :ivar min_free: percent of the engine's disk below which no image stays
        that nobody needs
    """

    max_project_gb: int = 0
    min_free: int = 0


@dataclasses.dataclass(frozen=True)
class Free:
    """What the engine's disk has.

    :ivar size: bytes
    :ivar files: inodes
    :ivar percent: of bytes or inodes, whichever is less
    """

    size: int
    files: int
    percent: float


class Room:
    """The images of one engine as something that takes room."""

    def __init__(self, engine: Engine, records: imagerecords.Records,
                 bounds: Bounds) -> None:
        self._engine = engine
        self._records = records
        self.bounds = bounds

    def there(self) -> list[str]:
        """Return the ids of the images that are ours."""
        found = map(_OURS.fullmatch, self._engine.image_names(
            f'{REPOSITORY}*:latest'))
        return [match[1] for match in found if match]

    def needed(self) -> set[str]:
        """Return what containers are of, of every host on this engine.

        Stopped ones, parked ones and those that rescue have theirs too.
        """
        return {container['Labels'].get(server_labels.IMAGE, '')
                for container in self._engine.containers(
                    [server_labels.UUID])}

    def free(self) -> Free:
        """Return what the disk has that the engine keeps images on."""
        found = os.statvfs(self._engine.info()['DockerRootDir'])
        # A file system without a fixed number of inodes says 0 of all.
        parts = [found.f_bavail / found.f_blocks] + (
            [found.f_favail / found.f_files] if found.f_files else [])
        return Free(found.f_bavail * found.f_frsize,
                    found.f_favail if found.f_files
                    else unpacked_size.MAX_FILES,
                    100 * min(parts))

    def share(self, project: str, wanted: int) -> int:
        """Return bytes that images of a project may take beside those there.

        :param project: '' for one without a bound
        :param wanted: bytes for which those that nobody needs are removed
        """
        bound = self.bounds.max_project_gb * units.Gi
        if not (bound and project):
            return NO_BOUND
        mine = {image_id: record for image_id in self.there()
                if (record := self._records.read(image_id)).project
                == project}
        left = bound - sum(record.size for record in mine.values())
        for image_id in self._unneeded(mine):
            if left >= wanted:
                break
            if self.remove(image_id, time.time() - GRACE,
                           f'project {project} may have no more than '
                           f'{self.bounds.max_project_gb} GiB of them'):
                left += mine[image_id].size
        return left

    def make(self) -> None:
        """Remove images that nobody needs while the disk is nearly full."""
        if self.free().percent >= self.bounds.min_free:
            return
        for image_id in self._unneeded(self.there()):
            self.remove(image_id, time.time() - GRACE,
                        'the disk of the engine is nearly full')
            if self.free().percent >= self.bounds.min_free:
                return

    def _unneeded(self, image_ids: Iterable[str]) -> Iterator[str]:
        """Yield those that no container is of, the longest unused first."""
        needed = self.needed()
        yield from sorted((each for each in image_ids if each not in needed),
                          key=self._records.last_used)

    def remove(self, image_id: str, oldest: float, reason: str) -> bool:
        """Remove an image unless it was used, or is being loaded or built of.

        :param oldest: time since which it may have been used to stay
        :param reason: for the log
        """
        if self._records.last_used(image_id) >= oldest:
            return False
        try:
            with self._records.locked(image_id, blocking=False), \
                    self._records.unbuilt(image_id) as unbuilt:
                # Somebody may have had the lock just before.
                if (not unbuilt or self._records.last_used(image_id) >= oldest
                        or image_id in self.needed()):
                    return False
                self.discard(image_id)
                LOG.info('Removed image %s: no server of this host needs it, '
                         'and %s', image_id, reason)
                return True
        except lockutils.AcquireLockFailedException:
            LOG.debug('Image %s stays: it is being loaded', image_id)
        except exception.EngineConflict as e:
            LOG.warning('Image %s stays: %s', image_id, e)
        return False

    def discard(self, image_id: str) -> None:
        """Remove an image, of which the caller has the lock, and its record.

        :raises EngineConflict: a container needs it
        """
        self._records.sizes.pop(image_id, None)
        self._engine.image_remove(tag_of(image_id))
        self._records.forget(image_id)


def tag_of(image_id: str) -> str:
    """Return the one name a Glance image has on an engine."""
    return f'{REPOSITORY}{image_id}:latest'
