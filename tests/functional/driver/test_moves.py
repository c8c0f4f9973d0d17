# SPDX-License-Identifier: Apache-2.0
"""A server goes from one compute host to another, over real ssh."""

from concurrent import futures
import contextlib
import pathlib
import subprocess

import computehost
import crashes
import dockerd as dockerd_fixture
import lan as lan_fixture
from nova import objects
import pytest
import receivers
import sshd
import tlsd
import transfers

from nova_vcloud import exception
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker import crash_points
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.migration import cold_migration
from nova_vcloud.virt_docker.volumes import ephemeral

#: Steps of a move on the host that is left, and on the other.
AT_SOURCE = ('announced', 'copied', 'stopped', 'sent', 'park', 'left')
AT_DEST = ('base', 'namespace', 'create', 'join', 'limits', 'unpacked',
           'inject', 'start', 'arrived')


@pytest.fixture(scope='module')
def other(dockerd, tmp_path_factory):
    """Another host: engine, fabric, and an ssh server for its spool.

    Servers have user namespaces on one of both hosts.
    """
    folder = tmp_path_factory.mktemp('other')
    (folder / 'spool').mkdir()
    (folder / 'ssh').mkdir()
    (folder / 'tls').mkdir()
    with dockerd_fixture.private(
            remap=dockerd.other_remap) as engine, \
            lan_fixture.private(str(engine.links)) as lan, \
            sshd.private(folder / 'ssh', folder / 'spool') as ssh, \
            tlsd.private(folder / 'tls', folder / 'spool') as tls:
        yield engine, lan, {'ssh': ssh, 'tls': tls}, folder


@pytest.fixture
def pair(request, dockerd, lan, other, tmp_path, monkeypatch):
    """Return the two hosts and what makes their moves.

    A parameter tells which of them keep root disks in files.
    """
    files = getattr(request, 'param', (False, False))
    engine, other_lan, ways, folder = other
    monkeypatch.setattr(images, 'tag_of',
                        lambda _id: f'{dockerd_fixture.IMAGE}:latest')
    hosts = (computehost.ComputeHost(dockerd, lan, tmp_path / 'records',
                                     disk_files=files[0]),
             computehost.ComputeHost(engine, other_lan, folder / 'records',
                                     disk_files=files[1]))

    def make(method: str = 'layer', known: bool = True,
             wait: float = 5, way: str = 'ssh') -> list[cold_migration.Moves]:
        destination = transfers.Destination(folder / 'spool')
        both = [cold_migration.Moves(
            host.dockerd.engine, host.containers, computehost.Images(),
            method, str(folder / 'spool'),
            transport.Hosts(ways[way], 0).remote, destination,
            lambda _context, _image: known, 2, 64 << 10, wait,
            ephemeral.Store(str(host.state / 'disks'), 'xfs'))
            for host in hosts]
        destination.check = both[1].check_can_receive
        return both
    yield hosts, make
    for host in hosts:
        for uuid in list(host.containers.list()):
            host.containers.destroy(uuid)
        assert host.keeper.records.uuids() == []
    assert transfers.left(folder / 'spool') == []


def same_image(hosts) -> None:
    """Let both engines have the very same image."""
    first, second = (h.dockerd for h in hosts)
    with subprocess.Popen(
            ['docker', '--host', first.url, 'save', dockerd_fixture.IMAGE],
            stdout=subprocess.PIPE) as save:
        subprocess.run(['docker', '--host', second.url, 'load'], check=True,
                       stdin=save.stdout, capture_output=True)


def there(host, instance) -> str:
    return host.inside(instance, 'cat /root/file; ls /bin/vi 2>&1')


def spawn(host):
    instance = host.instance(vcpus=1, resources__CUSTOM_ECU='1')
    ports = host.ports()
    host.spawn(instance, ports)
    host.inside(instance, 'echo mine >/root/file; rm /bin/vi')
    return instance, ports


@pytest.mark.parametrize(('method', 'known', 'way'), [
    ('layer', True, 'ssh'), ('layer', True, 'tls'), ('layer', False, 'ssh'),
    ('image', True, 'tls')])
