# SPDX-License-Identifier: Apache-2.0
"""The name under which Nova finds the driver: ``nova.virt.virt_docker``.

Nova imports only ``nova.virt.<compute_driver>``. nova-compute loads the
os-vif plug-ins before its driver, so a plug-in of ours can register an
import hook in that process without writing a file into Nova's package (see
doc/source/contributor/decisions). It plugs no VIF.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

from os_vif import plugin
from os_vif.objects import host_info

ALIAS = 'nova.virt.virt_docker'
TARGET = 'nova_vcloud.virt_docker.driver'


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Give ``ALIAS`` the driver class of ``TARGET``."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None
                  ) -> importlib.machinery.ModuleSpec | None:
        if fullname != ALIAS:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec
                      ) -> ModuleType:
        # A module of its own: the import machinery writes this finder's spec
        # into it, which TARGET's module must not lose.
        return ModuleType(spec.name, __doc__)

    def exec_module(self, module: ModuleType) -> None:
        driver = importlib.import_module(TARGET)
        vars(module)['DockerDriver'] = driver.DockerDriver


def register() -> None:
    """Make ``import nova.virt.virt_docker`` work in this process."""
    if not any(isinstance(f, _AliasFinder) for f in sys.meta_path):
        sys.meta_path.append(_AliasFinder())


class DoorPlugin(plugin.PluginBase):
    """An os-vif plug-in that only registers the driver's name."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        register()

    def describe(self) -> host_info.HostPluginInfo:
        """Return no VIF type at all: os-vif never calls us to plug."""
        return host_info.HostPluginInfo(
            plugin_name='vcloud', vif_info=[])

    def plug(self, vif: Any, instance_info: Any) -> None:
        """Refuse; the driver plugs its own VIFs."""
        raise NotImplementedError(ALIAS)

    def unplug(self, vif: Any, instance_info: Any) -> None:
        """Refuse; the driver unplugs its own VIFs."""
        raise NotImplementedError(ALIAS)
