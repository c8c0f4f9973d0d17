# SPDX-License-Identifier: Apache-2.0
"""Quotas: the limits in Keystone that hold for every project by default."""

from collections.abc import Container

from mini import identity
from mini import settings

# Generous for one machine. Nova counts ``class:`` by what Placement has
# allocated, servers by its own mappings, the rest by request or by user.
# What Nova's older calls show is 0 without a limit here, so all is here.
DEFAULTS = {
    'servers': 100,
    'class:VCPU': 200,
    'class:PCPU': 200,
    'class:MEMORY_MB': 262_144,
    'class:DISK_GB': 2000,
    'class:CUSTOM_ECU': 400,
    'server_groups': 100,
    'server_group_members': 100,
    'server_key_pairs': 100,
    'server_metadata_items': 128,
    'server_injected_files': 5,
    'server_injected_file_content_bytes': 10_240,
    'server_injected_file_path_bytes': 255,
}


def missing(have: Container[str]) -> dict[str, int]:
    """Return the defaults of all resources that are not in ``have``."""
    return {
        name: default
        for name, default in DEFAULTS.items()
        if name not in have
    }


def seed(cloud: settings.Cloud) -> str | None:
    """Make the missing registered limits; one that is there stays as it is.

    They are of Nova in our region: those of no region would not be found.
    """
    keystone = identity.connect(cloud).identity
    service = next(iter(keystone.services(type='compute')))
    place = {'service_id': service.id, 'region_id': identity.REGION}
    have = {
        limit.resource_name for limit in keystone.registered_limits(**place)
    }
    wanted = missing(have)
    for name, default in wanted.items():
        keystone.create_registered_limit(
            resource_name=name, default_limit=default, **place
        )
    return None if wanted else 'there already'
