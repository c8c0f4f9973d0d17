# SPDX-License-Identifier: Apache-2.0
"""What the two versions of cgroups have in common, and which one is here."""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import os
import pathlib
import uuid

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base

SETS = ('cpu.cpus', 'cpu.mems')
NO_SUM = 'cgroups limit reads and writes, not their sum'
#: What the self-test sets.
PROBES = {
    'cpu.shares': 512, 'cpu.period': 50_000, 'cpu.quota': 20_000,
    'cpu.burst': 1000, 'memory.max': 64 << 20, 'memory.swap': 0,
    'memory.soft': 32 << 20, 'pids.max': 100}
PROBE_IO = 1 << 20
PAGE = os.sysconf('SC_PAGE_SIZE')


class CgroupBackend(base.Backend):
    """A backend that knows a guest's cgroup before and while it is there."""

    @abc.abstractmethod
    def start_lines(self, guest: Guest, wanted: limits.Limits
                    ) -> list[tuple[str, str]]:
        """Return (file, text) that bring a fresh cgroup to limits.

        In an order that is safe; no file is touched. UNLIMITED is what a
        fresh cgroup has.
        """

    @abc.abstractmethod
    def use(self, guest: Guest) -> Mapping[str, int]:
        """Return what a guest uses now; {} when it is stopped.

        :returns: ``memory``: bytes that cannot be reclaimed without swap,
            that is all but pages of files on disks; ``pids``: processes and
            threads
        """

    @abc.abstractmethod
    def events(self, guest: Guest) -> Mapping[str, int]:
        """Return how often a guest met its limits; {} when it is stopped.

        :returns: ``oom_kill``: processes killed for want of memory;
            ``fork_refused``: processes that could not be made
        """


def supported(found: Mapping[str, str],
              remarks: Mapping[str, str]) -> base.Support:
    """Return a self-test's result.

    :param found: {kind: why it cannot be had, '' if it can}
    """
    missing = {kind: reason for kind, reason in found.items() if reason}
    missing |= {'io.total_bps': NO_SUM, 'io.total_iops': NO_SUM}
    enforced = frozenset(k for k, reason in found.items() if not reason)
    return base.Support(enforced, missing, {
        kind: remark for kind, remark in remarks.items()
        if kind in enforced})


def probe_name() -> str:
    """Return the name of a cgroup for a self-test.

    Process ids alone would be the same in two containers of one host.
    """
    return f'nova-vcloud-probe-{os.getpid()}-{uuid.uuid4().hex[:8]}'


@contextlib.contextmanager
def unless_gone() -> Iterator[None]:
    """Read from a cgroup that may not be there, or go meanwhile.

    :raises LimitNotEnforced: another reason keeps it from being read
    """
    try:
        yield
    except OSError as e:
        # ENODEV: it went between opening a file and reading it.
        if e.errno not in (errno.ENOENT, errno.ENODEV):
            raise exception.LimitNotEnforced(
                f'{e.filename}: {e.strerror}') from e


def probe_key(kind: str) -> limits.Key:
    """Return a key of some kind; of a disk of this machine for io."""
    resource, _, field = kind.partition('.')
    if resource != 'io':
        return limits.Key(resource, field)
    disks = sorted(pathlib.Path('/sys/block').glob('*/dev'))
    if not disks:
        raise OSError('the host has no disk')
    return limits.Key(resource, field, disks[0].read_text().strip())


def whole_pages(number: int) -> int:
    """Return the bytes that the kernel makes of a number of them."""
    return number // PAGE * PAGE


def write(path: pathlib.Path, key: limits.Key, text: str,
          use: Callable[[], Mapping[str, int]]) -> None:
    """Write one file of a cgroup.

    :param use: :meth:`CgroupBackend.use` of its guest
    :raises LimitNotEnforced: with the kernel's reason
    """
    try:
        path.write_text(text)
    except OSError as e:
        used = ''
        if key.resource == 'memory':
            used = f'; {use().get("memory", 0)} bytes are in use'
        raise exception.LimitNotEnforced(
            f'{key}={text.strip()}: {e.strerror} ({path.name}){used}') from e


def use(current: str, stat: str, prefix: str, pids: str) -> dict[str, int]:
    """Return :meth:`CgroupBackend.use` from the texts of files.

    Files on a tmpfs count: without swap they have no other home, and
    ``inactive_file`` and ``active_file`` leave them out.

    :param prefix: of the words in ``stat``
    """
    rows = dict(row.split() for row in stat.splitlines())
    files = sum(int(rows[f'{prefix}{age}_file'])
                for age in ('inactive', 'active'))
    return {'memory': int(current) - files, 'pids': int(pids)}


def counted(oom: str, pids: str) -> dict[str, int]:
    """Return :meth:`CgroupBackend.events` from the texts of files."""
    found = {}
    for name, word, text in (('oom_kill', 'oom_kill', oom),
                             ('fork_refused', 'max', pids)):
        rows = dict(row.split() for row in text.splitlines())
        found[name] = int(rows.get(word, 0))
    return found
