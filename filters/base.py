# SPDX-License-Identifier: Apache-2.0
"""Filters that say why: what ours have in common."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import functools
import itertools
from typing import TypeVar

from nova import objects
from nova.scheduler import filters
from nova.scheduler import host_manager
from nova.scheduler import utils
from oslo_log import log

from nova_vcloud import host_stats
from nova_vcloud.filters import choices

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
              spec: objects.RequestSpec) -> Sequence[str]:
        """Return why each host cannot be; '' for those that can.

        :returns: as many as hosts, or none where all can
        """
        raise NotImplementedError

    def host_passes(self, host_state: host_manager.HostState,
                    filter_properties: objects.RequestSpec) -> bool:
        """Judge one host, as Nova's own filters do."""
        return not any(self.judge([host_state], filter_properties))

    def filter_all(self, filter_obj_list: Iterable[host_manager.HostState],
                   spec_obj: objects.RequestSpec
                   ) -> list[host_manager.HostState]:
        """Return the hosts that can be; the others are in the log."""
        hosts = list(filter_obj_list)
        if utils.request_is_rebuild(spec_obj):
            return hosts
        reasons = self.judge(hosts, spec_obj)
        if not any(reasons):
            return hosts
        self._log([said for said in zip(hosts, reasons, strict=True)
                   if said[1]], spec_obj.instance_uuid)
        left = Candidates.of(hosts, spec_obj).without(reasons)
        spec_obj.vcloud_candidates = left
        return left.hosts

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


class Candidates:
    """The hosts of a request, and what is read of them more than once.

    They are thousands: each look at all of them counts. What a choice among
    them changes is not kept.
    """

    def __init__(self, hosts: list[host_manager.HostState]) -> None:
        self.hosts = hosts
        self._watched = False

    @classmethod
    def of(cls, hosts: list[host_manager.HostState],
           spec: objects.RequestSpec) -> Candidates:
        """Return what is kept with a request, as long as it lasts."""
        known = getattr(spec, 'vcloud_candidates', None)
        if known is None or known.hosts != hosts:
            known = spec.vcloud_candidates = cls(hosts)
        return known

    def watch(self) -> None:
        """Have it noted when one of the hosts is chosen."""
        if not self._watched:
            choices.watch(self.hosts)
            self._watched = True

    @functools.cached_property
    def names(self) -> list[str]:
        """Name of each host."""
        return [host.host for host in self.hosts]

    @functools.cached_property
    def stats(self) -> list[host_stats.Stats]:
        """What each host tells of itself."""
        return [getattr(host, 'stats', None) for host in self.hosts]

    @functools.cached_property
    def _pools(self) -> tuple[list[int], list[host_manager.HostState]]:
        """Number of each host's set of aggregates, and a host of each."""
        # A request's hosts hold their aggregates: no id is used twice.
        numbers: dict[tuple[int, ...], int] = {}
        samples: list[host_manager.HostState] = []
        found = []
        for host in self.hosts:
            key = tuple(map(id, host.aggregates or ()))
            number = numbers.get(key)
            if number is None:
                number = numbers[key] = len(samples)
                samples.append(host)
            found.append(number)
        return found, samples

    @functools.cached_property
    def aggregates(self) -> list[objects.Aggregate]:
        """Those that the hosts are in."""
        return list({id(aggregate): aggregate for host in self._pools[1]
                     for aggregate in host.aggregates or ()}.values())

    @functools.cached_property
    def keys(self) -> set[str]:
        """What is said in the metadata of any aggregate."""
        return set().union(*(each.metadata or () for each in self.aggregates))

    def by_pool(self, work: Callable[[host_manager.HostState], T],
                *keys: str) -> list[T]:
        """Return what follows from the aggregates of each host.

        :param work: its answer depends on the aggregates of a host only
        :param keys: all of their metadata that it looks at
        """
        if not self.hosts:
            return []
        if self.keys.isdisjoint(keys):
            return [work(self.hosts[0])] * len(self.hosts)
        numbers, samples = self._pools
        answers = [work(host) for host in samples]
        return [answers[number] for number in numbers]

    def without(self, reasons: Sequence[str]) -> Candidates:
        """Return the hosts against which there is no reason."""
        free = [not reason for reason in reasons]
        left = Candidates(list(itertools.compress(self.hosts, free)))
        left._watched = self._watched
        left.names = list(itertools.compress(self.names, free))
        left.stats = list(itertools.compress(self.stats, free))
        numbers, samples = self._pools
        left._pools = list(itertools.compress(numbers, free)), samples
        # An aggregate all of whose hosts went does no harm.
        left.aggregates, left.keys = self.aggregates, self.keys
        return left


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
