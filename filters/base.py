# SPDX-License-Identifier: Apache-2.0
"""Filters that say why: what ours have in common."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Generic
from typing import TypeVar

from nova import objects
from nova.scheduler import filters
from nova.scheduler import host_manager
from nova.scheduler import utils
from oslo_log import log

LOG = log.getLogger(__name__)

#: Rejections of one request that are logged with INFO; the rest is DEBUG.
MAX_LINES = 20

T = TypeVar('T')
Verdict = tuple[host_manager.HostState, str]


class Filter(filters.BaseHostFilter):
    """A filter that has a reason for each host it rejects.

    It has no state: one object serves all threads of the scheduler.
    """

    # A rebuild stays where the server is.
    RUN_ON_REBUILD = False

    def judge(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> Iterator[Verdict]:
        """Yield each host and why it cannot be; '' when it can."""
        raise NotImplementedError

    def host_passes(self, host_state: host_manager.HostState,
                    filter_properties: objects.RequestSpec) -> bool:
        """Judge one host, as Nova's own filters do."""
        (_host, reason), = self.judge([host_state], filter_properties)
        return not reason

    def filter_all(self, filter_obj_list: Iterable[host_manager.HostState],
                   spec_obj: objects.RequestSpec
                   ) -> list[host_manager.HostState]:
        """Return the hosts that can be; the others are in the log."""
        hosts = list(filter_obj_list)
        if utils.request_is_rebuild(spec_obj):
            return hosts
        passed, rejected = [], []
        for host, reason in self.judge(hosts, spec_obj):
            if reason:
                rejected.append((host, reason))
            else:
                passed.append(host)
        if rejected:
            self._log(rejected, spec_obj.instance_uuid)
        return passed

    def _log(self, rejected: list[Verdict], uuid: str) -> None:
        """Log a line for each host, so that NoValidHost can be explained."""
        name = type(self).__name__
        for number, (host, reason) in enumerate(rejected):
            log_line = LOG.info if number < MAX_LINES else LOG.debug
            log_line('%s: host %s rejected for server %s: %s', name,
                     host.host, uuid, reason)
        if len(rejected) > MAX_LINES:
            LOG.info('%s: %d more hosts rejected for server %s', name,
                     len(rejected) - MAX_LINES, uuid)


def metadata(host: host_manager.HostState, key: str) -> list[str]:
    """Return what the aggregates of a host say under a key."""
    said = [aggregate.metadata or {} for aggregate in host.aggregates or ()]
    return [each[key] for each in said if key in each]


class Pools(Generic[T]):
    """What follows from the aggregates of a host, for one request.

    Many hosts are in the same ones; reading them is what costs most.

    :param work: its answer depends on the aggregates of a host only
    """

    def __init__(self, work: Callable[[host_manager.HostState], T]) -> None:
        self._work = work
        self._found: dict[tuple[int, ...], T] = {}

    def of(self, host: host_manager.HostState) -> T:
        """Return what ``work`` says of a host."""
        key = host.__dict__.get('vcloud_pools')
        if key is None:
            key = _key(host)
        try:
            return self._found[key]
        except KeyError:
            found = self._found[key] = self._work(host)
            return found

    def each(self, hosts: Iterable[host_manager.HostState]) -> list[T]:
        """Return what ``work`` says of each set of aggregates, once."""
        for host in distinct(hosts):
            self.of(host)
        return list(self._found.values())


def _key(host: host_manager.HostState) -> tuple[int, ...]:
    # A host lives for one request, and holds its aggregates: no id is used
    # twice meanwhile.
    key = host.vcloud_pools = tuple(map(id, host.aggregates or ()))
    return key


def distinct(hosts: Iterable[host_manager.HostState]
             ) -> Iterable[host_manager.HostState]:
    """Return one host of each set of aggregates."""
    return {host.__dict__.get('vcloud_pools') or _key(host): host
            for host in hosts}.values()


def hints(spec: objects.RequestSpec) -> dict[str, object]:
    """Return the scheduler hints of a request; {} for none."""
    found = spec.scheduler_hints if 'scheduler_hints' in spec else None
    return found or {}


def extra_specs(spec: objects.RequestSpec) -> dict[str, str]:
    """Return the extra specs of a request's flavor; {} for none."""
    flavor = spec.flavor if 'flavor' in spec else None
    if flavor is None or 'extra_specs' not in flavor:
        return {}
    return flavor.extra_specs or {}
