# SPDX-License-Identifier: Apache-2.0
"""Links by which the OCI runtime finds the namespace of a container."""

from __future__ import annotations

import contextlib
import os
import re

from nova_vcloud import privsep

#: What follows a container's id in the name of the file with its hostname.
HOSTNAME = '.hostname'
#: Of the link to a user namespace, behind the container's id.
USER = '.user'
# The engine's ids; anything else could leave the directory.
_CONTAINER_ID = re.compile(r'[0-9a-f]{64}')


@privsep.net.entrypoint
def join(directory: str, container_id: str, namespace: str,
         user: str = '') -> None:
    """Link a container to the path of a namespace, at once or not at all.

    :param user: path of a user namespace; '' for the one of the engine
    :raises ValueError: not the id of a container
    """
    link = _link(directory, container_id)
    _make(directory)
    if user:
        _point(link + USER, user)
    _point(link, namespace)


def _point(link: str, namespace: str) -> None:
    with contextlib.suppress(OSError):
        if os.readlink(link) == namespace:
            return
    new = f'{link}.new'
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(namespace, new)
    os.replace(new, link)


@privsep.net.entrypoint
def set_hostname(directory: str, container_id: str, hostname: str) -> None:
    """Have the runtime give a container another name than it was made with.

    :param hostname: '' for the one that it was made with
    :raises ValueError: not the id of a container
    """
    path = _link(directory, container_id) + HOSTNAME
    if not hostname:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    with open(f'{path}.new', 'w', encoding='utf-8') as file:
        file.write(hostname)
    os.replace(f'{path}.new', path)


@privsep.net.entrypoint
def forget(directory: str, container_id: str) -> None:
    """Remove the links and the name of a container; absent ones are fine."""
    link = _link(directory, container_id)
    for path in (link, link + HOSTNAME, link + USER):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


@privsep.net.entrypoint
def forget_namespace(directory: str, namespace: str) -> None:
    """Remove every link to a namespace."""
    try:
        links = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for link in links:
        with contextlib.suppress(OSError):
            if os.readlink(link.path) == namespace:
                os.unlink(link.path)
                os.unlink(link.path + USER)


def _make(directory: str) -> None:
    """Make a directory and those above it, which only root may change.

    Not os.makedirs(), which leaves the mode of those above to the umask,
    and privsep's daemon has none.
    """
    if not os.path.isdir(directory):
        _make(os.path.dirname(directory))
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, mode=0o755)


def _link(directory: str, container_id: str) -> str:
    if not _CONTAINER_ID.fullmatch(container_id):
        raise ValueError(f'not the id of a container: {container_id!r}')
    return os.path.join(directory, container_id)
