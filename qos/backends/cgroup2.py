# SPDX-License-Identifier: Apache-2.0
"""Limits in cgroup v2: one hierarchy, files of several limits.

Source: Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import pathlib

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import convert
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.backends import cgroup

#: {kind: file}
FILES = {
    'cpu.shares': 'cpu.weight',
    'cpu.period': 'cpu.max',
    'cpu.quota': 'cpu.max',
    'cpu.burst': 'cpu.max.burst',
    'cpu.cpus': 'cpuset.cpus',
    'cpu.mems': 'cpuset.mems',
    'memory.max': 'memory.max',
    'memory.swap': 'memory.swap.max',
    'memory.soft': 'memory.high',
    'pids.max': 'pids.max',
    **dict.fromkeys(convert.IO, 'io.max'),
}
CONTROLLERS = ('cpu', 'cpuset', 'io', 'memory', 'pids')


class Cgroup2(cgroup.CgroupBackend):
    """Cgroups of version 2.

    :param root: mount of the unified hierarchy
    """

    name = 'cgroup v2'

    def __init__(self, root: str = '/sys/fs/cgroup') -> None:
        self._root = pathlib.Path(root)

    def support(self) -> base.Support:
        """Try every file in a cgroup made for that and removed."""
        return self._support

    @functools.cached_property
    def _support(self) -> base.Support:
        return cgroup.supported(dict(self._probe()), {})

    def _probe(self) -> Iterator[tuple[str, str]]:
        """Yield (kind, why it cannot be had here, or '')."""
        probe = Guest('', '', cgroup.probe_name())
        folder = self._folder(probe)
        have = (self._root / 'cgroup.controllers').read_text().split()
        for controller in set(CONTROLLERS) & set(have):
            # systemd does the same, for each unit with a limit.
            with contextlib.suppress(OSError):
                (self._root / 'cgroup.subtree_control').write_text(
                    f'+{controller}')
        folder.mkdir()
        try:
            for kind, file in FILES.items():
                reason = ''
                try:
                    self._try(probe, kind)
                except (OSError, exception.LimitNotEnforced) as e:
                    reason = f'{file}: {e}'
                yield kind, reason
        finally:
            folder.rmdir()

    def _try(self, probe: Guest, kind: str) -> None:
        """Set a limit and read it back."""
        key = cgroup.probe_key(kind)
        if kind in cgroup.SETS:
            file = FILES[kind]
            text = (self._root / f'{file}.effective').read_text().strip()
            value: limits.Value = limits.parse_set(text)
        else:
            value = cgroup.PROBES.get(kind, cgroup.PROBE_IO)
        self.apply(probe, [base.Change(key, limits.UNLIMITED, value)])
        found = self.read(probe, [key]).get(key)
        if found is None or not self.matches(key, value, found):
            raise OSError(f'{limits.to_text(value)} is not kept')

    # Reading

    def _folder(self, guest: Guest) -> pathlib.Path:
        return self._root / guest.cgroup.strip('/')

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what the files say; nothing of a guest that is stopped."""
        texts: dict[str, str] = {}
        found: dict[limits.Key, limits.Value] = {}
        for key in keys:
            file = FILES.get(key.kind)
            if file is None:
                continue
            with cgroup.unless_gone():
                if file not in texts:
                    texts[file] = (self._folder(guest) / file
                                   ).read_text().strip()
                found[key] = _parse(key, texts[file])
        return limits.Limits(found)

    def matches(self, key: limits.Key, wanted: limits.Value,
                found: limits.Value) -> bool:
        """Allow for whole pages, and for the coarser scale of weights."""
        if isinstance(wanted, int) and isinstance(found, int):
            if key.kind == 'cpu.shares':
                return convert.same_weight(wanted, found)
            if key.resource == 'memory':
                return cgroup.whole_pages(wanted) == found
        return wanted == found

    # Writing

    def apply(self, guest: Guest, changes: Sequence[base.Change]) -> None:
        """Write the files; quota and period are one text."""
        bandwidth = {c.key: c.new for c in changes
                     if FILES[c.key.kind] == 'cpu.max'}
        written = False
        for change in changes:
            if change.key not in bandwidth:
                self._write(guest, change.key,
                            _text(change.key, change.new))
            elif not written:
                both = limits.Limits(bandwidth).over(self.read(
                    guest, [limits.Key('cpu', 'quota'),
                            limits.Key('cpu', 'period')]))
                self._write(guest, change.key, _bandwidth(both))
                written = True

    def _write(self, guest: Guest, key: limits.Key, text: str) -> None:
        file = FILES[key.kind]
        cgroup.write(self._folder(guest) / file, key, text,
                     lambda: self.use(guest))

    def start_lines(self, guest: Guest, wanted: limits.Limits
                    ) -> list[tuple[str, str]]:
        """Return (file, text) for a fresh cgroup, in a safe order."""
        lines: list[tuple[str, str]] = []
        for kind, file in FILES.items():
            path = str(self._folder(guest) / file)
            for key in sorted(k for k in wanted if k.kind == kind):
                if wanted[key] is limits.UNLIMITED or kind == 'cpu.period':
                    continue
                text = _bandwidth(wanted) if kind == 'cpu.quota' \
                    else _text(key, wanted[key])
                lines.append((path, text))
        return lines

    def use(self, guest: Guest) -> Mapping[str, int]:
        """Return bytes that cannot be reclaimed, and processes."""
        folder = self._folder(guest)
        found: dict[str, int] = {}
        with cgroup.unless_gone():
            found.update(cgroup.use(
                (folder / 'memory.current').read_text(),
                (folder / 'memory.stat').read_text(), '',
                (folder / 'pids.current').read_text()))
        return found

    def events(self, guest: Guest) -> Mapping[str, int]:
        """Return how often a guest met its limits."""
        folder = self._folder(guest)
        found: dict[str, int] = {}
        with cgroup.unless_gone():
            found.update(cgroup.counted(
                (folder / 'memory.events').read_text(),
                (folder / 'pids.events').read_text()))
        return found


def _parse(key: limits.Key, text: str) -> limits.Value:
    """Return one limit from the text of its file."""
    if key.resource == 'io':
        return convert.parse_io_max(text, key.device, key.kind)
    if key.kind in cgroup.SETS:
        return limits.parse_set(text) if text else limits.UNLIMITED
    if key.kind in ('cpu.quota', 'cpu.period'):
        return convert.parse_cpu_max(text)[key.kind == 'cpu.period']
    value = convert.parse_number(text)
    if key.kind == 'cpu.shares' and isinstance(value, int):
        return convert.shares_of(value)
    return value


def _text(key: limits.Key, value: limits.Value) -> str:
    """Return what to write for one limit that has its own text."""
    if key.resource == 'io':
        return convert.io_max(key.device, key.kind, value)
    if key.kind in cgroup.SETS:
        # An empty set is the parent's; the kernel wants the line's end.
        return limits.format_set(value) if isinstance(value, frozenset) \
            else '\n'
    if key.kind == 'cpu.shares' and isinstance(value, int):
        return str(convert.weight_of(value))
    return convert.number(value)


def _bandwidth(both: limits.Limits) -> str:
    period = both.value('cpu.period')
    quota = both.value('cpu.quota')
    return convert.cpu_max(
        limits.UNLIMITED if quota is limits.KEEP else quota,
        period if isinstance(period, int) else 100_000)
