# SPDX-License-Identifier: Apache-2.0
"""Tags by which users know a server's NICs and disks from within.

Nova shows them in ``meta_data.json`` (``devices``), as of its libvirt driver.
"""

from __future__ import annotations

from nova import context as nova_context
from nova import objects


def note(context: nova_context.RequestContext,
         instance: objects.Instance) -> None:
    """Have Nova know of a server's devices that have a tag, and no other."""
    found = [*_nics(context, instance), *_disks(context, instance)]
    if found or instance.device_metadata:
        instance.device_metadata = objects.InstanceDeviceMetadata(
            devices=found)
        instance.save()


def _nics(context: nova_context.RequestContext, instance: objects.Instance
          ) -> list[objects.NetworkInterfaceMetadata]:
    vifs = objects.VirtualInterfaceList.get_by_instance_uuid(
        context, instance.uuid)
    return [objects.NetworkInterfaceMetadata(mac=vif.address, tags=[vif.tag])
            for vif in vifs if 'tag' in vif and vif.tag]


def _disks(context: nova_context.RequestContext, instance: objects.Instance
           ) -> list[objects.DiskMetadata]:
    mappings = objects.BlockDeviceMappingList.get_by_instance_uuid(
        context, instance.uuid)
    # By the serial Nova finds the one of a volume that goes.
    return [objects.DiskMetadata(path=each.device_name, serial=each.volume_id,
                                 tags=[each.tag])
            for each in mappings if each.tag]
