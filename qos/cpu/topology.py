# SPDX-License-Identifier: Apache-2.0
"""The CPUs of a host: cores, siblings and NUMA nodes, from sysfs."""

from __future__ import annotations

import dataclasses
import pathlib

from nova_vcloud.qos import limits


@dataclasses.dataclass(frozen=True)
class Cpu:
    """One logical CPU.

    :ivar core: the CPUs of its core, itself among them
    :ivar node: number of its NUMA node
    """

    core: frozenset[int]
    node: int


@dataclasses.dataclass(frozen=True)
class Topology:
    """The CPUs that are online.

    :ivar memory: NUMA nodes with memory, of which not all need have CPUs
    """

    cpus: dict[int, Cpu]
    memory: frozenset[int]

    def memory_of(self, cpus: frozenset[int]) -> frozenset[int]:
        """Return the nodes that memory of a guest on some CPUs comes from.

        A node whose slots are empty has CPUs and no memory; the kernel
        refuses it in ``cpuset.mems``. Guests there get any memory.
        """
        own = frozenset(self.cpus[cpu].node for cpu in cpus)
        return own & self.memory or self.memory


def read(root: str = '/sys/devices/system') -> Topology:
    """Return the topology of this host.

    :param root: directory with ``cpu`` and, where there is NUMA, ``node``
    """
    base = pathlib.Path(root)
    online = limits.parse_set((base / 'cpu/online').read_text().strip())
    nodes = {}
    for path in base.glob('node/node[0-9]*'):
        for cpu in _numbers(path / 'cpulist'):
            nodes[cpu] = int(path.name.removeprefix('node'))
    return Topology(
        {cpu: Cpu(_siblings(base, cpu) & online, nodes.get(cpu, 0))
         for cpu in sorted(online)},
        # Kernels without NUMA have no such file, and one node.
        _numbers(base / 'node/has_memory') or frozenset({0}))


def _siblings(base: pathlib.Path, cpu: int) -> frozenset[int]:
    path = base / f'cpu/cpu{cpu}/topology/thread_siblings_list'
    return _numbers(path) | {cpu}


def _numbers(path: pathlib.Path) -> frozenset[int]:
    """Return the numbers in a file; none of one that is not there."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return frozenset()
    return limits.parse_set(text) if text else frozenset()
