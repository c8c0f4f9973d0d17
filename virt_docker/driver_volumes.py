# SPDX-License-Identifier: Apache-2.0
"""The driver's verbs for volumes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import os
import pathlib
from typing import Any

from nova import block_device
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.virt import driver
from nova.virt import storage_users
from oslo_log import log

from nova_vcloud import exception
from nova_vcloud import json_documents
from nova_vcloud import userns
from nova_vcloud.qos.disk import devices
from nova_vcloud.virt_docker import driver_base
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import device_tags
from nova_vcloud.virt_docker.volumes import attachments
from nova_vcloud.virt_docker.volumes import connections
from nova_vcloud.virt_docker.volumes import container_view
from nova_vcloud.virt_docker.volumes import ephemeral
from nova_vcloud.virt_docker.volumes import filesystems
from nova_vcloud.virt_docker.volumes import nodes

LOG = log.getLogger(__name__)


def mapping(block_device_info: Any) -> list[Any]:
    """Return the volumes of what Nova says of a server's disks."""
    return [volume for volume in
            driver.block_device_info_get_mapping(block_device_info)
            if volume.get('connection_info')]


def _others(folder: str, host: str) -> list[str]:
    """Return the hosts that use a directory, but for this one."""
    return sorted({*storage_users.get_storage_users(folder)} - {host})


def check_root(instance: objects.Instance, block_device_info: Any) -> None:
    """Refuse a server whose root disk would be a volume.

    :raises BuildAbortException: it would
    """
    root = driver.block_device_info_get_root_device(block_device_info)
    name = block_device.strip_dev(root)
    for volume in driver.block_device_info_get_mapping(block_device_info):
        if volume.get('boot_index') == 0 or (
                name and block_device.strip_dev(
                    volume['mount_device']) == name):
            raise nova_exception.BuildAbortException(
                instance_uuid=instance.uuid,
                reason='a server that is a container cannot boot from a '
                       'volume: give it an image, and the volume beside it')


def ephemerals(conf: Any) -> ephemeral.Store:
    """Return the store of ephemeral disks that a configuration asks for."""
    own = conf.vcloud_volumes
    return ephemeral.Store(
        conf.instances_path,
        conf.default_ephemeral_format or own.make_filesystem or 'ext4',
        own.filesystems if own.shown_as == attachments.FILESYSTEM
        else filesystems.OPTIONS, conf.preallocate_images == 'space')


