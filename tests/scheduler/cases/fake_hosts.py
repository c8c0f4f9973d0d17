# SPDX-License-Identifier: Apache-2.0
"""A compute driver of hosts that are made up, each with its own figures."""

from __future__ import annotations

import dataclasses
from typing import Any

from nova.virt import fake

#: As in ``compute_driver``, once nova.virt has this module by its name.
MODULE = 'nova.virt.vcloud_made_up'
NAME = 'vcloud_made_up.Driver'


@dataclasses.dataclass
class Figures:
    """What a host says of itself.

    :ivar ecu: inventory of CUSTOM_ECU; None is a host without
    :ivar stats: of its compute node
    """

    vcpus: int = 10
    memory_mb: int = 8192
    ecu: int | None = None
    stats: dict[str, str] = dataclasses.field(default_factory=dict)


#: {host: its figures}; of a host that is not here, the defaults.
FIGURES: dict[str, Figures] = {}


class Driver(fake.MediumFakeDriver):
    """A host that is what FIGURES say at the moment."""

    @property
    def figures(self) -> Figures:
        return FIGURES.get(self._host) or Figures()

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        self.vcpus = self.resources.vcpus = self.figures.vcpus
        self.memory_mb = self.resources.memory_mb = self.figures.memory_mb
        found = super().get_available_resource(nodename)
        if found:
            found['stats'] = dict(self.figures.stats)
        return found

    def update_provider_tree(self, provider_tree: Any, nodename: str,
                             allocations: Any = None) -> None:
        super().update_provider_tree(provider_tree, nodename, allocations)
        ecu = self.figures.ecu
        if ecu:
            inventory = provider_tree.data(nodename).inventory
            inventory['CUSTOM_ECU'] = {
                'total': ecu, 'reserved': 0, 'min_unit': 1, 'max_unit': ecu,
                'step_size': 1, 'allocation_ratio': 1.0}
            provider_tree.update_inventory(nodename, inventory)

    def post_live_migration(self, context: Any, instance: Any,
                            block_device_info: Any,
                            migrate_data: Any = None) -> None:
        # Nova's own leaves the server on both hosts.
        self.destroy(context, instance, network_info=None)

    def forget_servers(self) -> None:
        """Have no server any more, as after a reboot."""
        self.instances.clear()
        self.resources = fake.Resources(
            self.vcpus, self.memory_mb, self.local_gb)
