# SPDX-License-Identifier: Apache-2.0
"""Moments at which no process of a container does anything.

The engine's pause and unpause take some ten times as long, each with a
process of runc. See freezer-subsystem.rst and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time

from nova_vcloud import privsep

CGROUPS = '/sys/fs/cgroup'
PATIENCE = 1.0  # seconds until what does not come to rest goes on
_STEP = 0.0005


@dataclasses.dataclass(frozen=True)
class _Freezer:
    """The files that freeze one container.

    :ivar control: takes one of the next two
    :ivar state: has the line ``still`` when all have come to rest
    """

    control: pathlib.Path
    freeze: str
    thaw: str
    state: pathlib.Path
    still: str

    def moment(self) -> float | None:
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                # Again and again: of the first version, one write may miss
                # a process that is just being made.
                self.control.write_text(self.freeze)
                if self.still in self.state.read_text().splitlines():
                    return time.time()
                time.sleep(_STEP)
        finally:
            self.control.write_text(self.thaw)
        return None


@privsep.disk.entrypoint
def still_moment(container_id: str, pid: int,
                 root: str = CGROUPS) -> float | None:
    """Freeze a container that is not frozen, and let it go on at once.

    A system call that is under way ends first, or has yet to begin.

    :param pid: of one of its processes
    :returns: Unix time of when all stood still; None when that cannot be had
        here, or not soon
    """
    try:
        # A server may name groups of its own by any bytes.
        memberships = pathlib.Path(f'/proc/{pid}/cgroup').read_text(
            encoding='utf-8', errors='surrogateescape')
        found = _of(memberships, container_id, pathlib.Path(root))
        return found.moment() if found else None
    except OSError:  # it has ended, or this host has it elsewhere
        return None


def _of(memberships: str, container_id: str,
        root: pathlib.Path) -> _Freezer | None:
    """Return what freezes a container.

    :param memberships: /proc/PID/cgroup, cgroups(7)
    """
    paths = {controllers: path for _number, controllers, path in (
        line.split(':', 2) for line in memberships.splitlines())}
    for controllers in ('freezer', ''):
        before, name, rest = paths.get(controllers, '').partition(container_id)
        if not name:
            continue
        # systemd in a container makes groups below that of the container.
        group = f'{before}{name}{rest.partition("/")[0]}'.lstrip('/')
        if controllers:
            file = root / controllers / group / 'freezer.state'
            return _Freezer(file, 'FROZEN', 'THAWED', file, 'FROZEN')
        return _Freezer(root / group / 'cgroup.freeze', '1', '0',
                        root / group / 'cgroup.events', 'frozen 1')
    return None
