# SPDX-License-Identifier: Apache-2.0
"""Servers whose snapshot would cost the host, the server or its data dear."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import subprocess
import tarfile
import threading

import computehost
import imageservice
from nova import exception as nova_exception
from nova import objects
from nova.compute import task_states
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import disk_copies
from nova_vcloud.virt_docker.guest import snapshot
from nova_vcloud.virt_docker.guest import uploads

GIB = 2**30
MIB = 2**20
TAG = 'vcloud-test/odd:latest'
NASTY = ['pa$$word$1', '${HOME}', 'ü', 'line\nline', '"quoted"', "it's",
         'back\\slash', '\\n', '#no comment', ' spaced ', '=', '&<>',
         '\u2028', '\U0001f40b', 'tab\there', '']


@pytest.fixture
def service(tmp_path):
    with imageservice.serving(tmp_path) as found:
        yield found


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'state')
    yield found
    for server in list(found.containers.list()):
        found.containers.destroy(server)
    assert copies(dockerd) == []
    assert not [name for name in dockerd.engine.image_names('*')
                if name.endswith(':snapshot')]


def copies(dockerd) -> list[pathlib.Path]:
    """Return what is left of snapshots on a host."""
    folder = dockerd.home / 'data' / disk_copies.FOLDER
    return list(folder.iterdir()) if folder.exists() else []


def spawned(host, root_gb=1, power_on=True):
    instance, ports = host.instance(root_gb=root_gb), host.ports()
    host.containers.spawn(None, instance, objects.ImageMeta(), ports, b'',
                          power_on)
    return instance, ports


def taker(host, service, layers=32):
    return snapshot.Snapshots(host.dockerd.engine, host.containers, service,
                              layers)


def take(host, service, instance, layers=32):
    taker(host, service, layers).take(
        None, instance, instance.uuid, lambda **_states: None)
    return service.path(instance.uuid)


@contextlib.contextmanager
def loaded(host, path):
    """Have an image on the engine for a while; yield its description."""
    done = host.dockerd.docker('load', '--input', str(path))
    name = done.stdout.rpartition(': ')[2].strip()
    try:
        yield host.dockerd.engine.image_get(name)
    finally:
        host.dockerd.docker('rmi', '--force', name)


def pauses(host, since: str) -> list[str]:
    """Return when servers were frozen and thawed, in words."""
    done = host.dockerd.docker(
        'events', '--since', since, '--until', now(host), '--filter',
        'event=pause', '--filter', 'event=unpause', '--format', '{{.Action}}')
    return done.stdout.split()


def now(host) -> str:
    return host.dockerd.docker(
        'info', '--format', '{{.SystemTime}}').stdout.strip()


def used(host) -> int:
    """Return bytes on disk of all that an engine has."""
    done = subprocess.run(['du', '-sxB1', host.dockerd.home / 'data'],
                          capture_output=True, check=False)
    return int(done.stdout.split()[0])


# Holes


@pytest.mark.parametrize('make', [
    'truncate -s 3G /hole',
    'for n in 1 2 3 4 5 6; do truncate -s 700M /hole$n; done',
    'mkdir /d; dd if=/dev/zero of=/d/end bs=1 count=1 seek=3G 2>/dev/null'])
def test_holes_larger_than_the_disk_are_refused_before_it_is_frozen(
        host, service, make):
    instance, _ports = spawned(host)
    host.inside(instance, make)
    before, since = used(host), now(host)
    with pytest.raises(exception.DiskTooLarge, match='sparse files'):
        take(host, service, instance)
    assert pauses(host, since) == []
    assert used(host) - before < 64 * MIB
    assert service.pieces == 0
    host.inside(instance, 'rm -rf /hole* /d')
    assert take(host, service, instance).stat().st_size < 64 * MIB
    assert pauses(host, since) == ['pause', 'unpause']


@pytest.mark.parametrize('layers', [32, 1])
def test_a_hole_costs_no_disk_of_the_host(host, service, layers):
    service.keep = False
    instance, _ports = spawned(host)
    host.inside(instance, 'truncate -s 300M /hole; echo end >>/hole')
    before, seen = used(host), []
    whole = service.take

    def looked(image_id, chunks):
        seen.append(used(host) - before)
        whole(image_id, chunks)
    service.take = looked
    take(host, service, instance, layers)
    assert service.records[instance.uuid]['size'] > 300 * MIB
    assert seen[0] < 64 * MIB


def test_a_hole_that_comes_after_the_look_is_not_written_out(
        host, service, monkeypatch):
    instance, _ports = spawned(host)
    host.inside(instance, 'truncate -s 900G /hole')
    monkeypatch.setattr(disk_copies, 'apparent', lambda _layer: 0)
    before = used(host)
    with pytest.raises(exception.DiskTooLarge):
        take(host, service, instance)
    assert used(host) - before < 64 * MIB
    assert service.pieces == 0
    assert host.containers.running(instance.uuid)
    assert not host.container(instance)['State']['Paused']


def test_what_does_not_fit_beside_is_refused(host, service, monkeypatch):
    instance, _ports = spawned(host)
    host.inside(instance, 'dd if=/dev/zero of=/file bs=1M count=20')
    usage = shutil.disk_usage(host.dockerd.home)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _path: type(usage)(
        usage.total, usage.used, disk_copies.RESERVE + 30 * MIB))
    since = now(host)
    with pytest.raises(exception.DiskTooLarge, match='no space left'):
        take(host, service, instance)
    assert pauses(host, since) == []


# Names and depths

DEEP = ('i=0; while [ $i -lt 1200 ]; do mkdir abcdef; cd abcdef; '
        'i=$((i+1)); done')


@pytest.mark.parametrize(('make', 'reason'), [
    ('>/.wh.mine', 'begins with ".wh."'),
    (DEEP, 'path|name too long')])
def test_what_an_image_cannot_hold_is_refused(host, service, make, reason):
    instance, _ports = spawned(host)
    host.inside(instance, make)
    with pytest.raises((exception.InvalidImageArchive, exception.MoveFailed),
                       match=f'(?i){reason}'):
        take(host, service, instance)
    assert service.pieces == 0
    assert not host.container(instance)['State']['Paused']


SCRIPT = r'''
mkdir -p /keep/deep /gone /again/old /attr; echo a >/keep/deep/file
ln /keep/deep/file /keep/hard; ln -s ../x /keep/soft; mkfifo /keep/pipe
rm -rf /root; mkdir /root; echo new >/root/new; rm /bin/vi /bin/wc
chmod 4751 /keep/hard; chown 1234:3000000 /keep/deep/file
printf x >"$(printf '/keep/\377\376')"; printf x >"/keep/new
line"; truncate -s 5M /keep/hole; echo end >>/keep/hole
n=$(printf 'n%.0s' $(seq 200)); mkdir -p /keep/$n/$n/$n
echo l >/keep/$n/$n/$n/$n
touch -d 2001-01-01 /keep/old
dd if=/dev/urandom of=/keep/data bs=1M count=3
'''


def files(data: bytes) -> dict:
    """Return what a tar of a root filesystem has, by name."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            name = info.name.removeprefix('./').rstrip('/')
            body = tar.extractfile(info) if info.isreg() else None
            # Of hard links any may come first.
            text = (hashlib.sha256(body.read()).hexdigest() if body
                    else info.linkname if info.issym() else '')
            found[name] = (info.isdir(), info.issym(), info.mode, info.uid,
                           info.gid, int(info.mtime), info.size * (
                               not info.islnk()), text)
            if info.islnk():
                found[name] = (*found[name][:-2],
                               *found[info.linkname.removeprefix('./')][-2:])
    return {name: value for name, value in found.items() if not (
        name.startswith(('dev', 'proc', 'sys', '.dockerenv', 'etc')))}