def test_a_server_goes_and_comes_back(pair, method, known, way):
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make(method, known, way=way)
    instance, ports = spawn(source)
    before = there(source, instance)
    assert before == 'mine\nls: /bin/vi: No such file or directory\n'
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    assert source.containers.list() == {}
    assert source.keeper.records.uuids() == []
    assert source.network.namespaces() == set()
    other.receive(None, instance, manifest, dest.ports(), objects.ImageMeta(),
                  power_on=True)
    assert there(dest, instance) == before
    assert not dest.keeper.status(instance.uuid).drift
    # Nobody has confirmed: the way back is whole.
    dest.containers.destroy(instance.uuid)
    other.forget(instance.uuid)
    source.containers.restore(instance, ports, power_on=True)
    assert there(source, instance) == before
    assert not source.keeper.status(instance.uuid).drift


@pytest.mark.parametrize('pair', [
    (True, False), (False, True), (True, True)], indirect=True,
    ids=['from', 'to', 'both'])
def test_a_root_disk_in_a_file_goes_and_comes_back(pair):
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make()
    instance, ports = spawn(source)
    before = there(source, instance)
    source.inside(instance, 'dd if=/dev/zero of=/big bs=1M count=50')
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    old = instance.flavor
    instance.flavor = source.flavor(root_gb=2)
    other.receive(None, instance, manifest, dest.ports(), objects.ImageMeta(),
                  power_on=True)
    assert there(dest, instance) == before
    assert '52428800' in dest.inside(instance, 'ls -l /big')
    assert not dest.keeper.status(instance.uuid).drift
    if dest.parts.disk.support().enforced:
        assert ' 2048 ' in dest.inside(instance, 'df -m /')
    dest.containers.destroy(instance.uuid)
    other.forget(instance.uuid)
    unmount_disks(source)
    instance.flavor = old
    source.containers.restore(instance, ports, power_on=True)
    assert there(source, instance) == before
    # At rest, it goes as well.
    source.containers.stop(instance.uuid, 0)
    unmount_disks(source)
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    other.receive(None, instance, manifest, dest.ports(), objects.ImageMeta(),
                  power_on=True)
    source.containers.drop_parked(instance.uuid)
    assert there(dest, instance) == before


def unmount_disks(host) -> None:
    """Have no disk mounted, as after a reboot of the host."""
    for path in (host.dockerd.root / 'overlay2').iterdir():
        if path.is_mount():
            subprocess.run(['umount', path], check=True)


def test_what_has_come_is_made_once(pair):
    """Asked for again, it must not remove what it has made."""
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make()
    instance, ports = spawn(source)
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    there_too = dest.ports()
    other.receive(None, instance, manifest, there_too, objects.ImageMeta(),
                  power_on=True)
    with pytest.raises(exception.MoveFailed, match='finished already'):
        other.receive(None, instance, manifest, there_too,
                      objects.ImageMeta(), power_on=True)
    assert there(dest, instance).startswith('mine')
    source.containers.drop_parked(instance.uuid)


def test_without_the_image_there_a_server_takes_it_along(pair):
    hosts, make = pair
    source, dest = hosts
    dest.dockerd.engine.image_remove(dockerd_fixture.IMAGE)
    here, other = make('layer', known=False)
    instance, ports = spawn(source)
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    other.receive(None, instance, manifest, dest.ports(), objects.ImageMeta(),
                  power_on=True)
    assert there(dest, instance).startswith('mine')
    source.containers.drop_parked(instance.uuid)


def test_another_image_of_that_name_is_noticed(pair):
    hosts, make = pair
    source, dest = hosts
    engine = dest.dockerd.engine
    engine.image_remove(dockerd_fixture.IMAGE)
    folder = pathlib.Path(dest.state) / 'else'
    folder.mkdir(parents=True)
    (folder / 'file').write_text('not busybox')
    with subprocess.Popen(['tar', '-C', folder, '-c', '.'],
                          stdout=subprocess.PIPE) as tar:
        engine.image_import(iter([tar.stdout.read()]),
                            f'{dockerd_fixture.IMAGE}:latest')
    here, other = make()
    instance, ports = spawn(source)
    started = source.container(instance)['State']['StartedAt']
    with pytest.raises(exception.MoveFailed, match='other layers'):
        here.send(None, instance, sshd.ADDRESS, ports, 0)
    assert source.container(instance)['State']['StartedAt'] == started
    # Of a release that does not try it before.
    here._destination.check = None
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    with pytest.raises(exception.MoveFailed, match='other layers'):
        other.receive(None, instance, manifest, dest.ports(),
                      objects.ImageMeta(), power_on=True)
    # What came is kept for another try; here it is thrown away.
    assert other.manifest(instance.uuid) == manifest
    other.forget(instance.uuid)
    source.containers.restore(instance, ports, power_on=True)
    assert there(source, instance).startswith('mine')
    engine.image_remove(dockerd_fixture.IMAGE)


