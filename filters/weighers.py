# SPDX-License-Identifier: Apache-2.0
"""Weighers for ``[filter_scheduler] weight_classes``."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import threading
import time

from nova import conf
from nova import objects
from nova.scheduler import host_manager
from nova.scheduler import utils
from nova.scheduler import weights

from nova_vcloud import exception
from nova_vcloud import figures
from nova_vcloud import specs
from nova_vcloud.conf import scheduler
from nova_vcloud.filters import app_anti_affinity
from nova_vcloud.filters import base
from nova_vcloud.filters import choices
from nova_vcloud.filters import ecu_filter

CONF = conf.CONF
scheduler.register_opts(CONF)

POLICY = 'vcloud:policy'  # in the metadata of an aggregate
#: Shares of use that are one: measurements are never equal otherwise, and
#: there would be nobody to take turns.
STEP = 0.05
#: Of the order among equals; less than a step can ever be.
TURN = 1e-3


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
        pools = base.Pools(self._multiplier)
        said = set(pools.each(hosts))
        self._thread.multipliers = pools
        self._thread.only = said.pop() if len(said) == 1 else None
        found = self.weigh(hosts, weight_properties)
        return found if any(found) else []

    def weigh(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> list[float]:
        """Return a weight from 0 to 1 for each host."""
        raise NotImplementedError

    def _weigh_object(self, host_state: host_manager.HostState,
                      spec: objects.RequestSpec) -> float:
        return self.weigh([host_state], spec)[0]

    def weight_multiplier(self, host_state: host_manager.HostState) -> float:
        """Return the option's value, or the aggregate's."""
        try:
            only = self._thread.only
        except AttributeError:  # of one host, by itself
            return self._multiplier(host_state)
        if only is None:
            return float(self._thread.multipliers.of(host_state))
        return float(only)

    def _multiplier(self, host: host_manager.HostState) -> float:
        return float(utils.get_weight_multiplier(
            host, self.option, getattr(CONF.vcloud_scheduler, self.option)))


class SameHostWeigher(Weigher):
    """Prefers the host a server is on, so that its resize is live."""

    option = 'same_host_weight_multiplier'

    def weigh(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> list[float]:
        """Return 1.0 for the server's own host; no database is asked."""
        uuid = spec.instance_uuid
        return [float(uuid in (host.instances or ())) for host in hosts]


class UsageWeigher(Weigher):
    """Prefers the least used host, or the fullest where they fill up.

    Used is what is scarcer of CPU and memory. Among equals hosts take turns,
    or the last one goes on.
    """

    option = 'usage_weight_multiplier'

    def weigh(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> list[float]:
        """Return a weight from 0 to 1 for each host."""
        choices.watch(hosts)
        turns = choices.RECENT.turns()
        pools, request = base.Pools(fills_up), _Asked.of(spec)
        found = []
        for host in hosts:
            recent = turns.get(host.host, 0.0)
            if pools.of(host):
                weight = _stepped(max(claimed(host)))
            else:
                weight = 1 - _stepped(max(used(host, request)))
                recent = 1 - recent
            found.append(weight * (1 - TURN) + recent * TURN)
        return found


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a request needs; reading Nova's objects takes time.

    :ivar since: Unix time from which on a measurement is believed
    """

    vcpus: int
    memory_mb: int
    since: float

    @classmethod
    def of(cls, spec: objects.RequestSpec) -> _Asked:
        return cls(spec.vcpus, spec.memory_mb,
                   time.time() - CONF.vcloud_scheduler.load_max_age)


def _stepped(share: float) -> float:
    return min(max(round(share / STEP) * STEP, 0.0), 1.0)


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


def used(host: host_manager.HostState,
         asked: _Asked) -> tuple[float, float]:
    """Return the shares of CPU and memory in use.

    Measured, where the host does so and has done so of late; a server that
    came since then is taken to be like the one in question.
    """
    load = figures.Load.of(getattr(host, 'stats', None))
    if load is None or load.time <= asked.since:
        return claimed(host)
    fresh = (host.num_instances or 0) - load.servers
    if fresh <= 0:
        return load.cpu, load.memory
    return (load.cpu + _share(fresh * asked.vcpus, host.vcpus_total or 0),
            load.memory + _share(fresh * asked.memory_mb,
                                 host.total_usable_ram_mb or 0))


def _ratio(value: float | None) -> float:
    return value if value and value > 0 else 1.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 1.0


class EcuWeigher(Weigher):
    """Prefers hosts with a large share of their ECU free."""

    option = 'ecu_weight_multiplier'

    def weigh(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> list[float]:
        """Return a weight for each host; 0 where no ECU is asked for."""
        if not any(specs.ECU.fullmatch(key)
                   for key in base.extra_specs(spec)):
            return [0.0] * len(hosts)
        pools = base.Pools(ecu_filter.Pool.of)
        found = []
        for host in hosts:
            sold = figures.ecu_sold(getattr(host, 'stats', None))
            if sold is None:
                found.append(0.0)
                continue
            total = sold[1] * (pools.of(host).ratio or 1)
            found.append(min(max(1 - sold[0] / total, 0.0), 1.0))
        return found


class AppAntiAffinityWeigher(Weigher):
    """Prefers hosts far from the other servers of the application.

    First another zone, then another rack, then another host; where that is
    not to be had, where there are fewest of them.
    """

    option = 'app_weight_multiplier'

    def weigh(self, hosts: list[host_manager.HostState],
              spec: objects.RequestSpec) -> list[float]:
        """Return a weight for each host; all equal without application."""
        try:
            rule = app_anti_affinity.rule_of(spec)
        except exception.InvalidRequest:
            rule = None  # the filter tells
        if rule is None:
            return [0.0] * len(hosts)
        index, uuid = app_anti_affinity.INDEX, spec.instance_uuid
        index.begin(uuid, rule.key)
        choices.watch(hosts)
        placed = index.placed(rule.key, uuid)
        return _ranks(_neighbours(hosts, placed))


def _neighbours(hosts: list[host_manager.HostState],
                placed: dict[str, int]) -> list[int]:
    """Return a number for each host: the more, the nearer others are.

    One in the zone counts more than any number in the rack, and so on.
    """
    if not placed:
        return [0] * len(hosts)
    spread = app_anti_affinity.spread_of(hosts, placed)

    def shared(host: host_manager.HostState) -> tuple[int, int]:
        """Return (number of all hosts of a pool, that of an own server)."""
        where = app_anti_affinity.places(host)
        base_of, own = spread.count('zone', '', where['zone']) << 64, 1
        if where['rack'] is None:
            own += 1 << 32  # a host without a rack is one itself
        else:
            base_of += spread.count('rack', '', where['rack']) << 32
        return base_of, own
    pools, found = base.Pools(shared), []
    for host in hosts:
        number, own = pools.of(host)
        found.append(number + placed.get(host.host, 0) * own)
    return found


def _ranks(values: list[int]) -> list[float]:
    """Return 1.0 for the least, 0.0 for the most, even steps between."""
    order = {value: number for number, value in
             enumerate(sorted(set(values), reverse=True))}
    steps = max(len(order) - 1, 1)
    return [order[value] / steps for value in values]


def all_weighers() -> Iterable[type[weights.BaseHostWeigher]]:
    """Return our weighers, for ``[filter_scheduler] weight_classes``."""
    return [SameHostWeigher, UsageWeigher, EcuWeigher,
            AppAntiAffinityWeigher]
