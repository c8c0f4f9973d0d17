# SPDX-License-Identifier: Apache-2.0
"""Weighers for ``[filter_scheduler] weight_classes``."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
import operator
import threading
import time

from nova import conf
from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import utils
from nova.scheduler import weights
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud import host_stats
from nova_vcloud.conf import scheduler
from nova_vcloud.filters import app_anti_affinity
from nova_vcloud.filters import base
from nova_vcloud.filters import choices
from nova_vcloud.filters import ecu_filter
from nova_vcloud.flavor import flavor_limits

CONF = conf.CONF
scheduler.register_opts(CONF)
LOG = log.getLogger(__name__)

POLICY = 'vcloud:policy'  # in the metadata of an aggregate
#: Shares of use that are told apart: measurements are never equal otherwise,
#: and there would be nobody to take turns.
STEPS = 20
#: Of the order among equals; less than a step can ever be.
TURN = 1e-3
#: Weights of the steps where the fullest host is chosen, and the least used.
FULL = [round(step / STEPS * (1 - TURN), 6) for step in range(STEPS + 1)]
FREE = [round(1 - weight, 6) for weight in FULL]
#: Shares of free ECU that are told apart; a power of two has short fractions.
GRAIN = 1024


class Weigher(weights.BaseHostWeigher):
    """A weigher from 0 to 1 with a multiplier that aggregates may set.

    Bounds of the scale are fixed: one host in reach is not "the best there
    is", and a hair's breadth between two hosts remains one.
    """

    minval: float | None = 0.0
    maxval: float | None = 1.0
    #: Name of the option, and of the key in the metadata of aggregates.
    option: str

    def __init__(self) -> None:
        self._thread = threading.local()

    def weigh_objects(self, weighed_obj_list: list[weights.WeighedHost],
                      weight_properties: objects.RequestSpec) -> list[float]:
        """Return a weight for each host; none at all where all are 0.

        Nova then adds nothing to any host, and does not go through them.
        """
        # Nova asks for the multiplier of each next, in the same thread.
        hosts = [each.obj for each in weighed_obj_list]
        candidates = base.Candidates.of(hosts, weight_properties)
        said = set(self.multipliers(candidates))
        self._thread.only = said.pop() if len(said) == 1 else None
        found = self.weigh(candidates, weight_properties)
        return list(found) if any(found) else []

    def multipliers(self, candidates: base.Candidates) -> list[float]:
        """Return the multiplier of each host."""
        return candidates.by_pool(self._multiplier, self.option)

    def weigh(self, candidates: base.Candidates,
              spec: objects.RequestSpec) -> Sequence[float]:
        """Return a weight from 0 to 1 for each host; none for all 0."""
        raise NotImplementedError

    def _weigh_object(self, host_state: host_manager.HostState,
                      spec: objects.RequestSpec) -> float:
        return next(iter(self.weigh(
            base.Candidates([host_state]), spec)), 0.0)

    def weight_multiplier(self, host_state: host_manager.HostState) -> float:
        """Return the option's value, or the aggregate's."""
        only = getattr(self._thread, 'only', None)
        return self._multiplier(host_state) if only is None else only

    def _multiplier(self, host: host_manager.HostState) -> float:
        return float(utils.get_weight_multiplier(
            host, self.option, getattr(CONF.vcloud_scheduler, self.option)))


class SameHostWeigher(Weigher):
    """Prefers the host a server is on, so that its resize is live."""

    option = 'same_host_weight_multiplier'

    def weigh(self, candidates: base.Candidates,
              spec: objects.RequestSpec) -> Sequence[float]:
        """Return 1.0 for the server's own host; no database is asked."""
        uuid = spec.instance_uuid
        found = [host.instances and uuid in host.instances
                 for host in candidates.hosts]
        return [float(bool(here)) for here in found] if any(found) else ()