def test_a_host_without_room_is_told_before_anything_stops(pair,
                                                           monkeypatch):
    hosts, make = pair
    instance, ports = spawn(hosts[0])
    started = hosts[0].container(instance)['State']['StartedAt']
    here, _other = make()
    monkeypatch.setattr(here, '_size', lambda *_args: 1 << 60)
    with pytest.raises(exception.MoveFailed, match='has room for'):
        here.send(None, instance, sshd.ADDRESS, ports, 0)
    assert hosts[0].container(instance)['State']['StartedAt'] == started


def test_a_server_that_cannot_be_sent_runs_on(pair, monkeypatch):
    hosts, make = pair
    instance, ports = spawn(hosts[0])
    here, _other = make()

    def fail(*_args):
        raise exception.MoveFailed('cut off')
    monkeypatch.setattr(transport.Delivery, 'put', fail)
    with pytest.raises(exception.MoveFailed, match='cut off'):
        here.send(None, instance, sshd.ADDRESS, ports, 0)
    assert there(hosts[0], instance).startswith('mine')
    assert not hosts[0].keeper.status(instance.uuid).drift


@pytest.mark.parametrize('way', ['ssh', 'tls'])
@pytest.mark.parametrize('step', ['announced', 'stopped'])
def test_a_server_runs_on_when_the_other_host_does_not_answer(
        pair, other, monkeypatch, way, step):
    hosts, make = pair
    same_image(hosts)
    source, spool = hosts[0], other[-1] / 'spool'
    instance, ports = spawn(source)
    here, _other = make(way=way)
    seconds = [120]
    monkeypatch.setattr(transport.Session, '_timeout', property(
        lambda _session: seconds[0], lambda *_args: None), raising=False)
    with contextlib.ExitStack() as stack:
        def reached(name):
            if name == step:
                stack.enter_context(receivers.suspended(spool))
                seconds[0] = 1
        monkeypatch.setattr(crash_points, 'reached', reached)
        with pytest.raises(exception.MoveFailed,
                           match=f'host {sshd.ADDRESS}: nova-vcloud-receive '
                                 '(did not answer|received no data)'):
            here.send(None, instance, sshd.ADDRESS, ports, 0)
        assert there(source, instance).startswith('mine')
        assert not source.keeper.status(instance.uuid).drift


def test_the_engine_goes_away_while_a_server_is_sent(pair, monkeypatch):
    hosts, make = pair
    source = hosts[0]
    instance, ports = spawn(source)
    here, _other = make()
    real = transport.Delivery.put

    def send(*args):
        source.dockerd.kill()
        real(*args)
        source.dockerd.start()
        raise exception.MoveFailed('the engine was away')
    monkeypatch.setattr(transport.Delivery, 'put', send)
    with pytest.raises(exception.MoveFailed, match='was away'):
        here.send(None, instance, sshd.ADDRESS, ports, 0)
    assert there(source, instance).startswith('mine')


@pytest.fixture
def mortal(monkeypatch):
    """Return what has an engine die at a step, and come back at once."""
    died = []
    with futures.ThreadPoolExecutor(1) as pool:
        def at(step: str, engine: dockerd_fixture.Dockerd) -> list:
            def reached(name: str) -> None:
                if name == step and not died:
                    engine.kill()
                    died.append(pool.submit(engine.start))
            monkeypatch.setattr(crash_points, 'reached', reached)
            return died
        yield at
    for start in died:
        start.result()


