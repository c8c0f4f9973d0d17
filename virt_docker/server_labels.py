# SPDX-License-Identifier: Apache-2.0
"""Labels of the engine's containers: which are servers, and whose."""

from __future__ import annotations

from nova_vcloud import late_results

PREFIX = 'org.openstack.nova.'
UUID = PREFIX + 'uuid'
HOST = PREFIX + 'host'
NAME = PREFIX + 'name'
IMAGE = PREFIX + 'image'
#: The image that Nova names: of a server that was unshelved, or evacuated
#: from a snapshot, not the one it was made from.
BASE_IMAGE = PREFIX + 'base_image'
#: 'project/name' of the application of a server that has one.
APPLICATION = PREFIX + 'application'
#: Empty: what changes while a server lives, a label cannot follow. Containers
#: and snapshots of earlier releases have them.
FORMER = (PREFIX + 'display_name', PREFIX + 'flavor')
ALL = (UUID, HOST, NAME, IMAGE, BASE_IMAGE, APPLICATION, late_results.LABEL,
       PREFIX + 'project_id', PREFIX + 'user_id', *FORMER)


def of_host(host: str) -> list[str]:
    """Return label filters that only this host's servers match."""
    return [UUID, f'{HOST}={host}']
