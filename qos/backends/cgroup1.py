# SPDX-License-Identifier: Apache-2.0
"""Limits in cgroup v1: one file a limit, one hierarchy a controller.

Source: Documentation/admin-guide/cgroup-v1 and scheduler/sched-bwc.rst of the
kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import pathlib

from nova_vcloud.guest import Guest
from nova_vcloud.qos import convert
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.backends import cgroup

#: {kind: (controller, file)}
FILES = {
    'cpu.shares': ('cpu', 'cpu.shares'),
    'cpu.period': ('cpu', 'cpu.cfs_period_us'),
    'cpu.quota': ('cpu', 'cpu.cfs_quota_us'),
    'cpu.burst': ('cpu', 'cpu.cfs_burst_us'),
    'cpu.cpus': ('cpuset', 'cpuset.cpus'),
    'cpu.mems': ('cpuset', 'cpuset.mems'),
    'memory.max': ('memory', 'memory.limit_in_bytes'),
    'memory.swap': ('memory', 'memory.memsw.limit_in_bytes'),
    'memory.soft': ('memory', 'memory.soft_limit_in_bytes'),
    'pids.max': ('pids', 'pids.max'),
    **{f'io.{way}_{unit}': ('blkio',
                            f'blkio.throttle.{way}_{unit}_device')
       for way in ('read', 'write') for unit in ('bps', 'iops')},
}
_PAIRS = {'memory.max': 'memory', 'memory.swap': 'memory',
          'cpu.quota': 'cfs', 'cpu.period': 'cfs'}
# The kernel's "no limit" is the largest number of whole pages.
_NO_LIMIT = 2**62
_REMARK = ('v1: writes to the page cache that nobody syncs are written back '
           'by the kernel itself and pass unthrottled')


class Cgroup1(cgroup.CgroupBackend):
    """Cgroups of version 1.

    :param root: directory with one hierarchy for each controller
    :param mountinfo: text of /proc/self/mountinfo: a hierarchy of several
        controllers is mounted once, by a name such as cpu,cpuacct
    """

    name = 'cgroup v1'

    def __init__(self, root: str = '/sys/fs/cgroup',
                 mountinfo: str = '') -> None:
        mounts = mounted(mountinfo, pathlib.Path(root))
        self._roots = {controller: mounts.get(
            controller, pathlib.Path(root, controller))
            for controller, _file in FILES.values()}

    def support(self) -> base.Support:
        """Try every file in a cgroup made for that and removed."""
        return self._support

    @functools.cached_property
    def _support(self) -> base.Support:
        return cgroup.supported(dict(_probe(self._roots)), dict.fromkeys(
            ('io.write_bps', 'io.write_iops'), _REMARK))

    # Reading

    def _path(self, guest: Guest, kind: str) -> pathlib.Path:
        controller, file = FILES[kind]
        return self._roots[controller] / guest.cgroup.strip('/') / file

    def read(self, guest: Guest,
             keys: Iterable[limits.Key]) -> limits.Limits:
        """Return what the files say; nothing of a guest that is stopped."""
        found: dict[limits.Key, limits.Value] = {}
        for key in keys:
            if key.kind in FILES:
                with cgroup.unless_gone():
                    found[key] = self._read(guest, key)
        return limits.Limits(found)

    def _read(self, guest: Guest, key: limits.Key) -> limits.Value:
        text = self._path(guest, key.kind).read_text().strip()
        if key.resource == 'io':
            rows = dict(row.split() for row in text.splitlines())
            return int(rows.get(key.device, 0)) or limits.UNLIMITED
        if key.kind in cgroup.SETS:
            return limits.parse_set(text) if text else limits.UNLIMITED
        number = _NO_LIMIT if text == 'max' else int(text)
        if number < 0 or number >= _NO_LIMIT:
            return limits.UNLIMITED
        if key.kind == 'memory.swap':
            return number - int(
                self._path(guest, 'memory.max').read_text())
        return number

    def matches(self, key: limits.Key, wanted: limits.Value,
                found: limits.Value) -> bool:
        """Allow for whole pages, and for sets that are the host's."""
        if key.kind in cgroup.SETS and wanted is limits.UNLIMITED:
            return found == self._host_set(key.kind)
        if isinstance(wanted, int) and isinstance(found, int):
            if key.kind == 'memory.swap':
                # Of the sum only whole pages are kept, of the memory too.
                return 0 <= found - cgroup.whole_pages(wanted) <= cgroup.PAGE
            if key.resource == 'memory':
                return cgroup.whole_pages(wanted) == found
        return wanted == found

    def _host_set(self, kind: str) -> frozenset[int]:
        controller, file = FILES[kind]
        return limits.parse_set(
            (self._roots[controller] / file).read_text().strip())

    # Writing

    def apply(self, guest: Guest, changes: Sequence[base.Change]) -> None:
        """Write the files, each pair in the order the kernel accepts."""
        pairs = {'memory': self._apply_memory, 'cfs': self._apply_bandwidth}
        for change in changes:
            pair = _PAIRS.get(change.key.kind)
            if pair is None:
                self._write(guest, change.key,
                            self._text(guest, change.key, change.new))
            elif pair in pairs:
                pairs.pop(pair)(guest, changes)

    def _apply_bandwidth(self, guest: Guest,
                         changes: Sequence[base.Change]) -> None:
        """Write quota and period so that their ratio only falls between.

        A child's ratio may not exceed its parent's.
        """
        own = [c for c in changes if _PAIRS.get(c.key.kind) == 'cfs']
        # A period that grows comes before the quota, one that shrinks after.
        own.sort(key=lambda c: 0 if c.key.kind == 'cpu.quota'
                 else -1 if isinstance(c.old, int)
                 and isinstance(c.new, int) and c.new > c.old else 1)
        for change in own:
            self._write(guest, change.key,
                        self._text(guest, change.key, change.new))

    def _apply_memory(self, guest: Guest,
                      changes: Sequence[base.Change]) -> None:
        """Write memory, and memory and swap, which is never the smaller."""
        keys = [limits.Key('memory', 'max'), limits.Key('memory', 'swap')]
        now = self.read(guest, keys)
        if len(now) < len(keys):  # no accounting of swap on this host
            keys = keys[:1]
        new = limits.Limits({c.key: c.new for c in changes
                             if c.key in keys}).over(now)
        amounts = [new.value('memory.max'), new.value('memory.swap')]
        texts = [_number(amounts[0]),
                 str(convert.memory_and_swap(*amounts))]
        steps = list(zip(keys, texts, strict=False))
        before = [now.value('memory.max'), now.value('memory.swap')]
        grows = _total(amounts) > _total(before)
        for key, text in reversed(steps) if grows else steps:
            self._write(guest, key, text)

    def _text(self, guest: Guest, key: limits.Key,
              value: limits.Value) -> str:
        if key.resource == 'io':
            return f'{key.device} {0 if value is limits.UNLIMITED else value}'
        if key.kind in cgroup.SETS:
            if isinstance(value, frozenset):
                return limits.format_set(value)
            path = self._path(guest, key.kind)
            return (path.parent.parent / path.name).read_text().strip()
        if key.kind == 'pids.max' and value is limits.UNLIMITED:
            return 'max'
        return _number(value)

    def _write(self, guest: Guest, key: limits.Key, text: str) -> None:
        cgroup.write(self._path(guest, key.kind), key, text,
                     lambda: self.use(guest))

    def start_lines(self, guest: Guest, wanted: limits.Limits
                    ) -> list[tuple[str, str]]:
        """Return (file, text) for a fresh cgroup, in a safe order."""
        order = list(FILES)
        lines = []
        for key in sorted(wanted, key=lambda k: (order.index(k.kind), k)):
            value = wanted[key]
            if value is limits.UNLIMITED:
                continue
            if key.kind == 'memory.swap':
                maximum = wanted.value('memory.max')
                if not isinstance(maximum, int) or not isinstance(value, int):
                    continue
                value += maximum
            lines.append((str(self._path(guest, key.kind)),
                          self._text(guest, key, value)))
        return lines

    def use(self, guest: Guest) -> Mapping[str, int]:
        """Return bytes that cannot be reclaimed, and processes."""
        memory = self._path(guest, 'memory.max').parent
        pids = self._path(guest, 'pids.max').parent
        found: dict[str, int] = {}
        with cgroup.unless_gone():
            found.update(cgroup.use(
                (memory / 'memory.usage_in_bytes').read_text(),
                (memory / 'memory.stat').read_text(), 'total_',
                (pids / 'pids.current').read_text()))
        return found

    def events(self, guest: Guest) -> Mapping[str, int]:
        """Return how often a guest met its limits."""
        memory = self._path(guest, 'memory.max').parent
        pids = self._path(guest, 'pids.max').parent
        found: dict[str, int] = {}
        with cgroup.unless_gone():
            found.update(cgroup.counted(
                (memory / 'memory.oom_control').read_text(),
                (pids / 'pids.events').read_text()))
        return found