@pytest.mark.parametrize('layers', [32, 1])
def test_all_files_are_in_it_as_they_are(host, service, layers):
    instance, _ports = spawned(host)
    host.inside(instance, SCRIPT)
    path = take(host, service, instance, layers)
    host.containers.stop(instance.uuid, 0)
    engine = host.dockerd.engine
    wanted = files(b''.join(engine.export(host.container(instance)['Id'])))
    with loaded(host, path) as image:
        assert (len(image['RootFS']['Layers']) == 1) is (layers == 1)
        other = engine.create('copy', {'Image': image['Id']})
        try:
            found = files(b''.join(engine.export(other)))
        finally:
            engine.remove(other)
    assert 'keep/deep/file' in wanted
    assert 'bin/vi' not in wanted
    assert found == wanted


def test_what_changes_while_it_is_copied_is_of_one_moment(host, service):
    """A counter and its copy, written one after the other, agree."""
    instance, _ports = spawned(host)
    host.dockerd.docker('exec', '--detach', f'nova-{instance.uuid}', 'sh',
                        '-c', 'dd if=/dev/urandom of=/data bs=1M count=60; '
                        'i=0; while :; do i=$((i+1)); echo $i >/a; '
                        'echo $i >/b; mv /a /c; mv /b /d; done')
    while 'd\n' not in host.inside(instance, 'ls / | grep "^d$"'):
        pass
    path = take(host, service, instance)
    assert host.containers.running(instance.uuid)
    with loaded(host, path) as image:
        engine = host.dockerd.engine
        other = engine.create('copy', {'Image': image['Id']})
        try:
            data = b''.join(engine.export(other))
        finally:
            engine.remove(other)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        first, second = (int(tar.extractfile(name).read())
                         for name in ('c', 'd'))
    assert first - second in (0, 1)


