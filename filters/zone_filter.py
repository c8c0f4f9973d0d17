# SPDX-License-Identifier: Apache-2.0
"""Keeps projects out of zones that are not theirs, and says so."""

from __future__ import annotations

from collections.abc import Sequence

from nova import objects
from nova.scheduler import host_manager
from nova.scheduler.filters import aggregate_multitenancy_isolation

from nova_vcloud.filters import base

PREFIX = 'filter_tenant_id'


class ZoneFilter(
        base.Filter,
        aggregate_multitenancy_isolation.AggregateMultiTenancyIsolation):
    """Nova's AggregateMultiTenancyIsolation, with two things it lacks.

    Servers of an administrator's own project may be in any zone, and the log
    says which project was kept out of which zone.
    """

    run_filter_once_per_request = True

    def judge(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> Sequence[str]:
        """Return why each host cannot be; none where all can."""
        candidates = base.Candidates.of(hosts, spec)
        keys = [key for key in candidates.keys if key.startswith(PREFIX)]
        if not keys or is_own_of_admin(spec):
            return ()
        return candidates.by_pool(lambda host: self._reason(host, spec),
                                  *keys)

    def _reason(self, host: host_manager.HostState,
                spec: objects.RequestSpec) -> str:
        nova = aggregate_multitenancy_isolation.AggregateMultiTenancyIsolation
        if nova.host_passes(self, host, spec):
            return ''
        names = ', '.join(sorted(
            aggregate.name for aggregate in host.aggregates or ()
            if any(key.startswith(PREFIX) for key in aggregate.metadata)))
        return f'project {spec.project_id} is not let into {names}'


def is_own_of_admin(spec: objects.RequestSpec) -> bool:
    """Tell whether an administrator asks, for a server of his project.

    One who moves the server of somebody else moves it to where that one may
    be.
    """
    context = getattr(spec, '_context', None)
    return bool(context is not None and context.is_admin
                and context.project_id == spec.project_id)
