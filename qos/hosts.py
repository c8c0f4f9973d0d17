# SPDX-License-Identifier: Apache-2.0
"""Puts a Docker host's backends together, alike for driver and command."""

from __future__ import annotations

import dataclasses
import pathlib

from nova_vcloud import json_documents
from nova_vcloud.engine import Engine
from nova_vcloud.qos import records
from nova_vcloud.qos.backends import cgroup
from nova_vcloud.qos.backends import cgroup1
from nova_vcloud.qos.backends import cgroup2
from nova_vcloud.qos.backends import disk
from nova_vcloud.qos.backends import docker
from nova_vcloud.qos.backends import runtime
from nova_vcloud.qos.backends import tc
from nova_vcloud.qos.disk import loop_file
from nova_vcloud.qos.enforcer import Enforcer
from nova_vcloud.qos.keeper import Keeper


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The parts that others than the keeper need."""

    keeper: Keeper
    cgroup: cgroup.CgroupBackend
    runtime: runtime.RuntimeBackend
    tc: tc.TcBackend
    disk: disk.DiskBackend


def cgroup_here(root: str = '/sys/fs/cgroup') -> cgroup.CgroupBackend:
    """Return the backend for the version of cgroups that is in use.

    A host with both (systemd's hybrid mode) has its controllers in v1.
    """
    if pathlib.Path(root, 'cgroup.controllers').exists():
        return cgroup2.Cgroup2(root)
    return cgroup1.Cgroup1(
        root, pathlib.Path('/proc/self/mountinfo').read_text())


def docker_host(engine: Engine, links_path: str, state_path: str,
                disk_files: loop_file.Files | None = None,
                raw_sockets: bool = True) -> Assembly:
    """Return what keeps limits of containers on this host.

    :param links_path: directory that ``nova-vcloud-runtime`` reads
    :param state_path: directory of the records
    :param disk_files: makes root disks that are files; None for no such
    :param raw_sockets: whether a server may have CAP_NET_RAW or
        CAP_NET_ADMIN
    """
    kernel = cgroup_here()
    persistent = docker.DockerBackend(engine)
    forgotten = (kernel.support().enforced
                 - persistent.support().enforced)
    first = runtime.RuntimeBackend(links_path, forgotten, kernel.start_lines)
    net = tc.TcBackend(raw_sockets=raw_sockets)
    root = disk.DiskBackend(engine, disk_files, links_path)
    # What remembers comes before what enforces: of two that hold the same
    # limit the last is believed.
    enforcer = Enforcer([persistent, first, kernel, net, root])
    kept = records.Records(json_documents.Documents(state_path))
    return Assembly(Keeper(enforcer, kept, kernel.events), kernel, first, net,
                    root)
