# SPDX-License-Identifier: Apache-2.0
"""What a host has to do with how a server is started: files, devices."""

from __future__ import annotations

from collections.abc import Mapping
import io
import os
import pathlib
import stat
import tarfile
from typing import Any

from nova import objects
from nova.compute import utils
from nova.compute import vm_states

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.image import image_properties
from nova_vcloud.virt_docker.image import engine_faults

MOUNTS = '/proc/self/mounts'
CGROUPS = '/sys/fs/cgroup'
_OPEN = stat.S_IROTH | stat.S_IWOTH
#: Of system metadata that Nova copies from an image.
PREFIX = 'image_'
# Go's FileMode (io/fs), by which the engine says what a path is.
GO_DIRECTORY = 1 << 31
GO_LINK = 1 << 27


def properties(instance: objects.Instance, own: bool) -> dict[str, str]:
    """Return the properties of a server's image, as Nova keeps them.

    :param own: whether the server is started from it, not from another as
        when it is rescued
    """
    if not own:
        return {}
    return {key.removeprefix(PREFIX): str(value)
            for key, value in instance.system_metadata.items()
            if key.startswith(PREFIX)}


def check_image(instance: objects.Instance, anew: bool = False) -> None:
    """Refuse an image that says what cannot be.

    Only where a server is made, or made anew: one that exists, and comes
    back from a shelf or a host that is lost, goes on with what its image
    said when there was no such check.

    :param anew: whether a server that exists is rebuilt
    :raises InvalidRequest: with the name of the property
    """
    if anew or not instance.obj_attr_is_set('vm_state') \
            or instance.vm_state == vm_states.BUILDING:
        image_properties.check(properties(instance, own=True))


def stop_timeout(instance: objects.Instance, default: int) -> int:
    """Return the seconds that a server has to end by itself.

    Nova's own image property ``os_shutdown_timeout`` says so.
    """
    return int(utils.get_value_from_system_metadata(
        instance, f'{PREFIX}os_shutdown_timeout', int, default))


def check_devices(body: Mapping[str, Any], mapped: bool = False) -> None:
    """Refuse a container that would have a device this host does not have.

    :param body: as of ``POST /containers/create``
    :param mapped: whether it has a user namespace, and so is on the host a
        user like any other
    :raises InvalidRequest: with the path
    """
    for each in body['HostConfig']['Devices']:
        path = each['PathOnHost']
        try:
            mode = os.stat(path).st_mode
        except OSError as e:
            raise exception.InvalidRequest(
                f'vcloud:devices: {path}: {e.strerror}') from e
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            raise exception.InvalidRequest(
                f'vcloud:devices: {path} is not a device')
        if mapped and mode & _OPEN != _OPEN:
            raise exception.InvalidRequest(
                f'vcloud:devices: {path} is closed to user namespaces, which '
                'servers have here: only root and its group may use it')


def check_init(body: Mapping[str, Any], mounts: str = MOUNTS) -> None:
    """Refuse systemd where it cannot have control groups of its own.

    :param body: as of ``POST /containers/create``
    :param mounts: path of what is mounted, as of proc_mounts(5)
    :raises InvalidRequest: with what the host lacks
    """
    if '/run' not in body['HostConfig'].get('Tmpfs', {}):
        return
    with open(mounts, encoding='utf-8', errors='replace') as f:
        rows = [line.split()[1:4] for line in f if line.strip()]
    options = next((options.split(',') for point, kind, options in rows
                    if (point, kind) == (CGROUPS, 'cgroup2')), [])
    # With it the files of a namespace's own root, the server's limits, are
    # not to be written from within (cgroup-v2.rst, "Model of Delegation").
    if 'nsdelegate' not in options:
        raise exception.InvalidRequest(
            f'vcloud:init=systemd needs a host with cgroup v2 at {CGROUPS}, '
            'mounted with nsdelegate')


def fill(engine: Engine, name: str, seed: bytes) -> None:
    """Put the files of a new server into its container.

    The engine unpacks them in a root changed to the container's: links in an
    image lead nowhere else. What is in a file's place is replaced; what
    cannot be a directory is the image's fault.

    :param seed: a tar; b'' for nothing
    :raises InvalidRequest: with the path, or the engine's words
    """
    if not seed:
        return
    try:
        engine.put_archive(name, '/', seed)
    except exception.EngineError as e:
        if engine_faults.engines_own(e):
            raise
        where = _obstacle(engine, name, seed)
        if not where and isinstance(e, exception.ContainerNotFound):
            raise
        raise exception.InvalidRequest(
            where or f'the image cannot take the files of a new server: {e}'
        ) from e


def _obstacle(engine: Engine, name: str, seed: bytes) -> str:
    """Return why a file of a new server has no place; '' when it has one."""
    with tarfile.open(fileobj=io.BytesIO(seed)) as packed:
        paths = [f'/{member.name}' for member in packed]
    seen: set[str] = set()
    for path in paths:
        for above in reversed(pathlib.PurePosixPath(path).parents):
            folder = str(above)
            if folder in seen or folder == '/':
                continue
            seen.add(folder)
            what = _not_a_folder(engine, name, folder)
            if what:
                return (f'the image cannot take {path} of a new server: '
                        f'{folder} {what}')
    return ''


def _not_a_folder(engine: Engine, name: str, path: str) -> str:
    """Return what is wrong with a path as a directory; '' for nothing."""
    try:
        found = engine.path(name, path)
        if found is None or found['mode'] & GO_DIRECTORY:
            return ''
        if not found['mode'] & GO_LINK:
            return 'is not a directory'
        if engine.path(name, f'{path}/.') is None:
            return (f'is a link to {found["linkTarget"]}, which is not a '
                    'directory of the image')
    except exception.EngineUnavailable:
        raise
    except exception.EngineError:
        # All that 20.10 says of some links.
        return 'is a link that cannot be followed'
    return ''