@pytest.mark.parametrize('step', crashes.some(AT_SOURCE, 2))
def test_the_engine_that_is_left_dies(pair, mortal, step):
    """The server is whole on the one host or the other."""
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make(wait=60)
    instance, ports = spawn(source)
    before = there(source, instance)
    died = mortal(step, source.dockerd)
    try:
        manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    except exception.NovaVcloudException:
        runs, empty = source, dest
    else:
        runs, empty = dest, source
        other.receive(None, instance, manifest, dest.ports(),
                      objects.ImageMeta(), power_on=True)
        died[0].result()
        source.containers.drop_parked(instance.uuid)
    assert died
    died[0].result()
    assert there(runs, instance) == before
    assert not runs.keeper.status(instance.uuid).drift
    assert empty.dockerd.docker('ps', '--all', '--quiet').stdout == ''


@pytest.mark.parametrize('step', crashes.some(AT_DEST, 4))
def test_the_engine_where_a_server_arrives_dies(pair, mortal, step):
    """It is waited for."""
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make(wait=60)
    instance, ports = spawn(source)
    before = there(source, instance)
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    died = mortal(step, dest.dockerd)
    other.receive(None, instance, manifest, dest.ports(), objects.ImageMeta(),
                  power_on=True)
    assert died
    died[0].result()
    assert there(dest, instance) == before
    assert not dest.keeper.status(instance.uuid).drift
    source.containers.drop_parked(instance.uuid)


def test_a_server_goes_on_when_a_move_is_cut_off_while_it_is_still(pair):
    """The moment in which it is frozen, for its last writes to end."""
    hosts, _make = pair
    instance, ports = spawn(hosts[0])
    hosts[0].dockerd.engine.pause(hosts[0].container(instance)['Id'])
    hosts[0].containers.restore(instance, ports, power_on=True)
    assert there(hosts[0], instance).startswith('mine')


def test_what_a_server_writes_while_it_is_sent_arrives(pair, monkeypatch):
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make()
    instance, ports = spawn(source)
    source.inside(instance, 'head -c 3000000 /dev/urandom >/root/big; '
                            'echo 1 >/root/gone; mkdir /root/dir; sync')

    def reached(step: str) -> None:
        if step == 'copied':
            source.inside(instance, 'echo late >/root/late; rm /root/gone; '
                                    'mv /root/dir /root/moved; '
                                    'echo more >>/root/file')
    monkeypatch.setattr(crash_points, 'reached', reached)
    digest = source.inside(instance, 'sha256sum /root/big')
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    sizes = [path.stat().st_size for path in sorted(
        pathlib.Path(other._spool.folder(instance.uuid)).glob('*.tar'))]
    other.receive(None, instance, manifest, dest.ports(), objects.ImageMeta(),
                  power_on=True)
    assert dest.inside(instance, 'sha256sum /root/big') == digest
    assert dest.inside(instance, 'cd /root; ls; cat late file') == (
        'big\nfile\nlate\nmoved\nlate\nmine\nmore\n')
    assert len(sizes) == 2
    source.containers.drop_parked(instance.uuid)


@pytest.mark.parametrize('step', AT_SOURCE)
@pytest.mark.parametrize('error', [
    RecursionError('too deep'), OSError(36, 'File name too long')],
    ids=['recursion', 'os'])
def test_whatever_fails_at_a_step_the_server_runs_on(pair, monkeypatch, step,
                                                     error):
    """Also when its disks do not come back at once."""
    hosts, make = pair
    same_image(hosts)
    source = hosts[0]
    instance, ports = spawn(source)
    here, _other = make()

    def reached(name: str) -> None:
        if name == step:
            raise error

    def reattach() -> None:
        raise OSError(5, 'no disk')
    monkeypatch.setattr(crash_points, 'reached', reached)
    with pytest.raises((type(error), OSError)):
        here.send(None, instance, sshd.ADDRESS, ports, 0, reattach=reattach)
    monkeypatch.undo()
    assert there(source, instance).startswith('mine')
    assert not source.keeper.status(instance.uuid).drift


def spoil_layer(_here, other, _dest, instance) -> None:
    """Have a layer that no archive is in."""
    folder = pathlib.Path(other._spool.folder(instance.uuid))
    (folder / 'layer.tar').write_bytes(b'\1' * 4096)


