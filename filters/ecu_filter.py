# SPDX-License-Identifier: Apache-2.0
"""Rejects hosts whose CPUs are too slow, too few or too far apart.

That a host has so many ECU free is Placement's to say, which claims them.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

from nova import conf
from nova import objects
from nova.scheduler import host_manager

from nova_vcloud import exception
from nova_vcloud import figures
from nova_vcloud import specs
from nova_vcloud.conf import scheduler
from nova_vcloud.filters import base

CONF = conf.CONF
scheduler.register_opts(CONF)

PER_CORE = 'ecu_per_core'  # in the metadata of an aggregate
RATIO = 'ecu_allocation_ratio'


class EcuFilter(base.Filter):
    """Looks at the speed of a core, NUMA nodes and the aggregate's ratio."""

    # What a host is does not change between the servers of a request.
    run_filter_once_per_request = True

    def judge(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> Iterator[base.Verdict]:
        """Yield each host and why it cannot be; '' when it can."""
        extra = base.extra_specs(spec)
        wrong, request = '', None
        if any(specs.ECU.fullmatch(key) for key in extra):
            try:
                request = specs.parse(spec.flavor.vcpus,
                                      spec.flavor.memory_mb, extra)
            except exception.InvalidRequest as e:
                wrong = str(e)
        pools = base.Pools(Pool.of)
        for host in hosts:
            yield host, wrong or (
                _reason(host, pools.of(host), request) if request else '')


@dataclasses.dataclass(frozen=True)
class Pool:
    """What aggregates say of ECU; the least counts, for it must be had."""

    per_core: float | None
    ratio: float | None

    @classmethod
    def of(cls, host: host_manager.HostState) -> Pool:
        """Return what those of a host say."""
        return cls(*(
            min((n for n in map(figures.number, base.metadata(host, key))
                 if n), default=None) for key in (PER_CORE, RATIO)))


def _reason(host: host_manager.HostState, pool: Pool,
            request: specs.Request) -> str:
    stats = getattr(host, 'stats', None)
    return (_too_slow(figures.ecu_per_core(stats) or pool.per_core, request)
            or _too_far_apart(stats, request)
            or _sold(pool.ratio, stats, request))


def _too_slow(per_core: float | None, request: specs.Request) -> str:
    if not request.ecu or not request.vcpus:
        return ''
    need = request.ecu / request.vcpus
    if per_core is None:
        if CONF.vcloud_scheduler.unknown_ecu == 'pass':
            return ''
        return (f'needs {need:g} ECU a core, has an unknown number '
                '([vcloud_scheduler] unknown_ecu)')
    if need <= per_core * (1 + 1e-9):
        return ''
    return f'needs {need:g} ECU a core, has {per_core:g}'


def _too_far_apart(stats: figures.Stats, request: specs.Request) -> str:
    if request.numa_policy != 'require' or not (
            request.dedicated or request.bind):
        return ''
    largest = max(figures.node_cpus(stats), default=None)
    if largest is None or request.vcpus <= largest:
        return ''
    return (f'needs {request.vcpus} CPUs in one NUMA node, has {largest} in '
            'its largest')


def _sold(ratio: float | None, stats: figures.Stats,
          request: specs.Request) -> str:
    sold = figures.ecu_sold(stats) if ratio is not None else None
    if ratio is None or sold is None or not request.ecu:
        return ''
    used, total = sold
    free = total * ratio - used
    if request.ecu <= free + 1e-9:
        return ''
    return (f'needs {request.ecu} ECU, has {max(free, 0):g} of '
            f'{total:g} x {ratio:g} ({RATIO} of its aggregate)')

