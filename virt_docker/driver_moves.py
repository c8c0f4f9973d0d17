# SPDX-License-Identifier: Apache-2.0
"""The driver's verbs for servers that go to another host, or come back."""

from __future__ import annotations

from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.compute import vm_states
from oslo_log import log

from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker import driver_volumes
from nova_vcloud.virt_docker.guest import rebuild
from nova_vcloud.virt_docker.guest import rescue
from nova_vcloud.virt_docker.guest import snapshot
from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.migration import interrupted
from nova_vcloud.virt_docker.migration import recovery
from nova_vcloud.virt_docker.migration import resize
from nova_vcloud.virt_docker.migration import unshelves
from nova_vcloud.virt_docker.volumes import ephemeral

LOG = log.getLogger(__name__)


class MoveVerbs(driver_volumes.VolumeVerbs):
    """Cold migration, resize, and what is left of them."""

    _moves: cold_migration.Moves
    _recovery: recovery.Recovery
    _rebuilds: rebuild.Rebuilds
    _snapshots: snapshot.Snapshots
    _rescue: rescue.Rescue

    def check_can_live_migrate_destination(
            self, context: nova_context.RequestContext,
            instance: objects.Instance, src_compute_info: Any,
            dst_compute_info: Any, block_migration: Any = False,
            disk_over_commit: bool = False) -> Any:
        """Refuse: processes of a container cannot move.

        :raises MigrationPreCheckError: always
        """
        reason = ('a server that is a container cannot move while it runs; '
                  'migrate it without --live-migration, which stops it and '
                  'keeps its data and addresses')
        # Nova asks the next host, and tells the user that there is none.
        LOG.info('Live migration refused: %s', reason, instance=instance)
        raise nova_exception.MigrationPreCheckError(reason=reason)

    def cleanup_live_migration_destination_check(
            self, context: nova_context.RequestContext,
            dest_check_data: Any) -> None:
        """Nothing was prepared."""

    def migrate_disk_and_power_off(
            self, context: nova_context.RequestContext,
            instance: objects.Instance, dest: str, flavor: objects.Flavor,
            network_info: Any, block_device_info: Any = None,
            timeout: int = 0, retry_interval: int = 0) -> str:
        """Send a server to another host, or change it where it runs.

        :returns: what the other host needs for :meth:`finish_migration`
        :raises InstanceFaultRollback: with the reason; nothing was changed
        """
        with self._nova_errors(instance), resize.rolled_back():
            resize.check_disk(instance.flavor, flavor,
                              self._ephemerals.sizes(instance.uuid))
            move = resize.of(context, instance)
            if move is None or not resize.stays(move):
                return self._moves.send(
                    context, instance, dest, network_info, timeout,
                    lambda: self._volumes.disconnect(instance.uuid),
                    lambda: self._volumes.try_ensure(
                        instance.uuid,
                        self._disks(instance, block_device_info)))
            resize.check_boot(instance.flavor, flavor)
            self._volumes.check_stays(instance.uuid)
            self._containers.resize(instance, flavor, network_info)
        return ''  # Nova passes it to finish_migration as disk_info

    def finish_migration(
            self, context: nova_context.RequestContext,
            migration: objects.Migration, instance: objects.Instance,
            disk_info: str, network_info: Any,
            image_meta: objects.ImageMeta, resize_instance: bool,
            allocations: Any, block_device_info: Any = None,
            power_on: bool = True, share_info: Any = None) -> None:
        """Make the server of what came, or read back one that stayed."""
        with self._nova_errors(instance):
            if resize.stays(migration):
                self._containers.resize(instance, instance.flavor,
                                        network_info)
                crash_points.reached('resized')
            else:
                self._moves.receive(
                    context, instance, disk_info, network_info, image_meta,
                    power_on, lambda folder, names: self._with_moved_disks(
                        instance, block_device_info, folder, names))

    def _bring_in(self, context: nova_context.RequestContext,
                  instance: objects.Instance, network_info: Any,
                  block_device_info: Any) -> bool:
        """Make a server whose move failed here, after it had come whole.

        Nova leaves it an error on this host, which a hard reboot ends.

        :returns: whether it was one; it runs then
        """
        manifest = self._moves.manifest(instance.uuid)
        if manifest is None or self._moves.has_container(instance.uuid):
            return False
        LOG.warning('Migration to this host failed earlier: creating the '
                    'container from the migration data received',
                    instance=instance)
        self._moves.receive(
            context, instance, manifest, network_info, instance.image_meta,
            True, lambda folder, names: self._with_moved_disks(
                instance, block_device_info, folder, names))
        return True

    def confirm_migration(self, context: nova_context.RequestContext,
                          migration: objects.Migration,
                          instance: objects.Instance,
                          network_info: Any) -> None:
        """Give up the way back; a server that stayed had none.

        Its ephemeral disk grows only now: it could not become smaller again.
        """
        with self._nova_errors(instance):
            if resize.stays(migration):
                self._try_grow_disks(instance)
            else:
                self._containers.drop_parked(instance.uuid)
                crash_points.reached('confirm')
                self._moves.forget(instance.uuid)
                self._volumes.release(instance.uuid)
                self._ephemerals.remove(instance.uuid)
        crash_points.reached('confirmed')
        ephemeral.note_growth(context, instance)

    def finish_revert_migration(
            self, context: nova_context.RequestContext,
            instance: objects.Instance, network_info: Any,
            migration: objects.Migration, block_device_info: Any = None,
            power_on: bool = True, share_info: Any = None) -> None:
        """Have the server as it was, wherever its move got to."""
        with self._nova_errors(instance):
            crash_points.reached('reverting')
            if resize.stays(migration):
                self._containers.resize(instance, instance.flavor,
                                        network_info)
            else:
                self._have_volumes(instance, block_device_info)
                self._containers.restore(instance, network_info, power_on)
            crash_points.reached('reverted')

    def delete_instance_files(self, instance: objects.Instance) -> bool:
        """Remove what a move that failed has left of a deleted server."""
        self._containers.drop_parked(instance.uuid)
        self._forget_disks(instance.uuid)
        return True

    def _forget_disks(self, uuid: str) -> None:
        self._moves.forget(uuid)
        self._volumes.try_release(uuid)
        self._ephemerals.remove(uuid)

    def process_instances_at_startup(
            self, context: nova_context.RequestContext,
            instances: objects.InstanceList) -> objects.InstanceList:
        """Bring to an end what was cut off with the last nova-compute."""
        self._recovery.begin(context, instances)
        interrupted.Interrupted(
            self._recovery.manager, self._containers.inspect,
            self._undo_rebuild, self._run, self._leave_rescue,
            unshelves.Unshelves(self._recovery.manager,
                                self._containers.running, self._remove_all),
            self._host.name).begin(context, instances)
        self._snapshots.remove_pending()
        return instances

    def _undo_rebuild(self, context: nova_context.RequestContext,
                      instance: objects.Instance) -> None:
        """Have a server as it was, unless all of the new one is there."""
        disks = self._nova_disks(context, instance)
        if self._containers.parked(instance.uuid):
            self._containers.unpark(instance.uuid)
            wanted = ephemeral.wanted(instance, disks)
            if wanted:
                self._have_old_disks(instance, wanted)
        self._ephemerals.drop_old(instance.uuid)
        self._rebuilds.give_back_image(
            nova_context.get_nova_service_user_context(), instance)
        self._run(context, instance)

    def _leave_rescue(self, context: nova_context.RequestContext,
                      instance: objects.Instance) -> None:
        """Have a server as it was before it was rescued."""
        self._containers.unpark(instance.uuid)
        # Its disk is the container's alone before that starts.
        self._rescue.release(instance.uuid)
        self._run(context, instance)

    def _remove_all(self, uuid: str) -> None:
        """Remove all there is here of a server."""
        self._containers.destroy(uuid, self._rescue.release)
        self._forget_disks(uuid)

    def _run(self, context: nova_context.RequestContext,
             instance: objects.Instance) -> None:
        """Have a server run, unless Nova has it stopped."""
        runs = instance.vm_state != vm_states.STOPPED
        if runs:
            self._have_volumes(instance, self._nova_disks(context, instance))
        self._containers.restore(instance, instance.get_network_info(), runs)

    def _nova_disks(self, context: nova_context.RequestContext,
                    instance: objects.Instance) -> Any:
        """Return what Nova says of the disks of a server."""
        return self._recovery.manager._get_instance_block_device_info(  # noqa: SLF001
            context, instance)