def take_name(_here, _other, dest, instance) -> None:
    """Have the name of its container in use, by somebody else."""
    dest.dockerd.docker('create', '--name', f'nova-{instance.uuid}',
                        dockerd_fixture.IMAGE)


def kill_engine(_here, _other, dest, _instance) -> None:
    dest.dockerd.kill()


def want(**specs):
    """Have a move to another flavor."""
    def wish(here, other, dest, instance) -> None:
        def check_can_receive(context, instance, size, entries):
            wished = instance.obj_clone()
            wished.flavor = dest.flavor(**specs)
            other.check_can_receive(context, wished, size, entries)
        here._destination.check = check_can_receive
    return wish


def need(size: int, entries: int):
    """Have a server that has written so much."""
    def wish(here, other, _dest, _instance) -> None:
        here._destination.check = lambda context, instance, *_needs: \
            other.check_can_receive(context, instance, size, entries)
    return wish


@pytest.mark.parametrize(('pair', 'spoil', 'said'), [
    ((False, False), spoil_layer, 'tar: '),
    ((False, False), take_name, 'in use'),
    ((False, False), kill_engine, 'engine'),
    ((False, False), want(vcloud__devices='/dev/no-such-device'),
     '/dev/no-such-device'),
    ((False, False), want(hw__cpu_policy='dedicated'), 'CPUs'),
    ((False, False), need(1 << 60, 1), 'the Docker engine has room for'),
    ((False, False), need(1, 1 << 60), 'the Docker engine has .* inodes'),
    ((False, True), need(2 << 30, 1), 'the root disk .* has room for'),
    ((False, True), need(1, 1 << 21), 'the root disk .* inodes'),
], indirect=['pair'], ids=[
    'layer', 'name', 'engine', 'device', 'cpus', 'room', 'inodes', 'disk',
    'disk-inodes'])
def test_what_would_fail_there_is_told_before_the_stop(pair, monkeypatch,
                                                       spoil, said):
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make(wait=0)
    instance, ports = spawn(source)
    started = source.container(instance)['State']['StartedAt']

    def reached(step: str) -> None:
        if step == 'copied':
            spoil(here, other, dest, instance)
    monkeypatch.setattr(crash_points, 'reached', reached)
    try:
        with pytest.raises(exception.NovaVcloudException, match=said):
            here.send(None, instance, sshd.ADDRESS, ports, 0)
        monkeypatch.undo()
    finally:
        if spoil is kill_engine:
            dest.dockerd.start()
        elif spoil is take_name:
            dest.dockerd.docker('rm', f'nova-{instance.uuid}')
    assert source.container(instance)['State']['StartedAt'] == started
    assert there(source, instance).startswith('mine')
    assert dest.dockerd.docker('ps', '--all', '--quiet').stdout == ''
    assert dest.keeper.records.uuids() == []
    assert dest.network.namespaces() == set()


@pytest.mark.parametrize('runs', [True, False])
def test_what_a_server_needs_there_is_counted(pair, monkeypatch, runs):
    """Bytes on disk and inodes; one of several names once, holes not."""
    hosts, make = pair
    same_image(hosts)
    source, dest = hosts
    here, other = make()
    instance, ports = spawn(source)
    asked = []

    def check_can_receive(context, server, size, entries):
        asked.append((size, entries))
        other.check_can_receive(context, server, size, entries)
    here._destination.check = check_can_receive
    source.inside(instance, """
        mkdir /root/d; head -c 3000000 /dev/urandom >/root/d/big
        for n in 1 2 3 4 5 6 7 8 9; do ln /root/d/big /root/d/$n; done
        truncate -s 1G /root/d/hole; sync""")
    if not runs:
        source.containers.stop(instance.uuid, 0)
    manifest = here.send(None, instance, sshd.ADDRESS, ports, 0)
    (size, entries), = asked
    assert 3_000_000 <= size < 4_000_000
    assert 4 <= entries < 30
    other.receive(None, instance, manifest, dest.ports(), objects.ImageMeta(),
                  power_on=True)
    assert there(dest, instance).startswith('mine')
    source.containers.drop_parked(instance.uuid)
