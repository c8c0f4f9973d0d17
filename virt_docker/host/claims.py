# SPDX-License-Identifier: Apache-2.0
"""What Nova takes from a server whose rebuild failed is given back."""

from __future__ import annotations

from collections.abc import Mapping
import threading
import time
from typing import Any

from keystoneauth1 import exceptions as ks_exceptions
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from oslo_log import log

LOG = log.getLogger(__name__)

#: Seconds between looks, and for how long.
EVERY, PATIENCE = 0.5, 30.0


class Claims:
    """Allocations in Placement of this host's servers.

    nova-compute deletes those of a server when its rebuild fails, for it takes
    every failure for one on a host the server was to come to
    (nova.compute.manager, rebuild_instance). Here the server goes on.

    :param client: Nova's SchedulerReportClient
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def give_back_later(self, instance: objects.Instance,
                        allocations: Mapping[str, Any]) -> None:
        """Put allocations again when Nova, a moment from now, deletes them."""
        payload = {
            'allocations': {provider: {'resources': each['resources']}
                            for provider, each in allocations.items()},
            'project_id': instance.project_id, 'user_id': instance.user_id,
            'consumer_generation': None}  # nobody has anything by that name
        threading.Thread(
            target=self._watch, args=(instance.uuid, payload), daemon=True,
            name='vcloud-claims').start()

    def _watch(self, uuid: str, payload: dict[str, Any]) -> None:
        context = nova_context.get_admin_context()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(EVERY)
            try:
                found = self._client.get_allocs_for_consumer(context, uuid)
                if found['allocations']:
                    continue
                if not self._client.put_allocations(context, uuid, payload):
                    continue
            except (nova_exception.NovaException,
                    ks_exceptions.ClientException) as e:
                LOG.warning('Allocations of server %s: %s', uuid, e)
                continue
            LOG.info('Server %s has its allocations again', uuid)
            return
