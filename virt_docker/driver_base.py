# SPDX-License-Identifier: Apache-2.0
"""What the parts of the driver have in common."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

from nova import objects
from nova.virt import driver

from nova_vcloud.virt_docker import nova_errors
from nova_vcloud.virt_docker.guest import containers
from nova_vcloud.virt_docker.host import host as docker_host


class Part(driver.ComputeDriver):
    """Verbs of :class:`~.driver.DockerDriver`, which makes what they use."""

    _containers: containers.Containers
    _host: docker_host.Host

    @contextlib.contextmanager
    def _nova_errors(self, instance: objects.Instance) -> Iterator[None]:
        with nova_errors.mapped(instance, self._host.name):
            yield
