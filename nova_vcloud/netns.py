# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, and threads that work in them.

Names are kept as `ip netns` keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from concurrent import futures
import contextlib
import ctypes
import errno
import fcntl
import functools
import os
from typing import Any
from typing import TypeVar

from pyroute2 import IPRoute
from pyroute2 import netns

from nova_vcloud import userns

DIRECTORY = '/run/netns'
OWN = '/proc/self/ns/net'  # of the main thread, which never moves
_SIOCGSKNS = 0x894C  # linux/sockios.h: the namespace of a socket

_F = TypeVar('_F', bound=Callable[..., Any])


def path(name: str) -> str:
    """Return where a namespace is bound; '' is this process's own."""
    return os.path.join(DIRECTORY, name) if name else OWN


def exists(name: str) -> bool:
    """Tell whether the name stands for a namespace.

    A file that is not one was left by a creation that was cut short.
    """
    try:
        return os.stat(path(name)).st_dev == os.stat(OWN).st_dev
    except FileNotFoundError:
        return False


def names() -> list[str]:
    """Return all names, of whomever."""
    try:
        return os.listdir(DIRECTORY)
    except FileNotFoundError:
        return []


def own_thread(function: _F) -> _F:
    """Run each call of ``function`` in a thread that ends with it.

    setns() and unshare() move a thread for good: one of a pool would do
    somebody else's next job in the wrong namespace.
    """
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(function, *args, **kwargs).result()
    return wrapper  # type: ignore[return-value]


def isolate() -> None:
    """Move the calling thread into a new namespace that has no name.

    It ends with the thread; for threads of own_thread() only.

    :raises OSError: the kernel refused
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(netns.CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def create(name: str, ids: userns.IdMap | None = None) -> None:
    """Make a namespace and move the calling thread into it.

    For threads of own_thread() only.

    :param ids: of the user namespace that is made with it, which it belongs
        to; None: it belongs to the host's
    :raises OSError: the kernel refused
    """
    # With its mode: privsep's daemon has no umask.
    os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
    if ids is None:
        isolate()
    with _lock():
        if not exists(name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path(name))
        # Not netns.create(): it forks, which a process with threads must
        # not, and 'self' would be the namespace of the main thread.
        if ids is None:
            netns.attach(path(name), 'thread-self')
            return
        userns.forget(name)
        with userns.process(ids, userns.as_owner(ids), net=True) as pid:
            userns.keep(name, pid)
            netns.attach(path(name), pid)
    enter(name)


def remove(name: str) -> None:
    """Drop the name, and its user namespace's; an absent one is fine.

    The namespace itself lives on for as long as a process is in it.
    """
    with contextlib.suppress(FileNotFoundError):
        netns.remove(path(name))
    userns.forget(name)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Exclude `ip netns add`, which takes the same lock.

    The first one to come makes DIRECTORY a shared mount; two at once would
    mount it twice and hide each other's namespaces.
    """
    directory = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def enter(name: str) -> None:
    """Move the calling thread, one of own_thread()'s, for good.

    :raises FileNotFoundError: there is no such namespace
    """
    with opened(name) as fd:
        netns.setns(fd)


@contextlib.contextmanager
def opened(name: str) -> Iterator[int]:
    """Have a file descriptor of a namespace.

    :raises FileNotFoundError: there is no such namespace
    """
    fd = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def netlink(name: str) -> Iterator[IPRoute]:
    """Have a netlink socket in a namespace; moves the calling thread.

    pyroute2's NetNS(name) would fork, and take 8 ms where this takes 0.6.

    :raises FileNotFoundError: there is no such namespace
    """
    with opened(name) as wanted:
        netns.setns(wanted)
        with IPRoute() as socket:
            _check(socket, wanted)
            yield socket


def _check(socket: IPRoute, wanted: int) -> None:
    """Refuse a socket that would change another namespace.

    pyroute2 opens a socket for each thread that uses an object; used from
    the wrong thread it would silently configure the host.
    """
    actual = fcntl.ioctl(socket.fileno(), _SIOCGSKNS)
    try:
        if not os.path.sameopenfile(actual, wanted):
            raise OSError(errno.EXDEV,
                          'netlink socket is in another network namespace')
    finally:
        os.close(actual)