class VolumeVerbs(driver_base.Part):
    """Volumes, attached and taken away."""

    _volumes: attachments.Volumes
    _ephemerals: ephemeral.Store
    _defaults: container_spec.Defaults

    def _make_volumes(self, conf: Any, namespace: Callable[[str], str],
                      ids: Callable[[], userns.IdMap | None]
                      ) -> attachments.Volumes:
        """Return the volumes of this host, as a configuration wants them.

        :param namespace: gives the name of a server's network namespace
        :param ids: tells of the ids in servers' user namespaces
        """
        own = conf.vcloud_volumes
        return attachments.Volumes(
            connections.Connections(conf.my_block_storage_ip, conf.host,
                                    own.nfs_mount_point_base, own.multipath),
            json_documents.Documents(os.path.join(conf.state_path,
                                                  'vcloud-volumes')),
            filesystems.Filesystems(own.mount_path, own.filesystems,
                                    own.make_filesystem, ids),
            nodes.Nodes(conf.docker.runtime_links_path, namespace, ids),
            self._guest, own.shown_as)

    def default_root_device_name(self, instance: objects.Instance,
                                 image_meta: objects.ImageMeta,
                                 root_bdm: Any) -> str:
        """Return what Nova calls the disk that a container has not.

        Names of volumes follow it: /dev/vdb and so on, as with KVM.
        """
        return '/dev/vda'

    def get_volume_connector(self, instance: objects.Instance
                             ) -> dict[str, Any]:
        """Return what Cinder must know to let this host at a volume."""
        return self._volumes.properties()

    def attach_volume(self, context: nova_context.RequestContext,
                      connection_info: Any, instance: objects.Instance,
                      mountpoint: str, disk_bus: Any = None,
                      device_type: Any = None,
                      encryption: Any = None) -> None:
        """Give a server a volume, which may run.

        :raises VolumeAttachFailed: with the reason; nothing is left of it
        """
        with self._nova_errors(instance):
            try:
                if encryption:
                    raise exception.VolumeError(
                        'encrypted volumes are not supported for containers')
                with contextlib.ExitStack() as undo:
                    self._volumes.attach(instance.uuid, connection_info,
                                         mountpoint)
                    undo.callback(self._volumes.detach, instance.uuid,
                                  mountpoint)
                    device_tags.note(context, instance)
                    undo.pop_all()
            except exception.VolumeError as e:
                raise nova_exception.VolumeAttachFailed(
                    volume_id=connection_info.get('serial'),
                    reason=str(e)) from e

    def detach_volume(self, context: nova_context.RequestContext,
                      connection_info: Any, instance: objects.Instance,
                      mountpoint: str, encryption: Any = None) -> None:
        """Take a volume from a server; one that it has not is fine.

        :raises DeviceDetachFailed: with the reason; the server has it still
        """
        with self._nova_errors(instance):
            try:
                self._volumes.detach(instance.uuid, mountpoint)
            except exception.VolumeError as e:
                raise nova_exception.DeviceDetachFailed(
                    device=mountpoint, reason=str(e)) from e

    def extend_volume(self, context: nova_context.RequestContext,
                      connection_info: Any, instance: objects.Instance,
                      requested_size: int) -> None:
        """Let a server use what a volume has become."""
        with self._nova_errors(instance):
            self._volumes.extend(instance.uuid, connection_info)

    def _disks(self, instance: objects.Instance, block_device_info: Any,
               found: list[ephemeral.Disk] | None = None) -> list[Any]:
        """Return the volumes of a server, and its ephemeral disks as such.
        """
        if found is None:
            found = ephemeral.wanted(instance, block_device_info)
        return [*mapping(block_device_info), *(
            self._ephemerals.volume(instance.uuid, disk) for disk in found)]

    def _check_disk_place(self, folder: str, host: str) -> None:
        """See that ephemeral disks are this host's alone.

        Tell of ones that its figures do not show.

        :raises HostNotReady: other hosts have theirs there, too
        """
        others = _others(folder, host)
        if not others:  # one that is refused is not in the way of another
            storage_users.register_storage_use(folder, host)
            others = _others(folder, host)
        if others:
            raise exception.HostNotReady(
                f'[DEFAULT] instances_path ({folder}) is also that of '
                f'{", ".join(others)}. A host that a server has left '
                'would remove its ephemeral disks: set instances_path to a '
                'directory of this host alone. A host that is no more, or '
                'has another path by now, is forgotten after a day, or once '
                f'it is taken out of {folder}/compute_nodes.')
        store = self._host.facts.root
        mounts = pathlib.Path('/proc/self/mountinfo').read_text()
        # Not by numbers, which two directories of one btrfs may differ in.
        if len({devices.mounted(os.path.realpath(path), mounts)[0]
                for path in (folder, store)}) > 1:
            LOG.warning(
                'Ephemeral disks are on another file system (instances_path, '
                "%s) than the engine's store (%s), whose size is DISK_GB: "
                'nobody counts what they take', folder, store)

    @contextlib.contextmanager
    def _with_volumes(self, instance: objects.Instance,
                      block_device_info: Any) -> Iterator[None]:
        """Have the disks of a server that is made; or none, and no server.

        :raises BuildAbortException: its root disk would be a volume
        :raises InvalidRequest: the host cannot make an ephemeral one
        :raises VolumeError: with the reason
        """
        check_root(instance, block_device_info)
        disks = ephemeral.wanted(instance, block_device_info)
        with self._ephemerals.new(instance.uuid, disks), \
                self._volumes.ready(instance.uuid, self._disks(
                    instance, block_device_info, disks)):
            yield

    @contextlib.contextmanager
    def _with_moved_disks(self, instance: objects.Instance,
                          block_device_info: Any, folder: str,
                          names: Iterable[str]) -> Iterator[None]:
        """Have the disks of a server that has moved; or none, and no server.

        :param folder: where its ephemeral ones lie
        :param names: of the files of those
        :raises MoveFailed: with the reason
        :raises VolumeError: with the reason
        """
        check_root(instance, block_device_info)
        # Of an attempt that was cut off.
        self._volumes.release(instance.uuid)
        disks = ephemeral.wanted(instance, block_device_info)
        with self._ephemerals.arrived(instance.uuid, folder, names,
                                      ephemeral.most(instance)):
            grown = self._enlarge(instance)
            # That of a flavor's that had none before.
            self._ephemerals.have(instance.uuid, disks, ())
            with self._volumes.ready(instance.uuid, self._disks(
                    instance, block_device_info, disks)):
                self._volumes.extend(instance.uuid, grown)
                yield

    def _enlarge(self, instance: objects.Instance) -> dict[str, str]:
        """Return what Nova would call the disk that has grown."""
        old = instance.old_flavor or instance.flavor
        return {'serial': self._ephemerals.enlarge(
            instance.uuid, old.ephemeral_gb, instance.flavor.ephemeral_gb)}

    def _try_grow_disks(self, instance: objects.Instance) -> None:
        """Let a server that stayed have what its new flavor says."""
        try:
            self._volumes.extend(instance.uuid, self._enlarge(instance))
        except (exception.VolumeError, OSError):
            LOG.exception('The ephemeral disk could not be used whole',
                          instance=instance)

    def _have_volumes(self, instance: objects.Instance,
                      block_device_info: Any) -> None:
        """Have the disks of a server that starts.

        :raises InvalidRequest: the host cannot make an ephemeral one
        :raises VolumeError: with the reason
        """
        disks = ephemeral.wanted(instance, block_device_info)
        if not self._ephemerals.names(instance.uuid) and disks \
                and not self._volumes.shows(instance.uuid):
            disks = []  # it was made without, and runs without
        self._ephemerals.have(instance.uuid, disks,
                              self._volumes.names(instance.uuid))
        self._volumes.ensure(instance.uuid, self._disks(
            instance, block_device_info, disks))

    def _new_disks(self, instance: objects.Instance, block_device_info: Any,
                   preserve: bool = False
                   ) -> Callable[[contextlib.ExitStack], None]:
        """Return what gives a server that is rebuilt new ephemeral disks.

        :param preserve: whether they were to stay
        :raises PreserveEphemeralNotSupported: they were, as of libvirt
        """
        if preserve:
            raise nova_exception.PreserveEphemeralNotSupported
        disks = ephemeral.wanted(instance, block_device_info)

        def renew(undo: contextlib.ExitStack) -> None:
            if disks:
                undo.callback(self._have_old_disks, instance, disks)
                self._detach_disks(instance, disks)
                self._ephemerals.put_aside(instance.uuid)
                self._ephemerals.make(instance.uuid, disks)
                self._attach_disks(instance, disks)
        return renew

    def _have_old_disks(self, instance: objects.Instance,
                        disks: list[ephemeral.Disk]) -> None:
        try:
            self._detach_disks(instance, disks)
            self._ephemerals.take_back(instance.uuid)
            self._attach_disks(instance, disks)
        except (exception.NovaVcloudException, OSError):
            LOG.exception('The server is without an ephemeral disk until it '
                          'is rebooted', instance=instance)

    def _attach_disks(self, instance: objects.Instance,
                      disks: list[ephemeral.Disk]) -> None:
        self._volumes.ensure(instance.uuid, [
            self._ephemerals.volume(instance.uuid, disk) for disk in disks])

    def _detach_disks(self, instance: objects.Instance,
                      disks: list[ephemeral.Disk]) -> None:
        for disk in disks:
            self._volumes.detach(instance.uuid, disk.device)

    def _guest(self, uuid: str) -> container_view.Guest | None:
        """Return what volumes must know of a server's container."""
        try:
            container = self._containers.inspect(uuid)
        except exception.ContainerNotFound:
            return None
        return container_view.Guest(
            container['State']['Pid'] or 0,
            self._defaults.cgroup(container['Id']),
            tuple(container['HostConfig']['Binds'] or ()))
