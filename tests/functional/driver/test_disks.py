# SPDX-License-Identifier: Apache-2.0
"""Root disks of a size, on an engine whose store has quotas."""

import os
import pathlib
import subprocess
import time
import uuid

from backend_contract import Contract
from backend_contract import Place
import computehost
import dockerd as dockerd_fixture
import imageservice
import lan as lan_fixture
from nova import objects
import nova.conf
import options
import pytest
from rootdisk import fill
from rootdisk import spawn
import sshd
import transfers

from nova_vcloud import exception
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import disk
from nova_vcloud.qos.disk import rootfs
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker import factory
from nova_vcloud.virt_docker.guest import container_spec
from nova_vcloud.virt_docker.guest import file_injection
from nova_vcloud.virt_docker.guest import snapshot
from nova_vcloud.virt_docker.host import host as docker_host
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.volumes import ephemeral

objects.register_all()

from nova_vcloud.virt_docker import driver as docker_driver  # noqa: E402

GIB = 2**30


@pytest.fixture(scope='module')
def engine():
    programs = os.environ.get('NOVA_VCLOUD_TEST_ENGINE')
    with dockerd_fixture.private(
            pathlib.Path(programs) if programs else None,
            store='btrfs') as found:
        yield found
    assert str(found.home) not in subprocess.run(
        ['losetup', '--all'], check=True, capture_output=True,
        text=True).stdout


@pytest.fixture(scope='module')
def place(engine):
    with lan_fixture.private(str(engine.links)) as found:
        yield found


@pytest.fixture
def host(engine, place, tmp_path):
    found = computehost.ComputeHost(engine, place, tmp_path)
    yield found
    for server in list(found.containers.list()):
        found.containers.destroy(server)
    assert not engine.containers()
    assert found.keeper.records.uuids() == []


def size(host, instance):
    status = host.keeper.status(instance.uuid)
    assert not status.drift
    return status.effective.value('disk.max')


def test_who_fills_a_disk_fills_only_that(host):
    instance, _ports = spawn(host)
    other, _ports = spawn(host)
    assert size(host, instance) == GIB
    assert not fill(host, instance, 'most', 900).returncode
    done = fill(host, instance, 'more', 200)
    assert 'quota exceeded' in done.stderr
    done = host.dockerd.docker(
        'exec', container_spec.container_name(instance.uuid), 'sh', '-c',
        'dd if=/dev/zero of=/rest bs=1M count=200 conv=fsync', check=False)
    assert 'quota exceeded' in done.stderr
    found = host.parts.disk.figures(host.container(instance)['Id'])
    assert found['disk_limit_bytes'] == GIB
    assert 0.98 * GIB < found['disk_used_bytes'] <= GIB
    assert not fill(host, other, 'some', 500).returncode


def test_a_disk_grows_while_the_server_runs_and_stays_so(host):
    instance, ports = spawn(host)
    assert not fill(host, instance, 'most', 900).returncode
    before = host.container(instance)['State']
    host.containers.resize(instance, host.flavor(root_gb=2), ports)
    assert host.container(instance)['State'] == before
    assert size(host, instance) == 2 * GIB
    instance.flavor = host.flavor(root_gb=2)
    host.dockerd.docker('restart', '-t', '0', f'nova-{instance.uuid}')
    assert size(host, instance) == 2 * GIB
    host.containers.reboot(instance, ports, 0)
    host.dockerd.kill()
    host.dockerd.start()
    assert not fill(host, instance, 'more', 900).returncode
    assert fill(host, instance, 'rest', 300).returncode
    assert size(host, instance) == 2 * GIB


def test_a_revert_takes_back_what_is_not_in_use(host):
    instance, ports = spawn(host, root_gb=2)
    assert not fill(host, instance, 'most', 1200).returncode
    host.containers.resize(instance, host.flavor(root_gb=1), ports)
    assert size(host, instance) == GIB
    assert fill(host, instance, 'more', 100).returncode
    assert host.container(instance)['State']['Running']
    # What was written is there, and can be removed.
    assert 'most' in host.inside(instance, 'ls / && rm /most')


def test_a_disk_without_a_size_gets_one_that_holds_what_is_there(host):
    instance, ports = spawn(host, root_gb=0)
    assert size(host, instance) is limits.UNLIMITED
    assert not fill(host, instance, 'most', 1200).returncode
    sync(host)
    before = host.keeper.record(instance.uuid)
    with pytest.raises(exception.LimitNotEnforced,
                       match=r'has 12\d\d MiB .* would have 1024 MiB'):
        host.containers.resize(instance, host.flavor(root_gb=1), ports)
    assert host.keeper.record(instance.uuid) == before
    assert size(host, instance) is limits.UNLIMITED
    host.containers.resize(instance, host.flavor(root_gb=2), ports)
    assert size(host, instance) == 2 * GIB


