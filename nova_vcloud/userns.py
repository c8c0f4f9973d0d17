# SPDX-License-Identifier: Apache-2.0
"""User namespaces of servers, and how ids inside are ids of the host.

The engine decides of the ids (its option userns-remap); the namespaces are
made here, so that one exists before anything of the server runs, and the
network namespace belongs to it (user_namespaces(7)).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import ctypes
import fcntl
import os
import re
import struct
import subprocess
from typing import IO
from typing import Any
from typing import NamedTuple
from typing import cast

DIRECTORY = '/run/nova-vcloud/userns'
SUBUID, SUBGID = '/etc/subuid', '/etc/subgid'
_GET_OWNER = 0xB704  # linux/nsfs.h: NS_GET_OWNER_UID
_MS_BIND = 4096
_MNT_DETACH = 2
_NAMED = re.compile(r'/(\d+)\.(\d+)/?$')

Range = Sequence[int]  # first id inside, first id outside, how many


class IdMap(NamedTuple):
    """Ids inside and outside, as /proc/PID/uid_map and gid_map have them."""

    uids: Sequence[Range]
    gids: Sequence[Range]

    @property
    def root(self) -> tuple[int, int]:
        """Uid and gid outside of who is root inside."""
        return _outside(self.uids), _outside(self.gids)

    def turned(self) -> IdMap:
        """Return the map the other way round."""
        return IdMap(*(tuple((outside, inside, count)
                             for inside, outside, count in ranges)
                       for ranges in self))


def _outside(ranges: Iterable[Range]) -> int:
    return next(outside - inside for inside, outside, _count in ranges
                if inside == 0)


def of_engine(info: Mapping[str, Any], subuid: str = SUBUID,
              subgid: str = SUBGID) -> IdMap | None:
    """Return the ids of an engine's containers; None: those of the host.

    It keeps what belongs to a map in a directory with its first ids as a
    name, and takes all ranges of one user (moby, idtools).

    :param info: ``GET /info`` of the engine
    """
    if not is_on(info):
        return None
    found = _NAMED.search(info['DockerRootDir'])
    first = map(int, found.groups()) if found else (0, 0)
    return IdMap(*(_ranges(path, number) for path, number in zip(
        (subuid, subgid), first, strict=True)))


def is_on(info: Mapping[str, Any]) -> bool:
    """Tell whether an engine's containers have user namespaces."""
    return any(each.split(',')[0] == 'name=userns'
               for each in info.get('SecurityOptions') or ())


def _ranges(path: str, first: int) -> tuple[Range, ...]:
    """Return the ranges of the user whose first begins with an id."""
    users: dict[str, list[tuple[int, int]]] = {}
    with open(path, encoding='utf-8') as f:
        for line in f:
            user, _, rest = line.strip().partition(':')
            numbers = rest.split(':')
            if len(numbers) == 2 and all(map(str.isdigit, numbers)):
                users.setdefault(user, []).append(
                    (int(numbers[0]), int(numbers[1])))
    for ranges in users.values():
        if ranges[0][0] == first:
            found, inside = [], 0
            for outside, count in ranges:
                found.append((inside, outside, count))
                inside += count
            return tuple(found)
    raise LookupError(f'{path} has no range that begins with {first}')


# Namespaces

def path(name: str) -> str:
    """Return where the user namespace of a server is bound."""
    return os.path.join(DIRECTORY, name)


def exists(name: str) -> bool:
    """Tell whether the name stands for a user namespace."""
    return os.path.ismount(path(name))


@contextlib.contextmanager
def process(ids: IdMap, words: Sequence[str] = (),
            net: bool = False) -> Iterator[int]:
    """Have a process in a user namespace of its own; yield its number.

    :param words: a program that runs what follows, such as setpriv
    :param net: whether it has a network namespace too
    :raises OSError: the kernel refused, or a program is not installed
    """
    command = [*words, 'unshare', '--user', *(['--net'] if net else []),
               'cat']
    with subprocess.Popen(command, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          bufsize=0) as child:
        asked, answers, errors = (cast('IO[bytes]', each) for each in (
            child.stdin, child.stdout, child.stderr))
        with contextlib.suppress(BrokenPipeError):
            asked.write(b'\n')
        # It answers when it is in the namespace.
        if not answers.read(1):
            said = errors.read().decode(errors='replace').strip()
            raise OSError(f'no user namespace can be made: {said}')
        for file, ranges in (('uid_map', ids.uids), ('gid_map', ids.gids)):
            with open(f'/proc/{child.pid}/{file}', 'w',
                      encoding='ascii') as f:
                f.write(''.join(f'{" ".join(map(str, each))}\n'
                                for each in ranges))
        yield child.pid


def as_owner(ids: IdMap) -> list[str]:
    """Return a program that lets a namespace be of a user of its own.

    The kernel counts what a namespace has (inotify, say) for its owner too,
    against the host's limits (namespaces(7), /proc/sys/user): were all of
    root, one server could take everything that root may have.
    """
    taken = {owner(os.path.join(DIRECTORY, name)) for name in _names()}
    uid = next((uid for _inside, outside, count in ids.uids
                for uid in range(outside, outside + count)
                if uid not in taken), ids.root[0])
    return ['setpriv', f'--reuid={uid}', f'--regid={ids.root[1]}',
            '--clear-groups', '--inh-caps=+sys_admin',
            '--ambient-caps=+sys_admin']


def _names() -> list[str]:
    try:
        return os.listdir(DIRECTORY)
    except FileNotFoundError:
        return []


def owner(where: str) -> int:
    """Return who owns a user namespace, -1 where none is bound."""
    number = bytearray(4)
    try:
        file = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.ioctl(file, _GET_OWNER, number)
    except OSError:
        return -1
    finally:
        os.close(file)
    return int(struct.unpack('I', number)[0])


def keep(name: str, pid: int) -> None:
    """Give the user namespace of a process a name.

    :raises OSError: the kernel refused
    """
    os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
    with open(path(name), 'a', encoding='ascii'):
        pass
    _check(_libc().mount(f'/proc/{pid}/ns/user'.encode(), path(name).encode(),
                         None, _MS_BIND, None))


def forget(name: str) -> None:
    """Drop the name of a user namespace; an absent one is fine."""
    if exists(name):
        _check(_libc().umount2(path(name).encode(), _MNT_DETACH))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path(name))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
