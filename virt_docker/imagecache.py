# SPDX-License-Identifier: Apache-2.0
"""Images that this host's engine keeps: fetched ahead, removed when unused.

Which they are is their name, when one was last used the time of a file: both
outlive nova-compute and cost no question to the engine when a server starts.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import re
import time
from typing import Any

from nova import objects
from oslo_concurrency import lockutils
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import images
from nova_vcloud.virt_docker import spec

LOG = log.getLogger(__name__)

#: Seconds for which an image that was just asked for is in use: what is made
#: of it may not be on the engine, nor in the list that Nova gave us.
GRACE = 60

_OURS = re.compile(rf'{re.escape(images.REPOSITORY)}'
                   r'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):latest')


class ImageCache:
    """The images of one engine that servers are made of.

    :param describe: ``(context, image id)`` -> Nova's description of it
    :param max_age: seconds that an unused image stays; None: for ever
    """

    def __init__(self, engine: Engine, store: images.ImageStore,
                 describe: Callable[[Any, str], objects.ImageMeta],
                 max_age: float | None) -> None:
        self._engine = engine
        self._store = store
        self._describe = describe
        self._max_age = max_age

    def fetch(self, context: Any, image_id: str) -> bool:
        """Have an image; tell whether it had to be fetched.

        :raises ImageUnacceptable: it is none for this host
        """
        meta = self._describe(context, image_id)
        there = self._engine.image_get(images.tag_of(image_id)) is not None
        if not there:
            self._store.forget(image_id)
        self._store.ensure(context, image_id, meta, root_gb=0, instance=None)
        return not there

    def prune(self, instances: Iterable[objects.Instance]) -> None:
        """Remove what no server has needed for long.

        :param instances: of this host, by Nova's records
        """
        needed = {*(each.image_ref for each in instances),
                  *self._of_containers()}
        for image_id in self._there():
            if image_id in needed:
                self._store.mark(image_id)
            elif self._max_age is not None:
                oldest = time.time() - max(self._max_age, GRACE)
                self._remove(image_id, oldest)

    def _there(self) -> list[str]:
        found = map(_OURS.fullmatch, self._engine.image_names(
            f'{images.REPOSITORY}*:latest'))
        return [match[1] for match in found if match]

    def _of_containers(self) -> set[str]:
        """Return what containers are of, of every host on this engine.

        Stopped ones, parked ones and those that rescue have theirs too.
        """
        return {container['Labels'].get(spec.LABEL_IMAGE, '')
                for container in self._engine.containers([spec.LABEL_UUID])}

    def _remove(self, image_id: str, oldest: float) -> None:
        """Remove an image unless it was used, or is being loaded.

        :param oldest: time since which it may have been used to stay
        """
        if self._store.last_used(image_id) >= oldest:
            return
        try:
            with self._store.locked(image_id, blocking=False):
                # Somebody may have had the lock just before.
                if (self._store.last_used(image_id) < oldest
                        and image_id not in self._of_containers()):
                    self._store.remove(image_id)
                    LOG.info('Removed image %s: no server of this host has '
                             'needed it for long', image_id)
        except lockutils.AcquireLockFailedException:
            LOG.debug('Image %s stays: it is being loaded', image_id)
        except exception.EngineConflict as e:
            LOG.warning('Image %s stays: %s', image_id, e)