def test_a_size_that_someone_took_away_is_given_back(host, engine):
    instance, _ports = spawn(host)
    name = rootfs.layer(str(engine.root), 'btrfs',
                        host.container(instance)['Id'])
    subprocess.run(['btrfs', 'qgroup', 'limit', 'none',
                    engine.home / 'data/btrfs/subvolumes' / name], check=True)
    found = host.keeper.repair(instance.uuid)
    assert [str(drift.key) for drift in found] == ['disk.max']
    assert size(host, instance) == GIB


def test_what_an_image_calls_a_volume_is_of_the_root_disk(host, monkeypatch):
    """It would be on the host's own disk, and not move with the server."""
    create = host.dockerd.engine.create
    monkeypatch.setattr(host.dockerd.engine, 'create',
                        lambda name, body: create(
                            name, {**body, 'Volumes': {'/data': {}}}))
    instance = host.instance()
    instance.key_data, instance.config_drive = None, ''
    host.containers.spawn(None, instance, objects.ImageMeta(), host.ports(),
                          file_injection.archive(instance, []))
    assert host.container(instance)['Mounts']
    assert ' /data ' not in host.inside(instance, 'cat /proc/mounts')
    done = fill(host, instance, 'data/file', 1100)
    assert 'quota exceeded' in done.stderr


def test_what_says_names_is_of_the_root_disk_too(host):
    instance, ports = host.instance(), host.ports()
    instance.key_data, instance.config_drive = None, ''
    host.containers.spawn(None, instance, objects.ImageMeta(), ports,
                          file_injection.archive(instance, ports))
    address = ports[0]['network']['subnets'][0]['ips'][0]['address']
    assert f'{address}\ttest' in host.inside(instance, 'cat /etc/hosts')
    mounts = host.inside(instance, 'cat /proc/mounts')
    assert '/etc' not in mounts
    for name in ('hosts', 'hostname', 'resolv.conf'):
        assert fill(host, instance, f'etc/{name}', 1100).returncode
    host.inside(instance, 'echo mine >/etc/hosts')
    host.containers.reboot(instance, ports, 0)
    assert host.inside(instance, 'cat /etc/hosts') == 'mine\n'


def sync(host):
    """Have all that was written counted."""
    subprocess.run(['btrfs', 'filesystem', 'sync', host.dockerd.home / 'data'],
                   check=True)


def test_the_host_offers_what_its_store_has(host):
    facts = docker_host.read_facts(host.dockerd.engine.info())
    assert facts.disk_gb == dockerd_fixture.STORE_SIZE // GIB
    assert facts.root == f'{host.dockerd.root}/btrfs'


def test_quotas_that_are_off_are_said_and_may_be_needed(host, engine):
    path = engine.home / 'data/btrfs'
    node = docker_host.Host(engine.engine, 'compute1', 'nova-vcloud',
                            str(engine.links), engine.cgroup_parent)
    wanted = {'disk.max': '[docker] require_disk_limit'}
    node.check_limits(host.keeper.enforcer, wanted)
    subprocess.run(['btrfs', 'quota', 'disable', path], check=True)
    try:
        other = computehost.ComputeHost(engine, host.lan, host.state)
        reason = other.keeper.enforcer.missing()['disk.max']
        assert f'btrfs quota enable {path}' in reason
        node.check_limits(other.keeper.enforcer, {})
        with pytest.raises(exception.HostNotReady,
                           match=r'require_disk_limit is set and disk\.max'):
            node.check_limits(other.keeper.enforcer, wanted)
        instance, _ports = spawn(other)
        assert 'disk.max' not in other.keeper.status(
            instance.uuid).desired.to_doc()
        assert other.parts.disk.figures(
            other.container(instance)['Id']) == {}
    finally:
        subprocess.run(['btrfs', 'quota', 'enable', path], check=True)
        time.sleep(1)
        subprocess.run(['btrfs', 'quota', 'rescan', '-w', path], check=False)


def test_files_need_another_storage_driver(host, engine, place, tmp_path):
    node = docker_host.Host(engine.engine, 'compute1', 'nova-vcloud',
                            str(engine.links), engine.cgroup_parent)
    other = computehost.ComputeHost(engine, place, tmp_path, disk_files=True)
    with pytest.raises(exception.HostNotReady,
                       match=r'root_disks = file is set .* the storage '
                             'driver overlay2, the engine has btrfs'):
        node.check_limits(other.keeper.enforcer,
                          {'disk.max': '[docker] root_disks = file'})


@pytest.fixture
def driver(host):
    """The driver of the host, set up as nova-compute sets it up."""
    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    factory.register_opts(conf)
    wanted = {('docker', 'url'): host.dockerd.url,
              ('docker', 'runtime_links_path'): str(host.dockerd.links),
              ('docker', 'cgroup_parent'): host.dockerd.cgroup_parent,
              ('docker', 'require_disk_limit'): True,
              ('vcloud_net', 'fabric_namespace'): host.lan.name,
              ('vcloud_net', 'namespace_prefix'): host.lan.prefix,
              ('qos', 'state_path'): str(host.state),
              (None, 'host'): computehost.NAME,
              (None, 'state_path'): str(host.state / 'nova')}
    with options.overridden(conf, wanted):
        found = docker_driver.DockerDriver(None)
        found.init_host(computehost.NAME)
        yield found
        found.cleanup_host(computehost.NAME)


