# SPDX-License-Identifier: Apache-2.0
"""Counters of one server, in both shapes Nova asks for."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from nova import objects
from nova.objects import diagnostics
from oslo_utils import timeutils
from oslo_utils import units

_IO = {'Read': 'read', 'Write': 'write'}


def memory_used(stats: dict[str, Any]) -> int:
    """Return bytes in use without the page cache that can be dropped.

    The formula of the docker client: usage less inactive file pages, which
    cgroup v1 calls total_inactive_file and v2 inactive_file.
    """
    memory = stats.get('memory_stats') or {}
    detail = memory.get('stats') or {}
    cache = detail.get('total_inactive_file', detail.get('inactive_file', 0))
    return max(0, memory.get('usage', 0) - cache)


def block_io(stats: dict[str, Any]) -> dict[str, int]:
    """Return bytes and requests read and written, over all devices."""
    blkio = stats.get('blkio_stats') or {}
    totals = dict.fromkeys(
        ('read_bytes', 'write_bytes', 'read_requests', 'write_requests'), 0)
    for table, unit in (('io_service_bytes_recursive', 'bytes'),
                        ('io_serviced_recursive', 'requests')):
        for row in blkio.get(table) or ():
            direction = _IO.get(row['op'].capitalize())
            if direction:
                totals[f'{direction}_{unit}'] += row['value']
    return totals


def uptime(container: dict[str, Any]) -> int:
    """Return seconds since the container was started."""
    started = timeutils.parse_isotime(
        container['State']['StartedAt'][:19] + 'Z')
    now = timeutils.utcnow(with_timezone=True)
    return max(0, int((now - started).total_seconds()))


def flat(container: dict[str, Any], stats: dict[str, Any],
         nics: Iterable[dict[str, Any]],
         disks: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return the dictionary of API microversions before 2.48.

    :param disks: figures of volumes and ephemeral disks, by name
    """
    cpu = (stats.get('cpu_stats') or {}).get('cpu_usage') or {}
    found = {
        'cpu0_time': cpu.get('total_usage', 0),
        'memory': container['HostConfig']['Memory'] // units.Ki,
        'memory-actual': memory_used(stats) // units.Ki,
        'pids': (stats.get('pids_stats') or {}).get('current', 0),
        'uptime': uptime(container),
        **{f'disk_{k}': v for k, v in block_io(stats).items()},
    }
    for name, disk in disks.items():
        for way in ('read', 'write'):
            # As libvirt's driver calls them.
            found[f'{name}_{way}'] = disk[f'{way}_bytes']
            found[f'{name}_{way}_req'] = disk[f'{way}_requests']
    for nic in nics:
        for key in ('rx', 'tx'):
            for unit, name in (('bytes', ''), ('packets', '_packets'),
                               ('errors', '_errors'), ('drops', '_drop')):
                found[f'{nic["tap"]}_{key}{name}'] = nic[f'{key}_{unit}']
    return found


def full(container: dict[str, Any], stats: dict[str, Any],
         nics: Iterable[dict[str, Any]],
         disks: Mapping[str, Mapping[str, int]],
         config_drive: bool, vcpus: int) -> objects.diagnostics.Diagnostics:
    """Return the object of API microversion 2.48 and later.

    ``driver`` stays unset: Nova's closed list has no word for Docker. The
    kernel counts the time of all its CPUs together, so that is of no ``id``.

    :param vcpus: of the flavor
    """
    paused = container['State']['Paused']
    result = diagnostics.Diagnostics(
        state='paused' if paused else 'running', hypervisor='docker',
        hypervisor_os='linux', uptime=uptime(container),
        config_drive=config_drive, num_cpus=0, num_nics=0, num_disks=0)
    result.memory_details = diagnostics.MemoryDiagnostics(
        maximum=container['HostConfig']['Memory'] // units.Mi,
        used=memory_used(stats) // units.Mi)
    cpu = (stats.get('cpu_stats') or {}).get('cpu_usage') or {}
    result.add_cpu(time=cpu.get('total_usage', 0))
    result.num_cpus = vcpus
    io = block_io(stats)
    result.add_disk(read_bytes=io['read_bytes'],
                    read_requests=io['read_requests'],
                    write_bytes=io['write_bytes'],
                    write_requests=io['write_requests'], errors_count=0)
    for disk in disks.values():
        result.add_disk(**disk, errors_count=0)
    for nic in nics:
        result.add_nic(
            mac_address=nic['mac'],
            rx_octets=nic['rx_bytes'], rx_packets=nic['rx_packets'],
            rx_errors=nic['rx_errors'], rx_drop=nic['rx_drops'],
            tx_octets=nic['tx_bytes'], tx_packets=nic['tx_packets'],
            tx_errors=nic['tx_errors'], tx_drop=nic['tx_drops'])
    return result
