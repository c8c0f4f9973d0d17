# SPDX-License-Identifier: Apache-2.0
"""Figures that a host tells its scheduler, as stats of its compute node.

They are texts there; whatever they are, reading them never fails.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any
from typing import NamedTuple

#: A scheduler compares with it thousands of times: looked up once.
_INF = math.inf
#: As Nova keeps them.
Stats = Mapping[str, Any] | None
#: What reading a figure may raise: it is not there, or not a number.
_UNREADABLE = (KeyError, TypeError, ValueError, OverflowError)


@dataclasses.dataclass(frozen=True)
class Ecu:
    """Compute units of a host; None where it does not tell.

    A scheduler reads of thousands of hosts what it needs: each figure has a
    function beside this class.

    :ivar per_core: of one core
    :ivar total: of all CPUs for servers
    :ivar used: by its servers, when it was measured
    :ivar node_cpus: CPUs for servers in each NUMA node
    """

    per_core: float | None = None
    total: float | None = None
    used: float | None = None
    node_cpus: tuple[int, ...] = ()

    def to_stats(self) -> dict[str, str]:
        """Return what the functions read."""
        found = {name: format(value, 'g') for name, value in (
            ('ecu_per_core', self.per_core), ('ecu_total', self.total),
            ('ecu_used', self.used)) if value is not None}
        if self.node_cpus:
            found['numa_node_cpus'] = ','.join(map(str, self.node_cpus))
        return found


def ecu_per_core(stats: Stats) -> float | None:
    """Return the ECU of one core, None if stats do not tell."""
    try:
        found = float(stats['ecu_per_core'])  # type: ignore[index]
    except _UNREADABLE:
        return None
    return found if 0 < found < _INF else None


def ecu_sold(stats: Stats) -> tuple[float, float] | None:
    """Return (ECU in use, of so many), None if stats do not tell."""
    try:
        used = float(stats['ecu_used'])  # type: ignore[index]
        total = float(stats['ecu_total'])  # type: ignore[index]
    except _UNREADABLE:
        return None
    # NaN is not in any range.
    return (used, total) if 0 <= used < _INF and 0 < total < _INF \
        else None


def node_cpus(stats: Stats) -> tuple[int, ...]:
    """Return the CPUs for servers in each NUMA node, () if not told."""
    text = stats.get('numa_node_cpus') if stats else None
    if not isinstance(text, str):
        return ()
    found = [number(part) for part in text.split(',')]
    return tuple(int(n) for n in found if n is not None) \
        if None not in found else ()


class Load(NamedTuple):
    """What is in use of a host, by measuring.

    :ivar cpu: share of the CPUs' time, 0 to 1
    :ivar memory: share, 0 to 1; caches that can go are free
    :ivar servers: that were there then
    :ivar time: Unix time of the measurement
    """

    cpu: float
    memory: float
    servers: int
    time: float

    def to_stats(self) -> dict[str, str]:
        """Return what :func:`load` reads."""
        return {'load_cpu': format(self.cpu, '.3f'),
                'load_memory': format(self.memory, '.3f'),
                'load_servers': str(self.servers),
                'load_time': format(self.time, '.0f')}


def load(stats: Stats) -> tuple[float, float, int, float] | None:
    """Return what a :class:`Load` has; None when it is not all there.

    It is done for each host of a request, so it makes no object.
    """
    try:
        cpu = float(stats['load_cpu'])  # type: ignore[index]
        memory = float(stats['load_memory'])  # type: ignore[index]
        servers = int(stats['load_servers'])  # type: ignore[index]
        time = float(stats['load_time'])  # type: ignore[index]
    except _UNREADABLE:
        return None
    if 0 <= cpu < _INF and 0 <= memory < _INF and servers >= 0 \
            and 0 <= time < _INF:
        return (cpu if cpu < 1 else 1.0, memory if memory < 1 else 1.0,
                servers, time)
    return None


def number(value: Any) -> float | None:
    """Return a finite number from 0 on, None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    # NaN is not in any range.
    return found if 0 <= found < _INF else None
