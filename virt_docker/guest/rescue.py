# SPDX-License-Identifier: Apache-2.0
"""A server that is run from another image, with its own disk beside it."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

from nova import context as nova_context
from nova import objects

from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.rootfs import overlay

#: Where the rescue system sees the disk of the server.
MOUNT_POINT = '/mnt'


class Rescue:
    """Servers of this host that are rescued.

    :param folder: where their disks are mounted on the host
    """

    def __init__(self, engine: Engine, servers: containers.Containers,
                 folder: str) -> None:
        self._engine = engine
        self._servers = servers
        self._folder = pathlib.Path(folder)

    def begin(self, context: nova_context.RequestContext,
              instance: objects.Instance, image_meta: objects.ImageMeta,
              network_info: Any, seed: bytes) -> None:
        """Start the rescue system in the place of a server that is stopped.

        :raises MoveFailed: the engine's storage driver has no disk to mount
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self.release, instance.uuid)
            self._servers.replace(
                context, instance, image_meta.id, image_meta, network_info,
                seed, 0, lambda old: [
                    f'{self._mount(instance.uuid, old)}:{MOUNT_POINT}'])
            undo.pop_all()
        crash_points.reached('rescued')

    def end(self, instance: objects.Instance, network_info: Any,
            timeout: int) -> None:
        """Start the server again, with what was done to its disk.

        :param timeout: seconds between the stop signal and SIGKILL
        """
        self._servers.stop(instance.uuid, timeout)
        crash_points.reached('unrescue')
        self.release(instance.uuid)
        self._servers.restore(instance, network_info, power_on=True)
        crash_points.reached('unrescued')

    def prepare(self, uuid: str) -> None:
        """Mount a disk again that was, before the host was rebooted."""
        if self._path(uuid).is_dir():
            self._mount(uuid, self._engine.container(
                container_spec.parked_name(uuid)))

    def release(self, uuid: str) -> None:
        """Unmount the disk of a server; one that is not mounted is fine."""
        path = self._path(uuid)
        if path.is_dir():
            overlay.unmount(str(path))
            path.rmdir()

    def protect(self) -> None:
        """Keep users of the host from disks that are mounted, from now on.

        What an earlier release has made all of them could enter.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        for path in self._folder.iterdir():
            overlay.guard(str(path))

    def _path(self, uuid: str) -> pathlib.Path:
        return self._folder / uuid

    def _mount(self, uuid: str, container: dict[str, Any]) -> str:
        path = self._path(uuid)
        self.protect()
        path.mkdir(mode=0o700, exist_ok=True)
        if not os.path.ismount(path):
            found = overlay.graph(self._servers.whole(container))
            # On a disk that is full the kernel would mount it read-only.
            with self._servers.room(container):
                overlay.mount(found, str(path))
        return str(path)
