# SPDX-License-Identifier: Apache-2.0
"""Ephemeral disks go with their servers to another host, and grow there."""

import shlex
import subprocess
import types

import computehost
import dockerd as dockerd_fixture
import lan as lan_fixture
from nova import exception as nova_exception
from nova import objects
import pytest
import sshd
import transfers
import volumehost

from nova_vcloud import exception
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.migration import cold_migration

GIB = 1 << 30
ONE = {'root_device_name': '/dev/vda', 'ephemerals': [
    {'device_name': '/dev/vdb', 'size': 1, 'guest_format': None}]}
NONE = {'root_device_name': '/dev/vda', 'ephemerals': []}
MIGRATION = types.SimpleNamespace(source_compute='one', dest_compute='other')


@pytest.fixture(scope='module')
def other(dockerd, tmp_path_factory):
    """Another host: engine, fabric, and an ssh server for its spool.

    Servers have user namespaces on one of both hosts.
    """
    folder = tmp_path_factory.mktemp('other')
    (folder / 'spool').mkdir()
    (folder / 'ssh').mkdir()
    with dockerd_fixture.private(
            remap=dockerd.other_remap) as engine, \
            lan_fixture.private(str(engine.links)) as lan, \
            sshd.private(folder / 'ssh', folder / 'spool') as ssh:
        yield engine, lan, ssh, folder


@pytest.fixture
def pair(dockerd, lan, other, tmp_path, monkeypatch, request):
    """Return two hosts whose servers go from one to the other."""
    engine, other_lan, ssh, folder = other
    monkeypatch.setattr(images, 'tag_of',
                        lambda _id: f'{dockerd_fixture.IMAGE}:latest')
    shown_as = getattr(request, 'param', 'filesystem')
    for name in ('here', 'there'):
        (tmp_path / name).mkdir()
    with volumehost.having(dockerd, lan, tmp_path / 'here',
                           shown_as) as here, \
            volumehost.having(engine, other_lan, tmp_path / 'there',
                              shown_as) as there:
        for host in (here, there):
            host.verbs.moving_by(cold_migration.Moves(
                host.dockerd.engine, host.containers, computehost.Images(),
                'layer', str(folder / 'spool'),
                transport.Hosts(ssh, 0).remote,
                transfers.Destination(folder / 'spool'),
                lambda _context, _image: False, 2, 64 << 10, 5,
                host.ephemerals))
        yield here, there
    assert transfers.left(folder / 'spool') == []


def spawn(host, info=ONE, ephemeral_gb=1):
    """Return a server that has written, (instance, ports)."""
    instance, ports = host.instance(), host.ports()
    instance.flavor.ephemeral_gb = ephemeral_gb
    instance.migration_context = instance.old_flavor = None
    instance.default_ephemeral_device = None
    with host.verbs.spawned(instance, info):
        host.containers.spawn(None, instance, objects.ImageMeta(), ports, b'')
    if ephemeral_gb:
        write(host, instance, 'kept')
    return instance, ports


def write(host, instance, word):
    if host.shown_as == 'filesystem':
        host.inside(instance, f'echo {word} >/volumes/vdb/note; sync')
    else:
        host.inside(instance, f'printf {word} | dd of=/dev/vdb bs=4 count=1 '
                              'seek=100000 conv=fsync')


def read(host, instance):
    if host.shown_as == 'filesystem':
        return host.inside(instance, 'cat /volumes/vdb/note').strip()
    return host.inside(
        instance, 'dd if=/dev/vdb bs=4 count=1 skip=100000 2>/dev/null')


def size(host, instance):
    """Return bytes of the disk, as the server sees it."""
    if host.shown_as == 'filesystem':
        return 1024 * int(host.inside(
            instance, 'df -k /volumes/vdb | tail -1').split()[1])
    return int(host.inside(instance, 'blockdev --getsize64 /dev/vdb'))


def send(host, instance, ports, flavor=None, info=ONE):
    return host.verbs.migrate_disk_and_power_off(
        None, instance, sshd.ADDRESS, flavor or instance.flavor, ports, info)


def receive(host, instance, manifest, info=ONE):
    host.verbs.finish_migration(
        None, MIGRATION, instance, manifest, host.ports(), objects.ImageMeta(),
        False, None, info)


def confirm(host, instance, ports):
    host.verbs.confirm_migration(None, MIGRATION, instance, ports)


def revert(host, instance, ports, info=ONE):
    host.verbs.finish_revert_migration(None, instance, ports, MIGRATION, info)


def files(host):
    return sorted(path.name for path in
                  (host.folder / 'instances').glob('*/*'))


def lost(host, instance):
    """Do what the driver does when Nova destroys a server."""
    host.containers.destroy(instance.uuid)
    host.verbs._moves.forget(instance.uuid)
    host.volumes.release(instance.uuid)
    host.ephemerals.remove(instance.uuid)


