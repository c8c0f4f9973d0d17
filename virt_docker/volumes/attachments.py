# SPDX-License-Identifier: Apache-2.0
"""Volumes that servers of this host have: each step of one is undone or done.

What a server has is written down before it is connected, so that a process
which dies in between leaves nothing that nobody knows of.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import os
import re
from typing import Any
from typing import Protocol

from oslo_concurrency import lockutils
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud import json_documents
from nova_vcloud.virt_docker.volumes import connections
from nova_vcloud.virt_docker.volumes import container_view
from nova_vcloud.virt_docker.volumes import counters
from nova_vcloud.virt_docker.volumes import filesystems
from nova_vcloud.virt_docker.volumes import loops
from nova_vcloud.virt_docker.volumes import nodes

LOG = log.getLogger(__name__)

DEVICE, FILESYSTEM = 'device', 'filesystem'
# Names of disks, so that no volume is called /dev/null.
_NAME = re.compile(r'(?:/dev/)?((?:[shv]|xv)d[a-z]{1,2})')

Find = Callable[[str], container_view.Guest | None]


class Appearance(Protocol):
    """How a guest sees a volume."""

    def check(self, uuid: str, guest: container_view.Guest | None) -> None:
        """Refuse a server that would not see one."""

    def add(self, uuid: str, name: str, device: str,
            guest: container_view.Guest | None) -> None:
        """Let a server see a volume."""

    def remove(self, uuid: str, name: str, device: str,
               guest: container_view.Guest | None) -> None:
        """Let a server see it no more."""

    def grow(self, uuid: str, name: str, device: str) -> None:
        """Let a server use what a device has become."""


def device_name(mountpoint: str) -> str:
    """Return the name of a device as Nova gives it, without its folder.

    :raises VolumeError: it is no name of a disk
    """
    match = _NAME.fullmatch(mountpoint or '')
    if not match:
        raise exception.VolumeError(
            f'{mountpoint!r} is no device name such as /dev/vdb')
    return match[1]


class Volumes:
    """The volumes of this host's servers.

    :param records: what is connected, for this host only
    :param find: returns a server's container
    :param shown_as: how a volume that is attached now appears
    """

    def __init__(self, connected: connections.Connections,
                 records: json_documents.Documents,
                 mounts: filesystems.Filesystems,
                 devices: nodes.Nodes, find: Find, shown_as: str) -> None:
        self._connections = connected
        self._records = records
        self._mounts = mounts
        self._nodes = devices
        self._ways: dict[str, Appearance] = {
            DEVICE: devices, FILESYSTEM: mounts}
        self._find = find
        self._shown_as = shown_as

    def check_host(self) -> None:
        """Refuse options that this host cannot follow.

        :raises HostNotReady: with what to change
        """
        if self._shown_as == FILESYSTEM:
            self._mounts.check_host()

    def names(self, uuid: str) -> list[str]:
        """Return the device names of the volumes that a server has."""
        return sorted(self._load(uuid))

    def binds(self, uuid: str) -> list[str]:
        """Return what a container that is made now needs, as Binds."""
        if self._shown_as != FILESYSTEM:
            return []
        return self._mounts.binds(uuid)

    def attach(self, uuid: str, connection: Mapping[str, Any],
               mountpoint: str) -> None:
        """Give a server a volume; on failure nothing of it is left.

        :param connection: Nova's connection_info
        :raises VolumeError: with the reason
        """
        name = device_name(mountpoint)
        with _locked(uuid), contextlib.ExitStack() as undo:
            if name in self._load(uuid):
                raise exception.VolumeError(
                    f'the server has a volume at /dev/{name}')
            undo.callback(self._undo, uuid, name)
            self._attach(uuid, name, connection)
            undo.pop_all()

    def _attach(self, uuid: str, name: str, connection: Mapping[str, Any],
                starts: bool = False) -> None:
        """Do what is not done yet.

        :param starts: what a server that runs cannot be given it has after
            its start, which is next
        """
        guest, known = self._find(uuid), self._load(uuid)
        way = known.get(name, {}).get('shown_as', self._shown_as)
        self._ways[way].check(uuid, _at_rest(guest) if starts else guest)
        entry = {'connection': dict(connection), 'shown_as': way,
                 'path': known.get(name, {}).get('path', '')}
        self._records.save(uuid, {**known, name: entry})
        entry['path'] = self._connections.connect(connection)
        self._records.save(uuid, {**known, name: entry})
        device = loops.attach(entry['path'])
        self._ways[way].add(uuid, name, device, guest)
        LOG.info('Server %s: volume %s is %s of the host, shown as a %s',
                 uuid, connection.get('serial', name), device, way)

    def _undo(self, uuid: str, name: str) -> None:
        try:
            self._detach(uuid, name)
        except (exception.NovaVcloudException, OSError):
            LOG.exception('Could not undo the attachment of %s to server %s; '
                          'deleting the server will try again', name, uuid)

    def detach(self, uuid: str, mountpoint: str) -> None:
        """Take a volume from a server; one that it has not is fine.

        :raises VolumeBusy: the server uses it, and has it still
        :raises VolumeError: with the reason
        """
        with _locked(uuid):
            self._detach(uuid, device_name(mountpoint))

    def _detach(self, uuid: str, name: str) -> None:
        known = self._load(uuid)
        entry = known.pop(name, None)
        if entry is None:
            return
        if entry['path']:
            self._give_up(uuid, name, entry)
        if known:
            self._records.save(uuid, known)
        else:
            self._records.delete(uuid)
        LOG.info('Server %s: volume at %s is disconnected', uuid, name)

    def _give_up(self, uuid: str, name: str, entry: dict[str, Any]) -> None:
        path = entry['path']
        try:
            device = loops.attach(path)
        except exception.VolumeError as e:
            # Gone already, with its storage: no node has its number then.
            LOG.warning('Server %s: volume at %s: %s', uuid, name, e)
            device = '/dev/null'
        self._ways[entry['shown_as']].remove(
            uuid, name, device, self._find(uuid))
        loops.detach(path)
        self._connections.disconnect(entry['connection'], path)

    def ensure(self, uuid: str,
               mapping: Iterable[Mapping[str, Any]]) -> None:
        """Have what a server that starts is to have; what it has is fine.

        :param mapping: Nova's block_device_mapping
        :raises VolumeError: with the reason
        """
        with _locked(uuid):
            guest = self._find(uuid)
            if guest and self._mounts.sees(uuid, guest):
                self._mounts.prepare(uuid)
            for volume in mapping:
                self._attach(uuid, device_name(volume['mount_device']),
                             volume['connection_info'], starts=True)

    def shows(self, uuid: str) -> bool:
        """Tell whether a server, once started, would see what is attached.
        """
        try:
            self._ways[self._shown_as].check(uuid, _at_rest(self._find(uuid)))
        except exception.VolumeError as e:
            LOG.warning('Server %s has no ephemeral disk: %s', uuid, e)
            return False
        return True

    def try_ensure(self, uuid: str,
                   mapping: Iterable[Mapping[str, Any]]) -> None:
        """Do as :meth:`ensure`, but only tell of a volume that failed."""
        try:
            self.ensure(uuid, mapping)
        except exception.VolumeError:
            LOG.exception('Server %s is without a volume until it is '
                          'rebooted', uuid)

    @contextlib.contextmanager
    def ready(self, uuid: str,
              mapping: Iterable[Mapping[str, Any]]) -> Iterator[None]:
        """Have the volumes of a server that is being made.

        When that fails nothing of them is left.
        """
        try:
            self.ensure(uuid, mapping)
            yield
        except BaseException:
            self.try_release(uuid)
            raise

    def try_release(self, uuid: str) -> None:
        """Do as :meth:`release`, but only tell of a failure."""
        try:
            self.release(uuid)
        except (exception.NovaVcloudException, OSError):
            LOG.exception('Volumes of server %s could not be disconnected; '
                          'deleting the server will try again', uuid)

    def disconnect(self, uuid: str) -> None:
        """Take all volumes from a server that is stopped.

        :raises VolumeError: with the reason
        """
        with _locked(uuid):
            for name in self._load(uuid):
                self._detach(uuid, name)

    def release(self, uuid: str) -> None:
        """Leave nothing of a server whose container is gone.

        :raises VolumeError: with the reason
        """
        self.disconnect(uuid)
        with _locked(uuid):
            self._nodes.forget(uuid)
            self._mounts.forget(uuid)

    def extend(self, uuid: str, connection: Mapping[str, Any]) -> None:
        """Let a server use what a volume has become.

        :raises VolumeError: with the reason
        """
        with _locked(uuid):
            for name, entry in self._load(uuid).items():
                if entry['connection'].get('serial') \
                        == connection.get('serial'):
                    self._extend(uuid, name, entry)

    def _extend(self, uuid: str, name: str, entry: dict[str, Any]) -> None:
        if os.path.isfile(entry['path']):
            loops.resize(entry['path'])
        else:
            self._connections.extend(entry['connection'])
        self._ways[entry['shown_as']].grow(
            uuid, name, loops.attach(entry['path']))

    def check_stays(self, uuid: str) -> None:
        """Refuse what would have Cinder close connections that are in use.

        Nova has it close and open those of a server that is resized, also
        where that server is not stopped for it. Of files there are none.

        :raises VolumeError: the server has volumes that are no files
        """
        names = [name for name, entry in sorted(self._load(uuid).items())
                 if entry['path'] and not os.path.isfile(entry['path'])]
        if names:
            raise exception.VolumeError(
                f'resizing it on its host would disconnect {names[0]} while '
                'it is used: take its volumes away first')

    def properties(self) -> dict[str, Any]:
        """Return what Cinder must know of this host."""
        return self._connections.properties()

    def counters(self, uuid: str) -> dict[str, dict[str, int]]:
        """Return {device name: requests and bytes read and written}."""
        found = {name: counters.of(entry['path'])
                 for name, entry in sorted(self._load(uuid).items())
                 if entry['path']}
        return {name: each for name, each in found.items() if each}

    def _load(self, uuid: str) -> dict[str, dict[str, Any]]:
        return self._records.load(uuid) or {}


def _at_rest(guest: container_view.Guest | None
             ) -> container_view.Guest | None:
    return guest and dataclasses.replace(guest, pid=0)


def _locked(uuid: str) -> contextlib.AbstractContextManager[Any]:
    return lockutils.lock(f'vcloud-volumes-{uuid}')
