# SPDX-License-Identifier: Apache-2.0
"""Find, measure and end the processes of one mini cloud.

Every process that supervisord starts inherits MINICLOUD_MEMBER=<home>; that
mark, never a program's name, says that a process is ours.
"""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import os
import pathlib
import re
import signal
import time

MEMBER = 'MINICLOUD_MEMBER'
SERVICE = 'MINICLOUD_SERVICE'
PROC = pathlib.Path('/proc')
# sshd writes its title over its environment, and so over the mark.
SSHD_TITLE = re.compile(r'sshd: .* -f (.+)/etc/ssh/([^/ ]+)\.conf\b')


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of the mini cloud."""

    pid: int
    service: str
    executable: str
    start: int

    @property
    def is_shim(self) -> bool:
        """Tell whether this keeps a container alive without its dockerd."""
        return self.executable.startswith('containerd-shim')


def _environ(pid: int, proc: pathlib.Path) -> dict[str, str]:
    """Return the environment that a process was started with."""
    raw = (proc / str(pid) / 'environ').read_bytes()
    pairs = (item.partition(b'=') for item in raw.split(b'\0') if item)
    return {os.fsdecode(k): os.fsdecode(v) for k, _, v in pairs}


def _mark(pid: int, proc: pathlib.Path) -> dict[str, str]:
    """Return what marks a process; of an sshd its title says it."""
    environ = _environ(pid, proc)
    if MEMBER not in environ:
        title = os.fsdecode((proc / str(pid) / 'cmdline').read_bytes())
        found = SSHD_TITLE.match(title)
        if found:
            return {MEMBER: found[1], SERVICE: f'sshd-{found[2]}'}
    return environ


def _start(pid: int, proc: pathlib.Path) -> int:
    """Return the start time, in clock ticks, that tells pids apart."""
    stat = (proc / str(pid) / 'stat').read_text()
    fields = stat.rpartition(')')[2].split()
    if fields[0] == 'Z':
        raise ProcessLookupError(f'{pid} is a zombie')
    return int(fields[19])


def _inspect(pid: int, home: str, proc: pathlib.Path) -> Process | None:
    """Return the process if it is of the cloud in ``home``, else None."""
    try:
        environ = _mark(pid, proc)
        if environ.get(MEMBER) != home:
            return None
        executable = pathlib.Path(os.readlink(proc / str(pid) / 'exe')).name
        return Process(
            pid, environ.get(SERVICE, '-'), executable, _start(pid, proc)
        )
    except OSError:
        # It ended while we looked, or it is a kernel thread.
        return None


def members(
    home: pathlib.Path, proc: pathlib.Path = PROC
) -> Iterator[Process]:
    """Yield the live processes of the cloud whose home this is."""
    for entry in proc.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            found = _inspect(int(entry.name), str(home), proc)
            if found is not None:
                yield found


def alive(process: Process, proc: pathlib.Path = PROC) -> bool:
    """Tell whether this very process, not a reuse of its pid, lives."""
    try:
        return _start(process.pid, proc) == process.start
    except OSError:
        return False


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        if alive(process):
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def _await_end(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Return those that still live after at most ``seconds``."""
    deadline = time.monotonic() + seconds
    left = [p for p in processes if alive(p)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [p for p in left if alive(p)]
    return left


def kill(processes: Iterable[Process]) -> list[Process]:
    """Kill processes at once; return those that survived, if any."""
    targets = list(processes)
    _signal(targets, signal.SIGKILL)
    return _await_end(targets, 5.0)


def end(processes: Iterable[Process], grace: float = 10.0) -> list[Process]:
    """End processes: TERM, then KILL after ``grace`` seconds.

    :returns: those that survived even that, normally none.
    """
    targets = list(processes)
    _signal(targets, signal.SIGTERM)
    return kill(_await_end(targets, grace))


def pss_bytes(pid: int, proc: pathlib.Path = PROC) -> int:
    """Return the proportional set size of a process; 0 if it is gone."""
    try:
        text = (proc / str(pid) / 'smaps_rollup').read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith('Pss:'):
            return int(line.split()[1]) * 1024
    return 0


def children(
    roots: Collection[int], proc: pathlib.Path = PROC
) -> dict[int, list[int]]:
    """Return all descendants of each root pid."""
    parents: dict[int, int] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / 'stat').read_text()
            except OSError:
                continue
            fields = stat.rpartition(')')[2].split()
            parents[int(entry.name)] = int(fields[1])
    found: dict[int, list[int]] = {root: [] for root in roots}
    for pid in parents:
        ancestor = parents.get(pid, 0)
        while ancestor not in found and ancestor > 0:
            ancestor = parents.get(ancestor, 0)
        if ancestor in found:
            found[ancestor].append(pid)
    return found
