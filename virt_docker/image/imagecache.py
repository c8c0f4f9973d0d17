# SPDX-License-Identifier: Apache-2.0
"""Images that this host's engine keeps: fetched ahead, removed when unused.

An image goes when no server has needed it for long, when the disk is nearly
full, and at once when it came for a build that failed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import contextlib
import time
from typing import Any

from nova import objects
from oslo_concurrency import lockutils

from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker.image import imageroom
from nova_vcloud.virt_docker.image import images


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
        with self._store.building(image_id):
            self._store.ensure(context, image_id, meta, root_gb=0,
                               instance=None)
        return not there

    def prune(self, instances: Iterable[objects.Instance]) -> None:
        """Remove what no server has needed for long.

        :param instances: of this host, by Nova's records
        """
        room, records = self._store.room, self._store.records
        used = room.needed()
        needed = {*(each.image_ref for each in instances), *used}
        now = time.time()
        for image_id in room.there():
            if image_id in needed:
                self._keep(image_id, image_id in used)
            elif not records.read(image_id).kept:
                room.remove(image_id, now - imageroom.GRACE,
                            'none was built of it')
            elif self._max_age is not None:
                room.remove(image_id,
                            now - max(self._max_age, imageroom.GRACE),
                            'none has for long')
        room.make()
        records.prune_layers()
        records.prune_locks()

    def _keep(self, image_id: str, used: bool) -> None:
        """Have an image stay that a server needs.

        Nova names one of which a build may be failing just now.

        :param used: whether there is a container of it
        """
        room, records = self._store.room, self._store.records
        # A build that fails looks under the same lock whether there are
        # others, for which it would take us.
        with contextlib.suppress(lockutils.AcquireLockFailedException), \
                records.locked(image_id, blocking=False), \
                records.unbuilt(image_id) as unbuilt:
            if image_id not in room.there():
                return
            records.mark(image_id)
            # Of one that is being built of, the build says how it ended.
            if unbuilt and used:
                records.keep(image_id)
