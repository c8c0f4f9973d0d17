# SPDX-License-Identifier: Apache-2.0
"""The container that a server becomes."""

import dataclasses

from nova import objects
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud import late_results
from nova_vcloud.qos import limits
from nova_vcloud.virt_docker import server_labels
from nova_vcloud.virt_docker.guest import container_spec

DEFAULTS = container_spec.Defaults(
    runtime='nova-vcloud', cgroup_parent='/machine', log_max_size_kib=64,
    log_max_files=2, no_new_privileges=True, capabilities=('CHOWN', 'KILL'))
WANTED = limits.Limits.from_doc({
    'cpu.shares': 3072, 'cpu.period': 100_000, 'cpu.quota': 57_499,
    'cpu.burst': 1000, 'cpu.cpus': '0-2', 'cpu.mems': '0',
    'memory.max': 512 << 20, 'memory.swap': 0, 'memory.soft': 'unlimited',
    'pids.max': 100, 'io.8:0.read_bps': 1000})


@dataclasses.dataclass
class Nic:
    """The two fields of a NIC that a container knows of."""

    addresses: tuple[str, ...]
    dns: tuple[str, ...]


@pytest.fixture
def instance():
    objects.register_all()
    return objects.Instance(
        uuid=uuids.server, id=7, display_name='web 1', hostname='web-1',
        project_id='p1', user_id='u1', image_ref=uuids.image,
        system_metadata={},
        flavor=objects.Flavor(name='c1.small', memory_mb=512, vcpus=3,
                              root_gb=1, extra_specs={}))


def build(instance, nics=(), defaults=DEFAULTS):
    return container_spec.build(instance, 'an/image:latest', nics, WANTED,
                                defaults, 'compute1')


def test_a_server_of_a_shelved_image_tells_its_own(instance):
    name = server_labels.BASE_IMAGE
    assert build(instance)['Labels'][name] == uuids.image
    instance.system_metadata = {'image_base_image_ref': uuids.before}
    assert build(instance)['Labels'][name] == uuids.before


def test_the_engine_gets_the_limits_that_it_keeps(instance):
    config = build(instance)['HostConfig']
    assert config['Memory'] == config['MemorySwap'] == 512 * 2**20
    assert config['CpuShares'] == 3072
    assert (config['CpuQuota'], config['CpuPeriod']) == (57_499, 100_000)
    assert (config['CpusetCpus'], config['CpusetMems']) == ('0-2', '0')
    assert config['PidsLimit'] == 100
    assert config['OomKillDisable'] is False
    assert config['CgroupParent'] == '/machine'


@pytest.mark.parametrize(('parent', 'path'), [
    ('/machine', '/machine/c0ffee'),
    ('/a/b/', '/a/b/c0ffee'),
    ('machine.slice', '/machine.slice/docker-c0ffee.scope'),
    ('a-b-c.slice', '/a.slice/a-b.slice/a-b-c.slice/docker-c0ffee.scope')])
def test_the_cgroup_is_where_libcontainer_makes_it(parent, path):
    defaults = dataclasses.replace(DEFAULTS, cgroup_parent=parent)
    assert defaults.cgroup('c0ffee') == path


def test_the_console_log_is_bounded(instance):
    log = build(instance)['HostConfig']['LogConfig']
    assert log['Config'] == {'max-size': '64k', 'max-file': '2'}


@pytest.mark.parametrize(('wanted', 'own'), [
    ('a' * 58 + '.local', 'a' * 58 + '.local'),  # 64: as long as Linux takes
    ('b' * 59 + '.local', 'b' * 59),
    ('c' * 52 + '-guest.example.com', 'c' * 52 + '-guest'),
    ('d' * 70, 'd' * 64),
    ('é' * 63, 'é' * 32), ('xé' * 32, 'xé' * 21 + 'x'),  # two bytes each
    ('ü' * 30 + '.example', 'ü' * 30)])
def test_a_long_name_is_known_but_not_the_hostname(instance, wanted, own):
    instance.hostname = wanted
    body = build(instance, [Nic(('10.0.0.5/24',), ())])

    assert body['Hostname'] == own
    assert set(body['HostConfig']['ExtraHosts']) == {
        f'{name}:10.0.0.5' for name in (wanted, own)}


def test_nova_owns_network_and_restarts(instance):
    config = build(instance)['HostConfig']
    assert config['NetworkMode'] == 'none'
    assert config['Runtime'] == 'nova-vcloud'
    assert config['RestartPolicy'] == {'Name': 'no'}


def test_no_block_limit_is_given_to_the_engine(instance):
    # Any later update by the engine would re-apply it over ours.
    assert not [k for k in build(instance)['HostConfig'] if 'Blkio' in k]


def test_privileges_are_the_listed_ones(instance):
    config = build(instance)['HostConfig']
    assert config['Privileged'] is False
    assert config['CapDrop'] == ['ALL']
    assert config['CapAdd'] == ['CHOWN', 'KILL']
    assert config['SecurityOpt'] == ['no-new-privileges']
    lax = dataclasses.replace(DEFAULTS, no_new_privileges=False)
    assert build(instance, defaults=lax)['HostConfig']['SecurityOpt'] == []


def test_names_and_addresses_reach_the_guest(instance):
    nics = [Nic(('10.0.0.5/24', 'fd00::5/64'), ('10.0.0.1',)),
            Nic(('10.1.0.5/24',), ('10.0.0.1', '10.1.0.1'))]
    body = build(instance, nics)
    assert body['Hostname'] == 'web-1'
    assert body['HostConfig']['Dns'] == ['10.0.0.1', '10.1.0.1']
    assert body['HostConfig']['ExtraHosts'] == [
        'web-1:10.0.0.5', 'web-1:fd00::5', 'web-1:10.1.0.5']


def test_labels_tell_whose_container_it_is(instance):
    labels = build(instance)['Labels']
    assert labels == {
        'org.openstack.nova.uuid': uuids.server,
        'org.openstack.nova.host': 'compute1',
        'org.openstack.nova.name': instance.name,
        'org.openstack.nova.display_name': '',
        'org.openstack.nova.project_id': 'p1',
        'org.openstack.nova.user_id': 'u1',
        'org.openstack.nova.flavor': '',
        'org.openstack.nova.image': uuids.image,
        'org.openstack.nova.base_image': uuids.image,
        'org.openstack.nova.application': '',
    }
    # A snapshot blanks them all.
    # The engine's door adds the one that is left.
    assert labels.keys() == set(server_labels.ALL) - {late_results.LABEL}
    assert all(isinstance(v, str) for v in labels.values())


def test_systemd_is_told_where_it_is(instance):
    instance.flavor.extra_specs['vcloud:init'] = 'systemd'
    body = build(instance)
    assert body['HostConfig']['CgroupnsMode'] == 'private'
    assert set(body['HostConfig']['Tmpfs']) == {'/run', '/run/lock'}
    assert body['HostConfig']['Init'] is False
    assert (body['Env'], body['StopSignal']) == (
        ['container=docker'], 'SIGRTMIN+3')


def test_what_systemd_is_told_otherwise(instance):
    instance.flavor.extra_specs |= {
        'vcloud:init': 'systemd', 'vcloud:stop_signal': 'SIGPWR',
        'vcloud:environment': 'container=lxc A=b'}
    body = build(instance)
    assert body['StopSignal'] == 'SIGPWR'
    assert body['Env'] == ['container=docker', 'container=lxc', 'A=b']


def test_others_have_no_run_of_their_own(instance):
    host = build(instance)['HostConfig']
    assert 'Tmpfs' not in host
    assert 'CgroupnsMode' not in host
