# SPDX-License-Identifier: Apache-2.0
"""Limits that a Docker engine keeps and applies at each start.

Never those of block devices: any later update would apply the ones of the
container's creation again, over what was set since.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos import plan
from nova_vcloud.qos.backends import base

#: {kind: field of the engine's HostConfig}
FIELDS = {
    'cpu.shares': 'CpuShares',
    'cpu.period': 'CpuPeriod',
    'cpu.quota': 'CpuQuota',
    'cpu.cpus': 'CpusetCpus',
    'cpu.mems': 'CpusetMems',
    'memory.max': 'Memory',
    'memory.swap': 'MemorySwap',
    'pids.max': 'PidsLimit',
}
# In an update 0 and '' stand for "as it is". So memory is as good as unlimited
# with a number that no host has, and a set cannot be taken back: an update
# names all there are.
_PLENTY = 2**62
_UNLIMITED = {'CpuQuota': -1, 'PidsLimit': -1, 'Memory': _PLENTY,
              'CpusetCpus': '', 'CpusetMems': ''}
_NAMED = {'cpu.cpus': 'cpu', 'cpu.mems': 'node'}


def host_config(wanted: limits.Limits) -> dict[str, Any]:
    """Return the fields of HostConfig, and of an update, for some limits.

    Memory and swap go together: the engine checks one against the other.
    """
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        field = FIELDS.get(key.kind)
        if field is None or key.kind == 'memory.swap':
            continue
        if isinstance(value, frozenset):
            found[field] = limits.format_set(value)
        elif value is limits.UNLIMITED:
            found[field] = _UNLIMITED.get(field, 0)
        else:
            found[field] = value
    memory, swap = wanted.value('memory.max'), wanted.value('memory.swap')
    if memory is limits.UNLIMITED:
        found['MemorySwap'] = -1
    elif isinstance(memory, int):
        found['MemorySwap'] = memory + swap if isinstance(swap, int) else -1
    return found


class DockerBackend(base.Backend):
    """What the engine remembers of a container.

    :param system: where Linux tells which CPUs and memory nodes there are
    """

    name = 'docker'
    remembers = True

    def __init__(self, engine: Engine,
                 system: str = '/sys/devices/system') -> None:
        self._engine = engine
        self._system = pathlib.Path(system)
        self._support = base.Support(frozenset(FIELDS))

    def support(self) -> base.Support:
        """Return what every engine since 20.10 keeps."""
        return self._support

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what the next start of the container will have."""
        keys = [key for key in keys if key.kind in FIELDS]
        if not keys:
            return limits.Limits()
        try:
            found = self._engine.container(guest.name)['HostConfig']
        except exception.ContainerNotFound:
            return limits.Limits()
        except exception.EngineError as e:
            raise exception.LimitNotEnforced(f'engine: {e}') from e
        return limits.Limits({key: _value(key, found) for key in keys})

    def apply(self, guest: Guest, changes: Sequence[base.Change]) -> None:
        """Make one update of all changes."""
        wanted = limits.Limits({c.key: c.new for c in changes})
        known = [key in wanted for key in plan.MEMORY]
        if any(known) and not all(known):
            wanted = wanted.over(self.read(guest, plan.MEMORY))
        wanted = limits.Limits({
            key: self._all(key.kind) if key.kind in _NAMED
            and value is limits.UNLIMITED else value
            for key, value in wanted.items()})
        try:
            self._engine.update(guest.name, host_config(wanted))
        except exception.EngineError as e:
            raise exception.LimitNotEnforced(
                f'{", ".join(map(str, wanted))}: {e}') from e

    def matches(self, key: limits.Key, wanted: limits.Value,
                found: limits.Value) -> bool:
        """Allow for a set that was to be taken back."""
        return wanted == found or (
            wanted is limits.UNLIMITED and key.kind in _NAMED
            and found == self._all(key.kind))

    def _all(self, kind: str) -> frozenset[int]:
        return limits.parse_set(
            (self._system / _NAMED[kind] / 'online').read_text().strip())


def _value(key: limits.Key, found: Mapping[str, Any]) -> limits.Value:
    value = found.get(FIELDS[key.kind])
    if key.kind in _NAMED:
        return limits.parse_set(value) if value else limits.UNLIMITED
    if not value or value < 0 or value >= _PLENTY:
        return limits.UNLIMITED
    if key.kind == 'memory.swap':
        return int(value - (found.get('Memory') or 0))
    return int(value)