@pytest.mark.parametrize('pair', ['filesystem', 'device'], indirect=True)
def test_a_disk_goes_along_and_comes_back(pair):
    here, there = pair
    instance, ports = spawn(here)
    manifest = send(here, instance, ports)
    assert files(here) == ['disk.eph0']
    assert volumehost.loops_of(here.folder / 'instances') == []
    receive(there, instance, manifest)
    assert read(there, instance) == 'kept'
    path = there.folder / 'instances' / instance.uuid / 'disk.eph0'
    assert path.stat().st_blocks * 512 < GIB // 8
    write(there, instance, 'more')
    lost(there, instance)
    revert(here, instance, ports)
    assert read(here, instance) == 'kept'
    manifest = send(here, instance, ports)
    receive(there, instance, manifest)
    confirm(here, instance, ports)
    assert files(here) == []
    assert read(there, instance) == 'kept'


def test_it_grows_on_the_way_and_not_back(pair):
    here, there = pair
    instance, ports = spawn(here)
    small, large = instance.flavor, here.flavor()
    large.ephemeral_gb = 3
    manifest = send(here, instance, ports, large)
    instance.old_flavor, instance.flavor = small, large
    receive(there, instance, manifest)
    assert read(there, instance) == 'kept'
    assert 2.7 * GIB < size(there, instance) <= 3 * GIB
    lost(there, instance)
    instance.old_flavor, instance.flavor = None, small
    revert(here, instance, ports)
    assert size(here, instance) <= GIB
    assert read(here, instance) == 'kept'


def test_a_flavor_that_brings_the_first_one(pair):
    here, there = pair
    instance, ports = spawn(here, NONE, 0)
    small, large = instance.flavor, here.flavor()
    large.ephemeral_gb = 1
    manifest = send(here, instance, ports, large, NONE)
    instance.old_flavor, instance.flavor = small, large
    receive(there, instance, manifest, NONE)
    assert instance.default_ephemeral_device == '/dev/vdb'
    assert 0.9 * GIB < size(there, instance) <= GIB
    lost(there, instance)
    instance.old_flavor, instance.flavor = None, small
    revert(here, instance, ports, NONE)
    assert files(here) == []


def test_a_smaller_one_is_refused_before_anything_stops(pair):
    here, _there = pair
    instance, ports = spawn(here)
    started = here.container(instance)['State']['StartedAt']
    none = here.flavor()
    with pytest.raises(nova_exception.InstanceFaultRollback,
                       match='from 1 GB to 0 GB'):
        send(here, instance, ports, none)
    assert here.container(instance)['State']['StartedAt'] == started
    assert read(here, instance) == 'kept'


def planted(monkeypatch, step):
    def reached(name):
        if name == step:
            raise exception.MoveFailed('planted')
    monkeypatch.setattr(crash_points, 'reached', reached)


@pytest.mark.parametrize('step', ['stopped', 'left'])
def test_a_server_that_cannot_leave_has_its_disk(pair, monkeypatch, step):
    here, _there = pair
    instance, ports = spawn(here)
    planted(monkeypatch, step)
    with pytest.raises(nova_exception.InstanceFaultRollback,
                       match='planted'):
        send(here, instance, ports)
    assert read(here, instance) == 'kept'


def test_a_disk_that_cannot_be_read_whole_is_not_taken_for_one(
        pair, monkeypatch):
    here, _there = pair
    instance, ports = spawn(here)
    real = subprocess.Popen

    def broken(words, *args, **kwargs):
        if words[0] == 'tar' and words[-1] == 'disk.eph0':
            words = ['sh', '-c',
                     f'{shlex.join(words)} | head -c 4000; exit 2']
        return real(words, *args, **kwargs)
    monkeypatch.setattr(subprocess, 'Popen', broken)
    with pytest.raises(nova_exception.InstanceFaultRollback,
                       match='tar could not read'):
        send(here, instance, ports)
    assert read(here, instance) == 'kept'


@pytest.mark.parametrize('step', ['create', 'arrived'])
def test_an_arrival_that_fails_is_done_again(pair, monkeypatch, step):
    here, there = pair
    instance, ports = spawn(here)
    manifest = send(here, instance, ports)
    with monkeypatch.context() as for_now:
        planted(for_now, step)
        with pytest.raises(nova_exception.InternalError, match='planted'):
            receive(there, instance, manifest)
    if step != 'arrived':
        assert files(there) == []
        assert volumehost.loops_of(there.folder) == []
    receive(there, instance, manifest)
    assert read(there, instance) == 'kept'
    confirm(here, instance, ports)


def test_an_arrival_that_was_cut_off_is_done_again(pair):
    """As when nova-compute is killed with the server just started."""
    here, there = pair
    instance, ports = spawn(here)
    manifest = send(here, instance, ports)
    there.verbs._with_moved_disks(
        instance, ONE, there.verbs._moves._spool.folder(instance.uuid),
        ['disk.eph0']).__enter__()
    there.containers.spawn(None, instance, objects.ImageMeta(),
                           there.ports(), b'')
    write(there, instance, 'lost')
    receive(there, instance, manifest)
    assert read(there, instance) == 'kept'
    assert len(volumehost.loops_of(there.folder / 'instances')) == 1
    confirm(here, instance, ports)
