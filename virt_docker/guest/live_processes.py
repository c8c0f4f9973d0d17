# SPDX-License-Identifier: Apache-2.0
"""Has a server that runs find the /dev/shm and open files of its flavor.

The engine gives both when it makes a container, and takes no other later.
Nothing of the server's is executed, nor is one of its namespaces entered.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import ctypes
import errno
import os
import pathlib
import re
import resource
from typing import Any

from nova import objects

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud.flavor import process_limits
from nova_vcloud.flavor.process_limits import ProcessLimits
from nova_vcloud.virt_docker.guest import boot_checks
from nova_vcloud.virt_docker.guest import server_files

CGROUPS = '/sys/fs/cgroup'
#: Of the kernel, on all architectures (asm-generic/unistd.h, linux/mount.h).
_FSCONFIG, _FSPICK = 431, 433
_EMPTY_PATH = 8
_SET_STRING, _RECONFIGURE = 1, 7
#: Times that processes are looked for, which may be made meanwhile.
_ROUNDS = 5
_CAP_SYS_RESOURCE = 24  # capabilities(7)


def most_files() -> int:
    """Return how many files this host can let a process have open.

    Without CAP_SYS_RESOURCE, as in some containers, nobody here can have more
    than this process.
    """
    open_files = int(pathlib.Path('/proc/sys/fs/nr_open').read_text())
    if _privileged():
        return open_files
    return min(open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _privileged() -> bool:
    """Tell whether processes of this host may have CAP_SYS_RESOURCE."""
    status = pathlib.Path('/proc/self/status').read_text()
    bounds = int(re.findall(r'^CapBnd:\s*([0-9a-f]+)', status, re.M)[0], 16)
    return bool(bounds >> _CAP_SYS_RESOURCE & 1)


def wanted(instance: objects.Instance, flavor: objects.Flavor,
           most: int, own: bool = True) -> ProcessLimits:
    """Return what a server's flavor and image ask for.

    :param most: open files that this host can let a process have
    :param own: whether the image that it is started from is its own
    :raises InvalidRequest: with the key that is wrong
    """
    return process_limits.parse(flavor.memory_mb, flavor.extra_specs or {},
                                boot_checks.properties(instance, own), most)


def host_config(limits: ProcessLimits) -> dict[str, Any]:
    """Return what the engine is told when it makes a container."""
    soft, hard = limits.nofile
    if not hard:
        return {'ShmSize': limits.shm}
    return {'ShmSize': limits.shm,
            'Ulimits': [{'Name': 'nofile', 'Soft': soft, 'Hard': hard}]}


def made_with(container: Mapping[str, Any]) -> ProcessLimits:
    """Return what a container was made with.

    One of an earlier release has what dockerd had: no known limit of files.
    """
    config = container['HostConfig']
    files = next(((each['Soft'], each['Hard'])
                  for each in config.get('Ulimits') or ()
                  if each['Name'] == 'nofile'), (0, 0))
    return ProcessLimits(config.get('ShmSize') or 0, files)


class LiveProcesses:
    """The servers of this host.

    :param mapped: tells whether they have user namespaces
    """

    def __init__(self, mapped: Callable[[], bool] = lambda: False) -> None:
        self._mapped = mapped
        self._last: dict[str, ProcessLimits] = {}

    def most_files(self, most: int) -> int:
        """Return how many files a process of a server can have open.

        0: nobody here can say. To set a limit of a process in another user
        namespace, of which the owner is not root, takes CAP_SYS_RESOURCE
        (kernel/sys.c, check_prlimit_permission): runc would fail.

        :param most: that this host can let a process have
        """
        return 0 if self._mapped() and not _privileged() else most

    def forget(self, container_id: str) -> None:
        """Forget a container; an unknown one is fine."""
        self._last.pop(container_id, None)

    def started(self, container_id: str) -> None:
        """Note that a container has what it was made with, again."""
        self.forget(container_id)

    def differs(self, container: Mapping[str, Any],
                limits: ProcessLimits) -> bool:
        """Tell whether a server is to have something else than it has."""
        now = self._last.get(container['Id']) or made_with(container)
        return now != limits

    def follow(self, container: Mapping[str, Any],
               limits: ProcessLimits) -> None:
        """Give a server what it is to have; one that is stopped is fine.

        :param container: as it is now
        :raises LimitNotEnforced: with the reason; nothing is changed
        """
        if not container['State']['Running'] \
                or not self.differs(container, limits):
            return
        known = {made_with(container).nofile}
        if container['Id'] in self._last:
            known.add(self._last[container['Id']].nofile)
        try:
            apply(container['State']['Pid'], container['Id'], limits.shm,
                  limits.nofile, sorted(known))
        except OSError as e:
            raise exception.LimitNotEnforced(_reason(e, limits)) from e
        self._last[container['Id']] = limits


def _reason(error: OSError, limits: ProcessLimits) -> str:
    if error.errno == errno.EINVAL:
        return ('the files in /dev/shm of the server need more than '
                f'{limits.shm >> 20} MiB; remove some')
    return f'shared memory and open files: {error}'


@privsep.volume.entrypoint
def apply(pid: int, container_id: str, shm: int, nofile: Sequence[int],
          known: Collection[Sequence[int]]) -> None:
    """Set the size of /dev/shm and how many files processes may have open.

    :param pid: of the first process of the container
    :param shm: bytes
    :param nofile: soft and hard limit; zeros change none
    :param known: such, which are not of a process's own choice
    :raises OSError: EINVAL: more is in use
    """
    with server_files.process(pid) as process:
        groups = process.groups()
        # Its number may be another process's by now, one of the host.
        if container_id not in groups:
            return
        with _shm(process) as folder:
            if folder is not None:
                _resize(folder, shm)
    soft, hard = nofile
    if not hard:
        return
    seen: set[int] = set()
    for _round in range(_ROUNDS):
        found = set(_processes(groups, container_id)) - seen
        for each in found:
            # So may theirs, while others of the server begin and end.
            if _is_of(each, container_id):
                _set_files(each, (soft, hard), [tuple(k) for k in known])
        if not found:
            return
        seen |= found


def _is_of(pid: int, container_id: str) -> bool:
    """Tell whether a process is of a container; none is not."""
    try:
        with server_files.process(pid) as process:
            return container_id in process.groups()
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def _shm(process: server_files.Process) -> Iterator[int | None]:
    """Have /dev/shm of a process; None where it is no tmpfs of its own.
    """
    with contextlib.ExitStack() as fds:
        try:
            above = fds.enter_context(process.folder('dev'))
            folder = fds.enter_context(process.below(above, 'shm'))
            kind = process.check(folder)
        except OSError:
            yield None
            return
        same = os.fstat(above).st_dev == os.fstat(folder).st_dev
        yield None if same or kind != 'tmpfs' else folder


def _resize(folder: int, size: int) -> None:
    """Give a tmpfs another size, where it is mounted.

    :param folder: its top
    :raises OSError: EINVAL: more is in use
    """
    context = _call(_FSPICK, folder, b'', _EMPTY_PATH)
    try:
        _call(_FSCONFIG, context, _SET_STRING, b'size', str(size).encode(), 0)
        _call(_FSCONFIG, context, _RECONFIGURE, None, None, 0)
    finally:
        os.close(context)


def _call(number: int, *words: Any) -> int:
    result = int(ctypes.CDLL(None, use_errno=True).syscall(number, *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _processes(groups: str, container_id: str) -> Iterator[int]:
    """Yield the processes of a container, of all control groups in its own.

    :param groups: of proc_pid_cgroup(5)
    """
    for line in groups.splitlines():
        _number, names, path = line.split(':', 2)
        above, found, _rest = path.partition(container_id)
        if not found or (names and 'pids' not in names.split(',')):
            continue
        name = path[len(above):].split('/')[0]
        top = pathlib.Path(CGROUPS, 'pids' if names else '',
                           above.lstrip('/') + name)
        for file in top.glob('**/cgroup.procs'):
            with contextlib.suppress(OSError):
                yield from map(int, file.read_text().split())


def _set_files(pid: int, nofile: tuple[int, int],
               known: Collection[tuple[int, ...]]) -> None:
    """Set the limit of open files of a process.

    One that it has chosen itself is lowered where it must be, never raised.
    """
    kind = resource.RLIMIT_NOFILE
    with contextlib.suppress(ProcessLookupError):
        soft, hard = resource.prlimit(pid, kind)
        softs, hards = zip(*known, strict=True)
        most = nofile[1] if hard in hards or not all(hards) \
            else min(hard, nofile[1])
        least = nofile[0] if soft in softs or not all(softs) else soft
        try:
            resource.prlimit(pid, kind, (min(least, most), most))
        except PermissionError:
            # Without CAP_SYS_RESOURCE nobody raises a hard limit.
            most = min(hard, most)
            resource.prlimit(pid, kind, (min(least, most), most))