def mounted(mountinfo: str, root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return where below ``root`` each controller's hierarchy is mounted."""
    found: dict[str, pathlib.Path] = {}
    for line in mountinfo.splitlines():
        mount, _, rest = line.partition(' - ')
        kind, _source, options = rest.split(' ')  # a source may be empty
        within, place = mount.split()[3:5]
        # What shows a part of a hierarchy is made for a container.
        if kind == 'cgroup' and within == '/' \
                and pathlib.Path(place).is_relative_to(root):
            for controller in options.split(','):
                found.setdefault(controller, pathlib.Path(place))
    return found


def _number(value: limits.Value) -> str:
    return '-1' if value is limits.UNLIMITED else str(value)


def _total(amounts: Iterable[limits.Value]) -> float:
    return sum(float(a) if isinstance(a, int) else float('inf')
               for a in amounts)


# The self-test


def _probe(roots: Mapping[str, pathlib.Path]) -> Iterator[tuple[str, str]]:
    """Yield (kind, why it cannot be had here, or '')."""
    name = cgroup.probe_name()
    made: dict[str, pathlib.Path] = {}
    try:
        for kind, (controller, file) in FILES.items():
            folder = roots[controller] / name
            try:
                if controller not in made:
                    folder.mkdir()
                    made[controller] = folder
                _try(kind, folder / file)
                yield kind, ''
            except OSError as e:
                yield kind, f'{controller}/{file}: {e.strerror or e}'
    finally:
        for folder in made.values():
            folder.rmdir()


def _try(kind: str, path: pathlib.Path) -> None:
    """Write a value and read it back.

    :raises OSError: it is not what was written
    """
    if kind in cgroup.SETS:
        text = (path.parent.parent / path.name).read_text().strip()
    elif kind.startswith('io.'):
        text = f'{cgroup.probe_key(kind).device} {cgroup.PROBE_IO}'
    elif kind == 'memory.swap':
        text = str(cgroup.PROBES['memory.max'])
    else:
        text = str(cgroup.PROBES[kind])
    path.write_text(text)
    if path.read_text().strip() != text:
        raise OSError('is not kept')
