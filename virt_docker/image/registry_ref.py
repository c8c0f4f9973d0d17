# SPDX-License-Identifier: Apache-2.0
"""Images of Glance that are no files there, but names in a registry."""

from __future__ import annotations

import platform
from typing import Any
from typing import Protocol

from nova import exception as nova_exception
from oslo_log import log

from nova_vcloud.image import registry

LOG = log.getLogger(__name__)

#: Property of an image: HOST[:PORT]/REPOSITORY with a tag or a digest.
REFERENCE = 'vcloud_registry_ref'
#: Property of an image: what its tag stood for when it was first used.
DIGEST = 'vcloud_registry_digest'
PROPERTIES = (REFERENCE, DIGEST)


class ImageApi(Protocol):
    """What is used of ``nova.image.glance.API``."""

    def get(self, context: Any, id_or_uri: str) -> dict[str, Any]:
        """Return an image's record."""

    def update(self, context: Any, id_or_uri: str,
               image_info: dict[str, Any], data: Any = None,
               purge_props: bool = False) -> dict[str, Any]:
        """Change an image's record."""


class References:
    """What this host takes from registries."""

    def __init__(self, glance: ImageApi, settings: registry.Settings) -> None:
        self._glance = glance
        self._settings = settings

    def find(self, context: Any, image_id: str) -> registry.Image | None:
        """Return an image of a registry; None for one that Glance has.

        :raises RegistryError: with why it cannot be had
        :raises InvalidImageArchive: it is no image for this host
        """
        # Of those that Nova hands over, it has dropped what it does not know.
        record = self._glance.get(context, image_id)
        text = str(record['properties'].get(REFERENCE) or '')
        if not text:
            return None
        pinned = str(record['properties'].get(DIGEST) or '')
        wanted = f'{text}@{pinned}' if pinned and '@' not in text else text
        found = registry.find(wanted, self._settings, platform.machine())
        LOG.info('Image %s is %s, of %s', image_id, found.digest, wanted)
        if '@' not in wanted:
            self._pin(context, image_id, found.digest)
        return found

    def _pin(self, context: Any, image_id: str, digest: str) -> None:
        """Have every host use what the tag stands for now."""
        try:
            self._glance.update(context, image_id,
                                {'properties': {DIGEST: digest}})
        except nova_exception.NovaException as e:
            LOG.warning(
                'A tag is what image %s is of, and nothing in Glance says '
                'which: on another host, or later, it may be something else. '
                'Its owner or an administrator can set its property %s to '
                '%s (%s)', image_id, DIGEST, digest, e)