class UsageWeigher(Weigher):
    """Prefers the least used host, or the fullest where they fill up.

    Used is what is scarcer of CPU and memory. Among equals hosts take turns,
    or the last one goes on.
    """

    option = 'usage_weight_multiplier'

    def weigh(self, candidates: base.Candidates,
              spec: objects.RequestSpec) -> list[float]:
        """Return a weight from 0 to 1 for each host."""
        candidates.watch()
        turns, believed = choices.RECENT.turns(), _believed_from()
        found = []
        for host, name, stats, fills in zip(
                candidates.hosts, candidates.names, candidates.stats,
                candidates.by_pool(fills_up, POLICY), strict=True):
            if fills:
                cpu, memory = claimed(host)
            else:
                cpu, memory = used(host, stats, spec, believed)
            share = cpu if cpu > memory else memory
            # Less than none is none; no call for each of thousands.
            step = STEPS if share >= 1 else int(
                share * STEPS + 0.5) if share > 0 else 0
            weight = FULL[step] if fills else FREE[step]
            if name in turns:
                recent = turns[name] * TURN
                weight += recent if fills else -recent
            found.append(weight)
        return found


def _believed_from() -> float:
    """Return the Unix time from which on a measurement is believed."""
    return time.time() - float(CONF.vcloud_scheduler.load_max_age)


def fills_up(host: host_manager.HostState) -> bool:
    """Tell whether one host of a pool is filled before the next."""
    return 'progressive' in base.metadata(host, POLICY)


def claimed(host: host_manager.HostState) -> tuple[float, float]:
    """Return the shares of CPU and memory that servers have claimed."""
    cpus = (host.vcpus_total or 0) * _ratio(host.cpu_allocation_ratio)
    memory = (host.total_usable_ram_mb or 0) * _ratio(
        host.ram_allocation_ratio)
    used_mb = (host.total_usable_ram_mb or 0) - (host.free_ram_mb or 0)
    return (_share(host.vcpus_used or 0, cpus), _share(used_mb, memory))


def used(host: host_manager.HostState, stats: host_stats.Stats,
         spec: objects.RequestSpec, believed: float) -> tuple[float, float]:
    """Return the shares of CPU and memory in use.

    Measured, where the host does so and has done so of late; a server that
    came since then is taken to be like the one in question.

    :param believed: Unix time from which on a measurement is
    """
    load = host_stats.load(stats)
    if load is None or load[3] <= believed:
        return claimed(host)
    cpu, memory, servers, _time = load
    fresh = (host.num_instances or 0) - servers
    if fresh <= 0:
        return cpu, memory
    return (cpu + _share(fresh * spec.vcpus, host.vcpus_total or 0),
            memory + _share(fresh * spec.memory_mb,
                            host.total_usable_ram_mb or 0))


def _ratio(value: float | None) -> float:
    return value if value and value > 0 else 1.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 1.0


class EcuWeigher(Weigher):
    """Prefers hosts with a large share of their ECU free."""

    option = 'ecu_weight_multiplier'

    def weigh(self, candidates: base.Candidates,
              spec: objects.RequestSpec) -> Sequence[float]:
        """Return a weight for each host; none where no ECU is asked for."""
        if not any(flavor_limits.ECU.fullmatch(key)
                   for key in base.extra_specs(spec)):
            return ()
        found = []
        for stats, ratio in zip(candidates.stats,
                                candidates.by_pool(
                                    _ratio_of, ecu_filter.RATIO), strict=True):
            sold = host_stats.ecu_sold(stats)
            free = 1 - sold[0] / (sold[1] * ratio) if sold else 0.0
            # A long number costs Nova's log more time than all the rest.
            found.append(int(free * GRAIN) / GRAIN if free > 0 else 0.0)
        return found


def _ratio_of(host: host_manager.HostState) -> float:
    return ecu_filter.Pool.of(host).ratio or 1.0


class AppAntiAffinityWeigher(Weigher):
    """Prefers hosts far from the other servers of the application.

    First another zone, then another rack, then another host; where that is
    not to be had, where there are fewest of them.
    """

    option = 'app_weight_multiplier'

    def weigh(self, candidates: base.Candidates,
              spec: objects.RequestSpec) -> Sequence[float]:
        """Return a weight for each host; none without application."""
        try:
            rule = app_anti_affinity.rule_of(spec)
        except exception.InvalidRequest:
            rule = None  # the filter tells
        if rule is None:
            return ()
        index, uuid = app_anti_affinity.INDEX, spec.instance_uuid
        index.begin(uuid, rule.key)
        candidates.watch()
        placed = index.placed(rule.key, uuid)
        return _ranks(_neighbours(candidates, placed)) if placed else ()