def test_a_frozen_server_stays_so_and_one_that_was_left_frozen_runs_on(
        host, service):
    instance, _ports = spawned(host)
    container = host.container(instance)
    host.containers.pause(instance.uuid)
    since = now(host)
    take(host, service, instance)
    assert pauses(host, since) == []
    assert host.container(instance)['State']['Paused']
    # What a nova-compute leaves that is killed just now.
    folder = host.dockerd.home / 'data' / disk_copies.FOLDER / 'image'
    disk_copies.make(str(folder))
    disk_copies.note_frozen(str(folder), container['Id'])
    taker(host, service).remove_leftovers()
    assert not host.container(instance)['State']['Paused']
    assert not folder.exists()


# The configuration


def odd_config(random_) -> dict:
    """Return how an image may say it is run."""
    def text():
        return ''.join(random_.choices(NASTY, k=random_.randint(1, 3)))

    def texts(least=0):
        return [text() for _ in range(random_.randint(least, 3))]
    found = {
        'Env': ['PATH=/bin', *(f'V{n}={text()}'
                               for n, _ in enumerate(range(4)))],
        'Cmd': ['/bin/sh', '-c', *texts(1)],
        'Entrypoint': random_.choice([None, ['/bin/busybox', *texts()]]),
        'User': random_.choice(['', '0', '12:34', 'root']),
        'WorkingDir': random_.choice(['', '/', '/tmp/a b', '/ü']),
        'StopSignal': random_.choice(['', 'SIGTERM', 'SIGRTMIN+3', '9']),
        'ExposedPorts': random_.choice([None, {'80/tcp': {},
                                               '53/udp': {}}]),
        'Labels': {f'label {text()}': text() for _ in range(3)},
        'Healthcheck': random_.choice([None, {
            'Test': ['CMD', '/bin/true', text()], 'Interval': 30 * 10**9}]),
        'Shell': random_.choice([None, ['/bin/ash', '-c', text()]]),
        'OnBuild': random_.choice([None, [f'RUN echo {text()}']]),
    }
    return {name: value for name, value in found.items()
            if value not in (None, '')}


