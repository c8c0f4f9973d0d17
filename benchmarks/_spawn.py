# SPDX-License-Identifier: Apache-2.0
"""Servers of an image that a host has, by the driver and by hand."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import pathlib
import sys
import tempfile
import time
from typing import Any
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'tests/fixtures')]

import computehost  # noqa: E402 - found by the line above
import dockerd  # noqa: E402
import lan  # noqa: E402
from nova import objects  # noqa: E402

from nova_vcloud.virt_docker.guest import containers  # noqa: E402
from nova_vcloud.virt_docker.image import images  # noqa: E402
from nova_vcloud.virt_docker.vif import addresses  # noqa: E402

META = objects.ImageMeta.from_dict({
    'container_format': 'docker', 'disk_format': 'raw', 'properties': {}})


class Bench:
    """One compute host, by its driver and by hand."""

    def __init__(self, host: computehost.ComputeHost, locks: str) -> None:
        self._host = host
        self._engine = host.dockerd.engine
        store = images.ImageStore(
            self._engine, lambda _context, _image_id: self._engine.image_save(
                dockerd.IMAGE), locks)
        self._servers = containers.Containers(
            self._engine, host.network, store, host.resources,
            host.defaults, computehost.NAME,
            mapped=lambda: host.ids is not None)
        self._image_id = str(uuid.uuid4())
        self._body: dict[str, Any] = {}

    def driver(self) -> float:
        """Return seconds of a server made by the driver; leave nothing."""
        instance, ports = self._host.instance(), self._host.ports()
        instance.image_ref = self._image_id
        start = time.perf_counter()
        self._servers.spawn(None, instance, META, ports, b'')
        taken = time.perf_counter() - start
        made = self._servers.inspect(instance.uuid)
        self._body = {
            **{key: made['Config'][key] for key in (
                'Image', 'Hostname', 'Tty', 'OpenStdin')},
            'HostConfig': {key: made['HostConfig'][key] for key in (
                'Runtime', 'NetworkMode', 'RestartPolicy', 'Memory',
                'MemorySwap', 'CpuShares', 'PidsLimit', 'LogConfig',
                'CapDrop', 'CapAdd', 'SecurityOpt', 'Dns', 'CgroupParent')}}
        self._servers.destroy(instance.uuid)
        return taken

    def bare(self) -> float:
        """Return seconds of the same by hand; leave nothing."""
        name, nics = str(uuid.uuid4()), addresses.plan(self._host.ports())
        network = self._host.network
        start = time.perf_counter()
        network.plug(name, nics)
        container = self._engine.create(f'bench-{name}', self._body)
        network.join(name, container)
        self._engine.start(container)
        taken = time.perf_counter() - start
        self._engine.remove(container)
        network.forget(container)
        network.destroy(name)
        return taken


@contextlib.contextmanager
def bench(remap: str = '') -> Iterator[Bench]:
    """Have one on a private engine; nothing is left of it.

    :param remap: of the engine's userns-remap
    """
    with dockerd.private(remap=remap) as engine, lan.private(
            str(engine.links)) as fabric, \
            tempfile.TemporaryDirectory() as folder:
        host = computehost.ComputeHost(
            engine, fabric, pathlib.Path(folder, 'state'))
        yield Bench(host, folder)