def _neighbours(candidates: base.Candidates,
                placed: dict[str, int]) -> list[int]:
    """Return a number for each host: the more, the nearer others are.

    One in the zone counts more than any number in the rack, and so on.
    """
    spread = app_anti_affinity.spread_of(candidates, placed)

    def shared(host: host_manager.HostState) -> int:
        where = app_anti_affinity.places(host)
        number = spread.count('zone', '', where['zone']) << 64
        if where['rack'] is None:
            return number
        return number + (spread.count('rack', '', where['rack']) << 32)
    found = candidates.by_pool(
        shared, *app_anti_affinity.DOMAINS.values())
    for number, name in enumerate(candidates.names):
        if name in placed:
            # A host without a rack is one itself.
            alone = app_anti_affinity.places(
                candidates.hosts[number])['rack'] is None
            found[number] += placed[name] * (1 + (alone << 32))
    return found


def _ranks(values: list[int]) -> list[float]:
    """Return 1.0 for the least, 0.0 for the most, even steps between."""
    order = {value: number for number, value in
             enumerate(sorted(set(values), reverse=True))}
    steps = max(len(order) - 1, 1)
    return [order[value] / steps for value in values]


#: In the order in which their scores are added.
KINDS: tuple[type[Weigher], ...] = (
    SameHostWeigher, UsageWeigher, EcuWeigher, AppAntiAffinityWeigher)


class VcloudWeigher(weights.BaseHostWeigher):
    """The sum of what our weighers say, each with its own multiplier.

    For each weigher with a weight Nova's handler makes four dictionaries of
    all hosts and a text for each host, for a log that is mostly off. With
    thousands of hosts they leave the processor's caches and cost more than
    the weighers themselves: so ours are one to Nova.
    """

    # Nova's normalizing by these changes nothing, whatever the sum.
    minval: float | None = 0.0
    maxval: float | None = 1.0

    def __init__(self) -> None:
        self.parts = [kind() for kind in KINDS]

    def weigh_objects(self, weighed_obj_list: list[weights.WeighedHost],
                      weight_properties: objects.RequestSpec) -> list[float]:
        """Return the sum for each host; none at all where all are 0."""
        hosts = [each.obj for each in weighed_obj_list]
        candidates = base.Candidates.of(hosts, weight_properties)
        total: list[float] = []
        for part in self.parts:
            found = part.weigh(candidates, weight_properties)
            if any(found):
                total = _add(total, found, part.multipliers(candidates))
                _log(part, candidates, found)
        return total if any(total) else []

    def _weigh_object(self, host_state: host_manager.HostState,
                      spec: objects.RequestSpec) -> float:
        return next(iter(self.weigh_objects(
            [weights.WeighedHost(host_state, 0.0)], spec)), 0.0)


def _log(part: Weigher, candidates: base.Candidates,
         found: Sequence[float]) -> None:
    """Log what a part of the sum is, as Nova does for each weigher."""
    if LOG.isEnabledFor(log.DEBUG):
        LOG.debug('%s: score (multiplier * weight) %s', type(part).__name__, {
            (host.host, host.nodename): f'{multiplier} * {weight}'
            for host, multiplier, weight in zip(
                candidates.hosts, part.multipliers(candidates), found,
                strict=True)})


def _add(total: list[float], found: Sequence[float],
         multipliers: list[float]) -> list[float]:
    """Return the sums of total, if any, and of weights with multipliers."""
    if not total:
        return list(map(operator.mul, found, multipliers))
    return list(map(operator.add, total,
                    map(operator.mul, found, multipliers)))


def all_weighers() -> Iterable[type[weights.BaseHostWeigher]]:
    """Return our weighers, for ``[filter_scheduler] weight_classes``."""
    return [VcloudWeigher]
