# SPDX-License-Identifier: Apache-2.0
"""From a server as Nova describes it to the engine's container, purely."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from typing import Any

from nova import objects
from oslo_utils import units

from nova_vcloud.virt_docker.addresses import Nic

LABEL = 'org.openstack.nova.'
LABEL_UUID = LABEL + 'uuid'
LABEL_HOST = LABEL + 'host'
LABEL_NAME = LABEL + 'name'

SHARES_PER_VCPU = 1024  # what the kernel gives a cgroup nobody configured


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What every container of this host gets; from ``[docker]``."""

    runtime: str
    pids_limit: int
    log_max_size_kib: int
    log_max_files: int
    no_new_privileges: bool
    capabilities: tuple[str, ...]


def container_name(uuid: str) -> str:
    """Return the engine's name of the container of server ``uuid``."""
    return f'nova-{uuid}'


def own_labels(host: str) -> list[str]:
    """Return label filters that only this host's servers match."""
    return [LABEL_UUID, f'{LABEL_HOST}={host}']


def labels(instance: objects.Instance, host: str) -> dict[str, str]:
    """Return the labels that make a container ours and tell whose it is."""
    return {
        LABEL_UUID: instance.uuid,
        LABEL_HOST: host,
        LABEL_NAME: instance.name,
        LABEL + 'display_name': instance.display_name or '',
        LABEL + 'project_id': instance.project_id or '',
        LABEL + 'user_id': instance.user_id or '',
        LABEL + 'flavor': instance.flavor.name,
        LABEL + 'image': instance.image_ref or '',
    }


def build(instance: objects.Instance, image: str, nics: Iterable[Nic],
          defaults: Defaults, host: str) -> dict[str, Any]:
    """Return the body of ``POST /containers/create``.

    No network, no port and no block limit is asked of the engine: NICs come
    with the namespace the container joins, and the engine would re-apply
    create-time block limits over later changes.
    """
    nics = list(nics)
    return {
        'Image': image,
        'Hostname': instance.hostname,
        'Labels': labels(instance, host),
        # A server has a console: a terminal whose output is the log.
        'Tty': True,
        'OpenStdin': True,
        'HostConfig': {
            'Runtime': defaults.runtime,
            'NetworkMode': 'none',
            # Nova alone starts and stops servers.
            'RestartPolicy': {'Name': 'no'},
            'Dns': _unique(d for nic in nics for d in nic.dns),
            'ExtraHosts': _hosts(instance.hostname, nics),
            **_limits(instance.flavor, defaults),
            **_privileges(defaults),
        },
    }


def _limits(flavor: objects.Flavor, defaults: Defaults) -> dict[str, Any]:
    memory = flavor.memory_mb * units.Mi
    return {
        'Memory': memory,
        'MemorySwap': memory,  # memory and swap together: no swap
        'OomKillDisable': False,
        'CpuShares': flavor.vcpus * SHARES_PER_VCPU,
        'PidsLimit': defaults.pids_limit,
        'LogConfig': {
            'Type': 'json-file',
            'Config': {'max-size': f'{defaults.log_max_size_kib}k',
                       'max-file': str(defaults.log_max_files)},
        },
    }


def _privileges(defaults: Defaults) -> dict[str, Any]:
    security = ['no-new-privileges'] if defaults.no_new_privileges else []
    return {
        'Privileged': False,
        'CapDrop': ['ALL'],
        'CapAdd': list(defaults.capabilities),
        'SecurityOpt': security,
    }


def _hosts(hostname: str, nics: Iterable[Nic]) -> list[str]:
    return [f'{hostname}:{address.partition("/")[0]}'
            for nic in nics for address in nic.addresses]


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