def odd_image(dockerd, config: dict) -> bytes:
    """Return an image of the test image's files, run otherwise."""
    saved = b''.join(dockerd.engine.image_save('vcloud-test/busybox'))
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        manifest = json.load(tar.extractfile('manifest.json'))
        whole = json.load(tar.extractfile(manifest[0]['Config']))
        layer = tar.extractfile(manifest[0]['Layers'][0]).read()
    whole['config'] = config
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for name, data in (
                ('layer.tar', layer), ('c.json', json.dumps(whole).encode()),
                ('manifest.json', json.dumps([{
                    'Config': 'c.json', 'RepoTags': [TAG],
                    'Layers': ['layer.tar']}]).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize('layers', [32, 1])
def test_a_configuration_is_kept_to_the_byte(dockerd, lan, tmp_path, service,
                                             budget, layers):
    random_ = random.Random(budget.seed)
    for number in range(budget.count(6, 100)):
        config = odd_config(random_)
        host = computehost.ComputeHost(
            dockerd, lan, tmp_path / str(number), image=TAG.partition(':')[0])
        dockerd.engine.image_load(iter([odd_image(dockerd, config)]))
        instance, _ports = spawned(host, power_on=False)
        try:
            before = dockerd.engine.image_get(TAG)
            path = take(host, service, instance, layers)
            with loaded(host, path) as found:
                for name in ('Config', 'Architecture', 'Os', 'Author'):
                    assert said(found[name]) == said(before[name])
            assert config_in(path) == said(config)
        finally:
            host.containers.destroy(instance.uuid)
            dockerd.docker('rmi', TAG)


def said(config):
    """Return what a configuration says; null and '' say nothing."""
    if not isinstance(config, dict):
        return config
    return {name: value for name, value in config.items() if value}


def config_in(path: pathlib.Path) -> dict:
    """Return the configuration in an archive, as it is written there."""
    with tarfile.open(path) as tar:
        manifest = json.load(tar.extractfile('manifest.json'))
        return json.load(tar.extractfile(manifest[0]['Config']))['config']


# Uploads


def test_a_source_may_be_silent_for_longer_than_a_server_waits(service):
    """It goes on when the service has got more pieces than its patience."""
    def source():
        yield b'x' * uploads.RESERVE
        while not crumbs or sum(crumbs) < enough:
            service.came.wait(60)
            service.came.clear()
        yield b'end'
    crumbs, enough = [], 2 * imageservice.CHUNK_TIMEOUT / uploads.PATIENCE
    whole = service.take

    def counted(image_id, chunks):
        def counting():
            for chunk in chunks:
                crumbs.append(len(chunk) <= uploads.CRUMB)
                service.came.set()
                yield chunk
        whole(image_id, counting())
    service.take = counted
    size = uploads.send(service, None, 'image', {}, source())
    assert size == uploads.RESERVE + 3
    assert service.path('image').read_bytes()[-4:] == b'xend'


def test_an_upload_begins_when_there_is_something(service):
    """A source that is silent first: docker save of a large image."""
    def source():
        threading.Event().wait(imageservice.CHUNK_TIMEOUT * 1.5)
        yield b'all'
    assert uploads.send(service, None, 'image', {}, source()) == 3


@pytest.mark.parametrize('before', [0, uploads.RESERVE + 1])
def test_a_source_that_fails_never_makes_an_image(service, before):
    def source():
        yield b'x' * before
        raise exception.EngineUnavailable('it is gone')
    with pytest.raises(exception.UploadFailed, match='it is gone'):
        uploads.send(service, None, 'image', {}, source())
    assert service.get(None, 'image')['status'] == 'queued'


def test_half_an_image_is_not_taken_for_the_whole(service):
    """Glance's client tries again, and has only the rest to send."""
    service.break_after = 2 * MIB
    with pytest.raises(exception.UploadFailed, match='bytes were sent'):
        uploads.send(service, None, 'image', {}, [b'x' * MIB] * 30)


def test_an_image_that_is_gone_is_no_success(service):
    def gone(_image_id, _chunks):
        raise TimeoutError
    service.take = gone
    with pytest.raises(exception.UploadFailed, match='did not take'):
        uploads.send(service, None, 'image', {}, [b'x'])


# Failures are told, and undone


@pytest.mark.parametrize(('state', 'vm_state', 'runs', 'paused'), [
    (task_states.SHELVING_IMAGE_UPLOADING, 'active', True, False),
    (task_states.SHELVING, 'active', True, False),
    (task_states.SHELVING, 'paused', True, True),
    (task_states.SHELVING, 'suspended', True, True),
    (task_states.SHELVING, 'stopped', False, False)])
def test_after_a_failed_shelve_the_server_is_as_it_was(
        host, service, state, vm_state, runs, paused):
    instance, ports = spawned(host)
    instance.task_state, instance.vm_state = state, vm_state
    instance.info_cache = objects.InstanceInfoCache(network_info=ports)
    host.containers.stop(instance.uuid, 0)
    with pytest.raises(exception.UploadFailed), taker(host, service).told(
            None, instance, 'image'):
        raise exception.UploadFailed('the service is full')
    found = host.container(instance)['State']
    assert (found['Running'], found['Paused']) == (runs, paused)
    assert service.deleted == ['image']
    host.containers.unpause(instance.uuid)


@pytest.mark.parametrize('error', [
    nova_exception.ImageNotFound(image_id='i'),
    nova_exception.InstanceNotRunning(instance_id='i')])
def test_what_nova_would_not_tell_is_another_error(host, service, error):
    instance = host.instance()
    instance.task_state = task_states.SHELVING
    instance.vm_state = 'stopped'
    with pytest.raises(nova_exception.InternalError), taker(
            host, service).told(None, instance, 'image'):
        raise error


# Large


@pytest.mark.timeout(3600)
def test_random_data_arrives(dockerd, lan, tmp_path, budget):
    """4 GB in the long form."""
    size = budget.count(100, 4000)
    host = computehost.ComputeHost(dockerd, lan, tmp_path / 'state')
    instance, _ports = spawned(host, root_gb=8)
    stop = threading.Event()
    busy = threading.Thread(target=burn, args=(stop, tmp_path / 'busy'))
    busy.start()
    try:
        wanted = host.inside(
            instance, f'dd if=/dev/urandom of=/data bs=1M count={size} '
            '2>/dev/null; sha256sum /data').split()[0]
        with imageservice.serving(tmp_path) as service:
            path = take(host, service, instance)
            assert service.records[instance.uuid]['size'] > size * MIB
        with tarfile.open(path) as outer:
            found = data_in(outer)
        assert found == wanted
    finally:
        stop.set()
        busy.join()
        host.containers.destroy(instance.uuid)
        (tmp_path / instance.uuid).unlink(missing_ok=True)


def burn(stop: threading.Event, path: pathlib.Path) -> None:
    """Keep the disk busy."""
    while not stop.is_set():
        with path.open('wb') as f:
            f.write(os.urandom(MIB) * 64)
            os.fsync(f.fileno())
    path.unlink()


def data_in(outer: tarfile.TarFile) -> str:
    """Return the sum of the file ``data`` in the first layer that has it."""
    for each in outer:
        if each.name.endswith('layer.tar'):
            with tarfile.open(fileobj=outer.extractfile(each)) as inner:
                for info in inner:
                    if info.name == 'data':
                        return hashlib.file_digest(
                            inner.extractfile(info), 'sha256').hexdigest()
    raise AssertionError('there is no file')
