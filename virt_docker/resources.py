# SPDX-License-Identifier: Apache-2.0
"""What a server may use: from Nova's flavor to limits that are kept."""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any
from typing import Protocol

from nova import objects
from oslo_log import log

from nova_vcloud import ecu
from nova_vcloud import exception
from nova_vcloud import host_stats
from nova_vcloud.flavor import flavor_limits
from nova_vcloud.guest import Guest
from nova_vcloud.guest import Link
from nova_vcloud.qos import limits
from nova_vcloud.qos import policy
from nova_vcloud.qos import records
from nova_vcloud.qos.backends import disk
from nova_vcloud.qos.cpu import pinning
from nova_vcloud.qos.cpu.topology import Topology
from nova_vcloud.qos.keeper import Keeper
from nova_vcloud.qos.records import Record
from nova_vcloud.virt_docker.vif.addresses import Nic

LOG = log.getLogger(__name__)


class Forgetful(Protocol):
    """A backend that keeps something of a guest outside the guest."""

    def forget(self, guest: Guest) -> None:
        """Remove it; nothing to remove is fine."""


@dataclasses.dataclass(frozen=True)
class Cpus:
    """The host's CPUs, and which of them servers may have.

    :ivar shared: for servers that take turns
    :ivar dedicated: for servers that have theirs alone
    :ivar numa_policy: 'prefer' or 'require', where a flavor does not say
    """

    topology: Topology
    shared: frozenset[int]
    dedicated: frozenset[int]
    numa_policy: str = 'prefer'

    @property
    def all(self) -> frozenset[int]:
        """CPUs that are not kept for the host itself."""
        return self.shared | self.dedicated


@dataclasses.dataclass(frozen=True)
class Allotment:
    """What a server is to have on this host."""

    limits: limits.Limits
    exclusive: bool
    bound: bool


