# SPDX-License-Identifier: Apache-2.0
"""Measures how much of the host is in use, for the scheduler."""

from __future__ import annotations

from collections.abc import Iterable
import pathlib
import time

from nova_vcloud import host_stats

LEAST = 5.0  # seconds; shorter windows say more of the audit itself
_IDLE = (3, 4)  # columns of /proc/stat: idle, iowait (proc_stat(5))
_GUEST = 8  # from here on what is counted in other columns, too


class Meter:
    """Measures from one look to the next; for one thread.

    :param cpus: that servers may have
    :param proc: where Linux tells
    """

    def __init__(self, cpus: Iterable[int], proc: str = '/proc') -> None:
        self._names = {f'cpu{number}' for number in cpus}
        self._proc = pathlib.Path(proc)
        self._last = self._read()
        self._load: host_stats.Load | None = None

    def look(self, servers: int, memory: float) -> host_stats.Load | None:
        """Return the load since the last look; None when it is too soon.

        :param servers: that are here now
        :param memory: share of memory in use, 0 to 1
        """
        moment, busy, total = self._read()
        if moment - self._last[0] < LEAST:
            return self._load
        spent = max(total - self._last[2], 1)
        cpu = min(max((busy - self._last[1]) / spent, 0.0), 1.0)
        self._last = moment, busy, total
        self._load = host_stats.Load(cpu, memory, servers, time.time())
        return self._load

    def _read(self) -> tuple[float, int, int]:
        """Return (time in s, busy, total), the latter in clock ticks."""
        busy = total = 0
        for line in (self._proc / 'stat').read_text().splitlines():
            name, *texts = line.split()
            if name in self._names:
                ticks = [int(text) for text in texts[:_GUEST]]
                total += sum(ticks)
                busy += sum(ticks) - sum(ticks[i] for i in _IDLE)
        return time.monotonic(), busy, total