def test_diagnostics_tell_size_and_use(host, driver):
    instance, _ports = spawn(host)
    assert not fill(host, instance, 'file', 500).returncode
    sync(host)
    found = driver.get_diagnostics(instance)
    assert found['disk_limit_bytes'] == GIB
    assert 500 * 2**20 < found['disk_used_bytes'] < 520 * 2**20
    assert found['disk_write_bytes'] >= 0
    assert driver.get_available_resource(computehost.NAME)['local_gb'] == \
        dockerd_fixture.STORE_SIZE // GIB


@pytest.fixture
def moves_of(tmp_path, monkeypatch):
    """Makes what sends and receives, of a host and a method."""
    monkeypatch.setattr(images, 'tag_of',
                        lambda _id: f'{dockerd_fixture.IMAGE}:latest')
    for name in ('spool', 'ssh'):
        (tmp_path / name).mkdir()
    with sshd.private(tmp_path / 'ssh', tmp_path / 'spool') as ssh:
        yield lambda host, method: cold_migration.Moves(
            host.dockerd.engine, host.containers, computehost.Images(),
            method, str(tmp_path / 'spool'),
            transport.Hosts(ssh, 0).remote,
            transfers.Destination(tmp_path / 'spool'),
            lambda _context, _image: True, 2, 64 << 10, 5,
            ephemeral.Store(str(tmp_path / 'ephemeral'), 'xfs'))
    assert transfers.left(tmp_path / 'spool') == []


def test_another_method_of_moving_is_named(host, moves_of):
    instance, ports = spawn(host)
    before = host.container(instance)['State']
    with pytest.raises(exception.MoveFailed,
                       match=r'overlay2, the engine has btrfs.*= image'):
        moves_of(host, 'layer').send(None, instance, sshd.ADDRESS, ports, 0)
    assert host.container(instance)['State'] == before


def test_a_server_moves_as_an_image_to_and_fro(host, dockerd, lan, tmp_path,
                                               moves_of):
    other = computehost.ComputeHost(dockerd, lan, tmp_path / 'other')
    here, there = (moves_of(each, 'image') for each in (host, other))
    instance, ports = spawn(host)
    host.inside(instance, 'echo mine >/file')
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    there.receive(None, instance, manifest, other.ports(), objects.ImageMeta(),
                  power_on=True)
    assert other.inside(instance, 'cat /file') == 'mine\n'
    host.containers.drop_parked(instance.uuid)
    # To a larger flavor, on the way back.
    manifest = there.send(None, instance, sshd.ADDRESS, other.ports(), 0)
    instance.flavor = host.flavor(root_gb=2)
    here.receive(None, instance, manifest, ports, objects.ImageMeta(),
                 power_on=True)
    assert host.inside(instance, 'cat /file') == 'mine\n'
    assert size(host, instance) == 2 * GIB
    other.containers.drop_parked(instance.uuid)
    host.containers.destroy(instance.uuid)
    for side in (here, there):
        side.forget(instance.uuid)


class TestDisk(Contract):
    """Quotas of containers that are stopped."""

    @pytest.fixture
    def place(self, engine):
        made = [engine.engine.create(f'nova-{uuid.uuid4()}', {
            'Image': dockerd_fixture.IMAGE,
            'HostConfig': {'NetworkMode': 'none'}}) for _ in range(2)]
        try:
            yield Place(disk.DiskBackend(engine.engine), *(
                Guest('', name, '') for name in (*made, 'absent')), {})
        finally:
            for container in made:
                engine.engine.remove(container)


@pytest.mark.parametrize('layers', [32, 1])
def test_a_snapshot_is_the_engines_where_only_it_knows_the_store(
        host, tmp_path, layers):
    instance, _ports = spawn(host)
    host.inside(instance, 'echo mine >/note; truncate -s 2G /hole')
    with imageservice.serving(tmp_path) as service:
        taker = snapshot.Snapshots(host.dockerd.engine, host.containers,
                                   service, layers)
        with pytest.raises(exception.DiskTooLarge, match='sparse files'):
            taker.take(None, instance, 'image', lambda **_states: None)
        host.inside(instance, 'rm /hole')
        taker.take(None, instance, 'image', lambda **_states: None)
    said = host.dockerd.docker('load', '--input', str(tmp_path / 'image'))
    name = said.stdout.rpartition(': ')[2].strip()
    try:
        found = host.dockerd.engine.image_get(name)
        assert len(found['RootFS']['Layers']) == min(layers, 2)
        assert found['Config']['Cmd'] == dockerd_fixture.INIT
        other = host.dockerd.engine.create('copy', {'Image': name})
        try:
            assert b'mine\n' in b''.join(host.dockerd.engine.export(other))
        finally:
            host.dockerd.engine.remove(other)
    finally:
        host.dockerd.docker('rmi', name)
