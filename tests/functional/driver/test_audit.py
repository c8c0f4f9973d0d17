# SPDX-License-Identifier: Apache-2.0
"""What Nova's resource audit costs the engine."""

import os

import dockerd as dockerd_fixture
from nova import objects
from nova.compute import provider_tree
import nova.conf
import options
from oslo_utils import uuidutils
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker import factory
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import container_spec

objects.register_all()

from nova_vcloud.virt_docker import driver as docker_driver  # noqa: E402

NODE = 'audited'


@pytest.fixture
def driver(dockerd, tmp_path):
    """The driver, set up as nova-compute sets it up."""
    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    factory.register_opts(conf)
    wanted = {('docker', 'url'): dockerd.url,
              ('docker', 'runtime_links_path'): str(dockerd.links),
              ('docker', 'cgroup_parent'): dockerd.cgroup_parent,
              ('qos', 'state_path'): str(tmp_path / 'limits'),
              ('ecu', 'per_core'): 2.5,
              (None, 'host'): NODE, (None, 'state_path'): str(tmp_path)}
    with options.overridden(conf, wanted):
        found = docker_driver.DockerDriver(None)
        found.init_host(NODE)
        yield found
        found.cleanup_host(NODE)


def audit(driver) -> int:
    """Do what the audit does; return how often the engine was asked."""
    before = driver._engine.calls
    found = driver.get_available_resource(NODE)
    assert found['vcpus'] > 0
    tree = provider_tree.ProviderTree()
    tree.new_root(NODE, uuidutils.generate_uuid(), generation=0)
    driver.update_provider_tree(tree, NODE)
    inventory = tree.data(NODE).inventory
    assert set(inventory) == {'VCPU', 'MEMORY_MB', 'DISK_GB', 'CUSTOM_ECU'}
    assert inventory['CUSTOM_ECU']['total'] == int(os.cpu_count() * 2.5)
    return driver._engine.calls - before


def test_one_engine_call_however_many_servers(driver, dockerd):
    assert audit(driver) == 1
    for number in range(20):
        uuid = uuidutils.generate_uuid()
        dockerd.engine.create(container_spec.container_name(uuid), {
            'Image': dockerd_fixture.IMAGE, 'Cmd': ['true'],
            'Labels': {server_labels.UUID: uuid,
                       server_labels.HOST: NODE,
                       server_labels.NAME: f'instance-{number}'}})
    try:
        assert len(driver.list_instance_uuids()) == 20
        assert audit(driver) == 1
    finally:
        for container in dockerd.containers():
            dockerd.engine.remove(container)


def test_two_hosts_do_not_share_their_disks_place(driver):
    """One that a server has left would remove what is the other's by now."""
    another = docker_driver.DockerDriver(None)
    with pytest.raises(exception.HostNotReady,
                       match=f'instances_path .*is also that of {NODE}'):
        another.init_host('elsewhere')
    # Which is not in the way of the one that was there.
    driver._check_disk_place(nova.conf.CONF.instances_path, NODE)


def test_containers_of_other_hosts_are_not_seen(driver, dockerd):
    dockerd.engine.create('other', {
        'Image': dockerd_fixture.IMAGE, 'Cmd': ['true'],
        'Labels': {server_labels.UUID: 'x',
                   server_labels.HOST: 'elsewhere'}})
    dockerd.engine.create('stranger', {
        'Image': dockerd_fixture.IMAGE, 'Cmd': ['true']})
    try:
        assert driver.list_instance_uuids() == []
    finally:
        for container in dockerd.containers():
            dockerd.engine.remove(container)
