# SPDX-License-Identifier: Apache-2.0
"""The driver's verbs for what is done to a server that runs."""

from __future__ import annotations

import contextlib
from typing import Any

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.console import type as console_type
from oslo_log import log

from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker import driver_base
from nova_vcloud.virt_docker.guest import device_tags
from nova_vcloud.virt_docker.guest import password
from nova_vcloud.virt_docker.guest import serial_console

LOG = log.getLogger(__name__)


class DeviceVerbs(driver_base.Part):
    """Network interfaces, at start and later; passwords, consoles."""

    _engine: Engine
    _consoles: serial_console.Consoles

    def plug_vifs(self, instance: objects.Instance,
                  network_info: Any) -> None:
        """Bring the server's NICs to what Neutron says.

        Nova does not start a host that raises anything else, for any of its
        servers (nova.compute.manager, _init_instance).

        :raises VirtualInterfacePlugException: with the reason
        :raises HypervisorUnavailable: of all servers: none is to blame
        """
        try:
            with self._nova_errors(instance):
                self._containers.plug(instance, network_info)
        except (nova_exception.VirtualInterfacePlugException,
                nova_exception.HypervisorUnavailable):
            raise
        except Exception as e:
            LOG.exception('Cannot plug the interfaces of the instance and '
                          'apply its limits', instance=instance)
            raise nova_exception.VirtualInterfacePlugException(
                f'NICs and limits of the server: {e}') from e

    def unplug_vifs(self, instance: objects.Instance,
                    network_info: Any) -> None:
        """Remove the server's NICs."""
        with self._nova_errors(instance):
            self._containers.unplug(instance.uuid, network_info)

    def inject_network_info(self, instance: objects.Instance,
                            nw_info: Any) -> None:
        """Give a server the addresses that its ports have now."""
        self.plug_vifs(instance, nw_info)

    def _update_addresses(self, instance: objects.Instance) -> None:
        """Follow a change of the ports of a server, if Nova has it here."""
        if instance.host == self._host.name:
            with self._nova_errors(instance):
                self._containers.update_addresses(
                    instance, instance.get_network_info())

    def attach_interface(self, context: nova_context.RequestContext,
                         instance: objects.Instance,
                         image_meta: objects.ImageMeta, vif: Any) -> None:
        """Plug a port into a server, which may run.

        :raises InterfaceAttachFailed: with the reason; nothing is left of it
        """
        known = instance.get_network_info()
        crash_points.reached('interface')
        try:
            with self._nova_errors(instance), contextlib.ExitStack() as undo:
                self._containers.attach(instance, known, vif['id'])
                undo.callback(self._containers.detach, instance, known,
                              vif['id'])
                crash_points.reached('plugged')
                device_tags.note(context, instance)
                undo.pop_all()
        except nova_exception.NovaException as e:
            raise nova_exception.InterfaceAttachFailed(
                instance_uuid=instance.uuid) from e

    def detach_interface(self, context: nova_context.RequestContext,
                         instance: objects.Instance, vif: Any) -> None:
        """Take a port out of a server; one that is not there is fine.

        :raises InterfaceDetachFailed: with the reason
        """
        try:
            with self._nova_errors(instance):
                self._containers.detach(
                    instance, instance.get_network_info(), vif['id'])
        except nova_exception.InstanceNotFound:
            raise
        except nova_exception.NovaException as e:
            raise nova_exception.InterfaceDetachFailed(
                instance_uuid=instance.uuid) from e

    def get_serial_console(self, context: nova_context.RequestContext,
                           instance: objects.Instance
                           ) -> console_type.ConsoleSerial:
        """Return where nova-serialproxy finds the server's terminal.

        :raises InstanceNotReady: the server does not run
        """
        with self._nova_errors(instance):
            container = self._containers.inspect(instance.uuid)
        if not container['State']['Running']:
            raise nova_exception.InstanceNotReady(instance_id=instance.uuid)
        return console_type.ConsoleSerial(*self._consoles.open(
            instance.uuid, container['Id']))

    def set_admin_password(self, instance: objects.Instance,
                           new_pass: str) -> None:
        """Set the password of root, or of the image's ``os_admin_user``.

        :raises SetAdminPasswdNotSupported: the server has no ``chpasswd``
        :raises InstancePasswordSetFailed: with its words
        """
        with self._nova_errors(instance):
            container = self._containers.inspect(instance.uuid)
            password.set_admin(self._engine, container['Id'], instance,
                               new_pass)
