# SPDX-License-Identifier: Apache-2.0
"""Named network namespaces: made, listed, entered, removed."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import pathlib
import threading
from typing import TypeVar

from oslo_concurrency import processutils
from pyroute2 import netns

FOLDER = pathlib.Path('/run/netns')  # where iproute2 keeps them

_T = TypeVar('_T')


def path(name: str) -> str:
    """Return the file that is the namespace ``name``."""
    return str(FOLDER / name)


def exists(name: str) -> bool:
    """Tell whether ``name`` is a namespace, not just a file of that name.

    A process killed while it made one leaves an empty file behind.
    """
    try:
        found = os.stat(FOLDER / name)
    except FileNotFoundError:
        return False
    return found.st_dev == os.stat('/proc/self/ns/net').st_dev


def ensure(name: str) -> bool:
    """Make a namespace unless it is there; tell whether it was made."""
    if exists(name):
        return False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(FOLDER / name)
    # Not by pyroute2: it forks, which a process with threads must not.
    processutils.execute('ip', 'netns', 'add', name)
    return True


def remove(name: str) -> None:
    """Remove a namespace with all that is in it; absent is fine."""
    with contextlib.suppress(FileNotFoundError):
        netns.remove(path(name))


def names(prefix: str) -> set[str]:
    """Return the namespaces whose names begin with ``prefix``."""
    with contextlib.suppress(FileNotFoundError):
        return {n for n in os.listdir(FOLDER) if n.startswith(prefix)}
    return set()


def run_in(name: str, work: Callable[[], _T]) -> _T:
    """Run ``work`` inside a namespace; '' is the one we are in.

    In a thread that ends afterwards: a thread that entered a namespace is
    lost for anything else, and so is every socket opened in it.

    :raises FileNotFoundError: no such namespace
    """
    if not name:
        return work()
    result: list[_T] = []
    error: list[BaseException] = []

    def enter() -> None:
        try:
            netns.setns(path(name), flags=0)
            result.append(work())
        except BaseException as e:  # noqa: BLE001 - raised again below
            error.append(e)

    if not exists(name):
        raise FileNotFoundError(f'network namespace {name}')
    thread = threading.Thread(target=enter, name=f'netns-{name}')
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]
