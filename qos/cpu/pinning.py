# SPDX-License-Identifier: Apache-2.0
"""Which CPUs a guest runs on: pure, the same answer for the same question."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses

from nova_vcloud import exception
from nova_vcloud.qos import limits
from nova_vcloud.qos.cpu.topology import Topology


@dataclasses.dataclass(frozen=True)
class Placement:
    """CPUs of a guest and the NUMA nodes of its memory."""

    cpus: frozenset[int]
    mems: frozenset[int]


def dedicated(topology: Topology, free: frozenset[int], count: int,
              node_policy: str) -> Placement:
    """Return CPUs for one guest alone: whole cores, on one node if it fits.

    The node is one where the guest shares no core with others, or the
    fewest; among those the one that it fills best, so that larger guests
    still find room on the others. Of an odd number one CPU is taken from a
    core that is in use already, if there is one.

    :param free: CPUs of the dedicated set that nobody has; those that are
        offline do not count
    :param node_policy: 'require' refuses several nodes, 'prefer' takes the
        fewest that are enough
    :raises NoCpusLeft: with how many there are
    """
    pools = _by_node(topology, free)
    left = sum(map(len, pools.values()))
    if left < count:
        raise exception.NoCpusLeft(
            f'{count} dedicated CPUs are wanted and {left} are free')
    fits = [(frozenset(_whole_cores(topology, pool, count)), len(pool))
            for pool in pools.values() if len(pool) >= count]
    if fits:
        chosen, _size = min(fits, key=lambda fit: (
            _cores_with_others(topology, fit[0]), fit[1], min(fit[0])))
        return Placement(chosen, topology.memory_of(chosen))
    if node_policy == 'require':
        raise exception.NoCpusLeft(
            f'{count} dedicated CPUs of one NUMA node are wanted; free are '
            + ', '.join(f'{len(cpus)} of node {node}'
                        for node, cpus in sorted(pools.items())))
    found: set[int] = set()
    for node in sorted(pools, key=lambda n: (-len(pools[n]), n)):
        need = min(count - len(found), len(pools[node]))
        found.update(_whole_cores(topology, pools[node], need))
    chosen = frozenset(found)
    return Placement(chosen, topology.memory_of(chosen))


def shared(topology: Topology, shared_set: frozenset[int], count: int,
           load: Mapping[int, float], *, bind: bool,
           node_policy: str) -> Placement:
    """Return CPUs for a guest that shares them.

    :param shared_set: those that are offline do not count
    :param load: use of each CPU, of which 1 is a vCPU's; absent is 0
    :param bind: take the ``count`` CPUs of least use, of one node if it
        fits; otherwise the whole set, and memory of any node
    :raises NoCpusLeft: the set, or each node of it, is too small
    """
    pool = shared_set.intersection(topology.cpus)
    if not bind:
        if not pool:
            raise exception.NoCpusLeft(
                'this host has no CPUs that servers share')
        return Placement(pool, topology.memory)
    if len(pool) < count:
        raise exception.NoCpusLeft(
            f'{count} CPUs are wanted and servers share '
            f'{limits.format_set(pool) or "none"}')
    candidates = [_least(topology, cpus, count, load)
                  for cpus in _by_node(topology, pool).values()
                  if len(cpus) >= count]
    if not candidates:
        if node_policy == 'require':
            raise exception.NoCpusLeft(
                f'no NUMA node has {count} CPUs that servers share')
        candidates = [_least(topology, pool, count, load)]
    chosen = min(candidates, key=lambda cpus: (
        sum(load.get(cpu, 0) for cpu in cpus), sorted(cpus)))
    return Placement(chosen, topology.memory_of(chosen))


def _by_node(topology: Topology,
             cpus: Iterable[int]) -> dict[int, frozenset[int]]:
    """Return the CPUs of each node, without those that are offline."""
    pools: dict[int, set[int]] = {}
    for cpu in cpus:
        if cpu in topology.cpus:
            pools.setdefault(topology.cpus[cpu].node, set()).add(cpu)
    return {node: frozenset(found) for node, found in sorted(pools.items())}


def _cores_with_others(topology: Topology, cpus: frozenset[int]) -> int:
    """Return how many cores some CPUs share with CPUs that are not theirs."""
    cores = {topology.cpus[cpu].core for cpu in cpus}
    return sum(not core <= cpus for core in cores)


def _whole_cores(topology: Topology, pool: frozenset[int],
                 count: int) -> list[int]:
    """Return ``count`` CPUs of a pool, cores that are free first.

    What is left over after whole cores comes from the core with the fewest
    free CPUs, so that as few cores as can be are split.
    """
    cores = sorted({topology.cpus[cpu].core & pool for cpu in pool},
                   key=lambda core: (-len(core), min(core)))
    chosen: list[int] = []
    for core in cores:
        if len(core) > 1 and len(chosen) + len(core) <= count:
            chosen.extend(sorted(core))
    rest = sorted((core for core in cores if not core & set(chosen)),
                  key=lambda core: (len(core), min(core)))
    for core in rest:
        chosen.extend(sorted(core)[:count - len(chosen)])
    return chosen[:count]


def _least(topology: Topology, pool: frozenset[int], count: int,
           load: Mapping[int, float]) -> frozenset[int]:
    """Return the CPUs of least use; among equals, of cores of least use.

    What has been chosen counts as use of its core: two vCPUs get two cores
    before they get two threads of one.
    """
    chosen: set[int] = set()

    def use(cpu: int) -> tuple[float, float, int]:
        core = topology.cpus[cpu].core
        return (load.get(cpu, 0),
                sum(load.get(c, 0) for c in core) + len(core & chosen), cpu)

    for _ in range(count):
        chosen.add(min(pool - chosen, key=use))
    return frozenset(chosen)
