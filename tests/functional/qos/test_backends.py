# SPDX-License-Identifier: Apache-2.0
"""The contract of backends, on this host's kernel and a real engine."""

import os
import pathlib
import uuid

from backend_contract import Contract
from backend_contract import Place
import dockerd as dockerd_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.guest import Link
from nova_vcloud.qos import hosts
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import docker
from nova_vcloud.qos.backends import tc
from nova_vcloud.qos.backends.base import Change
from nova_vcloud.qos.disk import devices

ROOT = pathlib.Path('/sys/fs/cgroup')


class TestCgroupHere(Contract):
    """Of the version that this host has."""

    @pytest.fixture
    def place(self):
        backend = hosts.cgroup_here()
        backend.support()
        parent = f'novavcloudtest{os.getpid()}'
        made: list[pathlib.Path] = []
        try:
            make(parent, made)
            yield Place(
                backend, *(Guest('', name, f'/{parent}/{name}')
                           for name in ('one', 'two', 'absent')),
                {'io': devices.device_of('/var')})
        finally:
            for folder in reversed(made):
                folder.rmdir()

    def test_more_than_the_kernel_takes_is_named(self, place):
        key = limits.Key('cpu', 'cpus')
        with pytest.raises(exception.LimitNotEnforced, match=r'cpu\.cpus='):
            place.backend.apply(place.guest, [Change(
                key, limits.UNLIMITED, frozenset({4095}))])

    def test_the_self_test_leaves_nothing(self, place):
        assert not list(ROOT.glob('**/nova-vcloud-probe-*'))


def make(parent, made):
    """Make the cgroups of two guests; ``made`` tells which, parents first."""
    def folder(path):
        path.mkdir()
        made.append(path)
        return path

    if (ROOT / 'cgroup.controllers').exists():
        above = folder(ROOT / parent)
        (above / 'cgroup.subtree_control').write_text(
            '+cpu +cpuset +io +memory +pids')
        for name in ('one', 'two'):
            folder(above / name)
        return
    for controller in ('cpu', 'cpuset', 'memory', 'pids', 'blkio'):
        above = folder(ROOT / controller / parent)
        for path in (above, *(folder(above / n) for n in ('one', 'two'))):
            if controller == 'cpuset':  # a new one is empty
                for file in ('cpuset.cpus', 'cpuset.mems'):
                    (path / file).write_text(
                        (path.parent / file).read_text())


class TestDocker(Contract):
    """What an engine keeps of a container that is stopped."""

    @pytest.fixture
    def place(self, dockerd):
        made = [dockerd.engine.create(f'nova-{uuid.uuid4()}', {
            'Image': dockerd_fixture.IMAGE,
            'HostConfig': {'NetworkMode': 'none'}}) for _ in range(2)]
        try:
            yield Place(docker.DockerBackend(dockerd.engine), *(
                Guest('', name, '') for name in (*made, 'absent')), {})
        finally:
            for container in made:
                dockerd.engine.remove(container)


class TestTc(Contract):
    """Token buckets on a link, either end."""

    @pytest.fixture
    def place(self, lan):
        servers = [str(uuid.uuid4()) for _ in range(2)]
        guests = []
        for server in servers:
            nic = lan.nic()
            lan.network.plug(server, (nic,))
            guests.append(Guest(server, server, '', (
                lan.network.link(server, nic),)))
        port = guests[0].links[0].port_id
        absent = Guest('absent', 'absent', '', (
            Link(port, lan.name, 'tapabsent'),))
        try:
            yield Place(tc.TcBackend(), *guests, absent, {'net': port})
        finally:
            for server in servers:
                lan.network.destroy(server)
