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
    """The CPUs that are online."""

    cpus: dict[int, Cpu]

    def nodes(self, cpus: frozenset[int]) -> frozenset[int]:
        """Return the NUMA nodes of some CPUs."""
        return frozenset(self.cpus[cpu].node for cpu in cpus)


def read(root: str = '/sys/devices/system') -> Topology:
    """Return the topology of this host.

    :param root: directory with ``cpu`` and, where there is NUMA, ``node``
    """
    base = pathlib.Path(root)
    online = limits.parse_set((base / 'cpu/online').read_text().strip())
    nodes = {}
    for path in base.glob('node/node[0-9]*'):
        text = (path / 'cpulist').read_text().strip()
        for cpu in limits.parse_set(text) if text else ():
            nodes[cpu] = int(path.name.removeprefix('node'))
    return Topology({
        cpu: Cpu(_siblings(base, cpu) & online, nodes.get(cpu, 0))
        for cpu in sorted(online)})


def _siblings(base: pathlib.Path, cpu: int) -> frozenset[int]:
    path = base / f'cpu/cpu{cpu}/topology/thread_siblings_list'
    try:
        return limits.parse_set(path.read_text().strip()) | {cpu}
    except FileNotFoundError:
        return frozenset({cpu})
