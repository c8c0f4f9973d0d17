# SPDX-License-Identifier: Apache-2.0
"""Rejects hosts whose CPUs are too slow, too few or too far apart.

That a host has so many ECU free is Placement's to say, which claims them.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from nova import conf
from nova import objects
from nova.scheduler import host_manager

from nova_vcloud import exception
from nova_vcloud import host_stats
from nova_vcloud.conf import scheduler
from nova_vcloud.filters import base
from nova_vcloud.flavor import flavor_limits

CONF = conf.CONF
scheduler.register_opts(CONF)

PER_CORE = 'ecu_per_core'  # in the metadata of an aggregate
RATIO = 'ecu_allocation_ratio'


class EcuFilter(base.Filter):
    """Looks at the speed of a core, NUMA nodes and the aggregate's ratio."""

    # What a host is does not change between the servers of a request.
    run_filter_once_per_request = True

    def judge(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> Sequence[str]:
        """Return why each host cannot be; none where all can."""
        extra = base.extra_specs(spec)
        if not any(flavor_limits.ECU.fullmatch(key) for key in extra):
            return ()
        try:
            request = flavor_limits.parse(spec.flavor.vcpus,
                                          spec.flavor.memory_mb, extra)
        except exception.InvalidRequest as e:
            return [str(e)] * len(hosts)
        candidates = base.Candidates.of(hosts, spec)
        stats, pools = candidates.stats, candidates.by_pool(
            Pool.of, PER_CORE, RATIO)
        said = [found for rule in (_too_slow, _too_far_apart, _sold)
                if any(found := rule(stats, pools, request))]
        if len(said) == 1:
            return said[0]
        return [next(filter(None, each), '')
                for each in zip(*said, strict=True)]


@dataclasses.dataclass(frozen=True)
class Pool:
    """What aggregates say of ECU; the least counts, for it must be had."""

    per_core: float | None
    ratio: float | None

    @classmethod
    def of(cls, host: host_manager.HostState) -> Pool:
        """Return what those of a host say."""
        return cls(*(
            min((n for n in map(host_stats.number, base.metadata(host, key))
                 if n), default=None) for key in (PER_CORE, RATIO)))


def _too_slow(hosts: list[host_stats.Stats], pools: list[Pool],
              request: flavor_limits.Request) -> Sequence[str]:
    if not request.ecu or not request.vcpus:
        return ()
    need = request.ecu / request.vcpus
    unknown = '' if CONF.vcloud_scheduler.unknown_ecu == 'pass' else (
        f'needs {need:g} ECU a core, has an unknown number '
        '([vcloud_scheduler] unknown_ecu)')
    enough, found = need / (1 + 1e-9), []
    for host, pool in zip(hosts, pools, strict=True):
        per_core = host_stats.ecu_per_core(host) or pool.per_core
        if per_core is None:
            found.append(unknown)
        elif per_core >= enough:
            found.append('')
        else:
            found.append(f'needs {need:g} ECU a core, has {per_core:g}')
    return found


def _too_far_apart(hosts: list[host_stats.Stats], _pools: list[Pool],
                   request: flavor_limits.Request) -> Sequence[str]:
    if request.numa_policy != 'require' or not (
            request.dedicated or request.bind):
        return ()
    found = []
    for host in hosts:
        largest = max(host_stats.node_cpus(host), default=None)
        fits = largest is None or request.vcpus <= largest
        found.append('' if fits else (
            f'needs {request.vcpus} CPUs in one NUMA node, has {largest} in '
            'its largest'))
    return found


def _sold(hosts: list[host_stats.Stats], pools: list[Pool],
          request: flavor_limits.Request) -> Sequence[str]:
    if not request.ecu or all(pool.ratio is None for pool in set(pools)):
        return ()
    return [_sold_out(host, pool.ratio, request.ecu)
            for host, pool in zip(hosts, pools, strict=True)]


def _sold_out(stats: host_stats.Stats, ratio: float | None, ecu: int) -> str:
    sold = host_stats.ecu_sold(stats)
    if ratio is None or sold is None:
        return ''
    used, total = sold
    free = total * ratio - used
    if ecu <= free + 1e-9:
        return ''
    return (f'needs {ecu} ECU, has {max(free, 0):g} of '
            f'{total:g} x {ratio:g} ({RATIO} of its aggregate)')