class Resources:
    """Limits of this host's servers.

    :param profile: reads what the host is, when it is first needed
    :param link: makes a guest's link of (server uuid, NIC)
    :param usage: reads what a guest uses now; {} when it does not run
    :param disks: knows the size of root filesystems
    :param forgetful: backends that must be told of a guest's end
    """

    def __init__(self, keeper: Keeper, cpus: Cpus,
                 profile: Callable[[], policy.Host],
                 link: Callable[[str, Nic], Link],
                 usage: Callable[[Guest], Mapping[str, int]],
                 disks: disk.DiskBackend,
                 forgetful: Iterable[Forgetful] = ()) -> None:
        self._keeper = keeper
        self._cpus = cpus
        self._profile = profile
        self._link = link
        self._usage = usage
        self._disks = disks
        self._forgetful = tuple(forgetful)

    @contextlib.contextmanager
    def allotted(self, instance: objects.Instance, flavor: objects.Flavor,
                 nics: Iterable[Nic]) -> Iterator[Allotment]:
        """Decide what a server is to have, until it is kept.

        Nobody else is given the CPUs chosen for it meanwhile.

        :raises InvalidRequest: the flavor asks for what cannot be
        :raises NoCpusLeft: it asks for CPUs that are not free
        :raises LimitNotEnforced: it asks for what this host cannot hold
        """
        request = request_of(flavor, instance)
        chooses = request.dedicated or request.bind
        lock = self._keeper.records.locked() if chooses \
            else contextlib.nullcontext()
        with lock:
            placement = self._place(instance.uuid, request)
            wanted = policy.desired(request, self._profile(), placement,
                                    [nic.port_id for nic in nics])
            self._keeper.enforcer.check(wanted)
            yield Allotment(wanted, request.dedicated, request.bind)

    def _place(self, uuid: str,
               request: flavor_limits.Request) -> pinning.Placement:
        cpus = self._cpus
        if not request.dedicated and not request.bind:
            return pinning.shared(cpus.topology, cpus.shared, request.vcpus,
                                  {}, bind=False, node_policy='prefer')
        others, own = [], None
        for record in self._keeper.records.all():
            if record.guest.uuid == uuid:
                own = record
            else:
                others.append(record)
        kept = self._kept(own, request)
        if kept:
            return kept
        node_policy = request.numa_policy or cpus.numa_policy
        if request.dedicated:
            taken = frozenset().union(
                *(r.cpus() for r in others if r.exclusive))
            return pinning.dedicated(cpus.topology, cpus.dedicated - taken,
                                     request.vcpus, node_policy)
        load = {cpu: float(sum(cpu in r.cpus() for r in others if r.bound))
                for cpu in cpus.shared}
        return pinning.shared(cpus.topology, cpus.shared, request.vcpus, load,
                              bind=True, node_policy=node_policy)

    def _kept(self, own: Record | None,
              request: flavor_limits.Request) -> pinning.Placement | None:
        """Return the CPUs a server has already, if they still will do."""
        if own is None or (own.exclusive, own.bound) != (
                request.dedicated, request.bind):
            return None
        pool = self._cpus.dedicated if request.dedicated \
            else self._cpus.shared
        found, mems = own.cpus(), own.base.value('cpu.mems')
        if len(found) != request.vcpus or not found <= pool:
            return None
        return pinning.Placement(
            found, mems if isinstance(mems, frozenset) else frozenset())

    def keep(self, uuid: str, wanted: Allotment, container_id: str,
             cgroup: str, nics: Iterable[Nic]) -> None:
        """Enforce what was decided, now and from now on.

        :param cgroup: path of the container's below each controller
        :raises LimitNotEnforced: with the reason; all is as it was before
        """
        self.mount_disk(container_id)
        guest = Guest(uuid, container_id, cgroup, tuple(
            self._link(uuid, nic) for nic in nics))
        try:
            old = self._keeper.records.load(uuid)
        except exception.StateError as e:
            LOG.warning('%s', e)
            old = None
        self._keeper.keep(Record(
            guest, wanted.limits, wanted.exclusive, wanted.bound,
            records.within(old.override, wanted.limits)
            if old and old.override else None))

    def at_creation(self, wanted: Allotment) -> dict[str, Any]:
        """Return HostConfig's words for what can be had at no other time.
        """
        return self._disks.host_config(wanted.limits)

    def check_live(self, uuid: str, wanted: Allotment) -> None:
        """Refuse what would kill processes of a server that runs.

        :raises LimitNotEnforced: more memory is in use than it would have,
            or more of a disk that had no size
        """
        record = self._keeper.record(uuid)
        self._check_disk(record, wanted)
        used = self._usage(record.guest).get('memory', 0)
        limit = wanted.limits.value('memory.max')
        if isinstance(limit, int) and used > limit:
            raise exception.LimitNotEnforced(
                f'the server uses {used >> 20} MiB of memory that cannot be '
                f'reclaimed and would have {limit >> 20} MiB; stop something '
                'in it, or the server')

    def _check_disk(self, record: Record, wanted: Allotment) -> None:
        size = wanted.limits.value(disk.KIND)
        if not isinstance(size, int) \
                or isinstance(record.base.value(disk.KIND), int):
            return  # it was a size before: Nova lets nobody shrink it
        used = self._disks.figures(record.guest.name).get(
            'disk_used_bytes', 0)
        if used > size:
            raise exception.LimitNotEnforced(
                f'the server has {used >> 20} MiB on its root disk, which '
                f'would have {size >> 20} MiB')

    def settle(self, uuid: str) -> None:
        """Wait until the engine knows the limits of a server."""
        self._keeper.settle(uuid)

    def verify(self, uuid: str) -> None:
        """Read the limits of a server back, and repair what differs.

        :raises LimitNotEnforced: with the reason
        :raises NoSuchRecord: nothing was decided for it here
        """
        self._keeper.repair(uuid)

    def servers(self) -> int:
        """Return how many servers have limits here."""
        return len(self._keeper.records.uuids())

    def ecu(self, per_core: float | None) -> host_stats.Ecu:
        """Return the compute units of this host, and those in use.

        A server that is limited by another key than ECU uses what its quota
        is worth; one that is not limited cannot be counted.

        :param per_core: ECU of one core, None when nobody knows
        """
        cpus = self._cpus
        nodes = collections.Counter(
            cpus.topology.cpus[cpu].node for cpu in cpus.all)
        node_cpus = tuple(nodes[node] for node in sorted(nodes))
        if per_core is None:
            return host_stats.Ecu(node_cpus=node_cpus)
        cores = sum(_cores(record.base)
                    for record in self._keeper.records.all())
        return host_stats.Ecu(
            per_core, ecu.capacity(len(cpus.all), per_core),
            round(cores * per_core, 2), node_cpus)

    def known(self, uuid: str) -> bool:
        """Tell whether a server has limits here."""
        return uuid in self._keeper.records.uuids()

    def forget(self, uuid: str) -> None:
        """Remove what is kept of a server; an unknown one is fine."""
        records_of = self._keeper.records
        self._keeper.settle(uuid)
        # Who looks at the server meanwhile would write what is removed here.
        with records_of.locked(uuid):
            with contextlib.suppress(exception.StateError):
                record = records_of.load(uuid)
                if record:
                    self._forget_guest(record.guest)
            self._keeper.forget(uuid)

    def forget_container(self, uuid: str, container_id: str) -> None:
        """Remove what is kept of one container of a server."""
        self._forget_guest(Guest(uuid, container_id, ''))

    def mount_disk(self, container_id: str) -> None:
        """Have a container's root disk where the engine looks for it.

        :raises LimitNotEnforced: it is lost, or cannot be mounted
        """
        self._disks.mount(container_id)

    def make_room(self, container_id: str) -> None:
        """Have room for the start of a container on a disk that is full.

        :raises LimitNotEnforced: it cannot be had
        """
        self._disks.make_room(container_id)

    def end_room(self, container_id: str) -> None:
        """End the room of a start that failed; none is fine."""
        try:
            self._disks.end_room(container_id)
        except (exception.LimitNotEnforced, OSError) as e:
            # The next start ends it first.
            LOG.warning('Failed to restore the disk limit of container %s, '
                        'its next start retries: %s', container_id, e)

    def room(self, container_id: str
             ) -> contextlib.AbstractContextManager[None]:
        """Have room on the disk of a stopped container for a while.

        :raises LimitNotEnforced: it cannot be had
        """
        return self._disks.room(container_id)

    def _forget_guest(self, guest: Guest) -> None:
        for backend in self._forgetful:
            backend.forget(guest)
        self._disks.forget(guest.name)


def _cores(wanted: limits.Limits) -> float:
    """Return how many cores' time a server may have; 0 for any."""
    quota, period = wanted.value('cpu.quota'), wanted.value('cpu.period')
    if not isinstance(quota, int) or not isinstance(period, int):
        return 0.0
    return quota / period


def request_of(flavor: objects.Flavor,
               instance: objects.Instance) -> flavor_limits.Request:
    """Return what a flavor, and the image, ask for.

    :raises InvalidRequest: with the key that is wrong
    """
    image: Mapping[str, Any] = instance.system_metadata or {}
    return flavor_limits.parse(flavor.vcpus, flavor.memory_mb,
                               flavor.extra_specs or {},
                               image.get('image_hw_cpu_policy'),
                               flavor.root_gb, flavor.swap)
