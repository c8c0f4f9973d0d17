# SPDX-License-Identifier: Apache-2.0
"""Images of all kinds, good and hostile, into a real engine."""

import gzip
import hashlib
import io
import json
import lzma
import multiprocessing
import os
import subprocess
import tarfile
import tempfile
import threading
import time
import uuid
import zlib

from nova import exception as nova_exception
from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker.image import imageroom
from nova_vcloud.virt_docker.image import images

objects.register_all()

CHUNK = 65536
CALLERS = 10


def meta(**properties):
    return objects.ImageMeta.from_dict({
        'container_format': 'docker', 'disk_format': 'raw',
        'properties': properties})


def cut(data):
    return (data[i:i + CHUNK] for i in range(0, len(data), CHUNK))


def pack(**members):
    """Return a tar of files, or of ready headers without data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for name, what in members.items():
            if isinstance(what, tarfile.TarInfo):
                tar.addfile(what)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(what)
            tar.addfile(info, io.BytesIO(what))
    return out.getvalue()


def image(*layers, names=(), diff_ids=None, times=1, **config):
    """Return a docker archive of these layers, each so many times."""
    config = {'architecture': 'amd64', 'os': 'linux', 'config': {},
              **config, 'rootfs': {'type': 'layers', 'diff_ids': diff_ids or [
                  'sha256:' + hashlib.sha256(x).hexdigest()
                  for x in layers] * times}}
    files = {f'{i:064x}/layer.tar': x for i, x in enumerate(layers)}
    manifest = [{'Config': 'c.json', 'RepoTags': list(names),
                 'Layers': list(files) * times}]
    return pack(**files, **{'c.json': json.dumps(config).encode(),
                            'manifest.json': json.dumps(manifest).encode()})


class Glance:
    """Serves given bytes under a new id and counts downloads."""

    def __init__(self, engine, lock_path):
        self.engine = engine
        self.store = images.ImageStore(engine, self.download, lock_path)
        self.downloads = 0
        self.content = {}

    def download(self, context, image_id):
        self.downloads += 1
        source = self.content[image_id]
        return source() if callable(source) else cut(source)

    def add(self, content):
        image_id = str(uuid.uuid4())
        self.content[image_id] = content
        return image_id

    def ensure(self, content, root_gb=1, **properties):
        return self.store.ensure(None, self.add(content), meta(**properties),
                                 root_gb=root_gb, instance=None)


@pytest.fixture
def glance(private_engine, tmp_path):
    return Glance(Engine(private_engine.url), str(tmp_path))


@pytest.fixture(scope='module')
def tiny(built):
    return built('tiny').read_bytes()


@pytest.fixture(scope='module')
def saved(private_engine, tiny):
    """What the engine itself writes of an image with several layers."""
    private_engine.docker('load', input=tiny)
    name = 'nova-vcloud-images/tiny:latest'
    private_engine.docker('create', '--name=grow', '--network=none', name)
    private_engine.docker('commit', 'grow', 'grown:1')
    exported = private_engine.docker('export', 'grow').stdout
    data = private_engine.docker('save', 'grown:1').stdout
    private_engine.docker('rm', 'grow')
    private_engine.docker('rmi', 'grown:1')
    return data, exported


def test_what_the_engine_saved(glance, saved, private_engine):
    tag = glance.ensure(saved[0])

    assert tag == images.tag_of(next(iter(glance.content)))
    names = {line.split()[0] for line in private_engine.contents()['images']}
    assert tag in names
    assert 'grown:1' not in names
    assert private_engine.docker(
        'run', '--rm', '--network=none', '--entrypoint=/bin/echo', tag,
        'runs').stdout == b'runs\n'


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('line', [None, '/bin/echo "a  b" $HOME'])
def test_what_the_engine_exported(glance, saved, private_engine, packed,
                                  line):
    data = gzip.compress(saved[1]) if packed else saved[1]
    tag = glance.ensure(data, **({'os_command_line': line} if line else {}))

    assert glance.engine.image_get(tag)['Config']['Cmd'] == (
        ['/bin/echo', 'a  b', '$HOME'] if line else ['/sbin/init'])


def test_gzip(glance, tiny):
    assert glance.engine.image_get(glance.ensure(gzip.compress(tiny)))


def test_name_of_another_image_stays(glance, tiny, private_engine):
    victim = glance.ensure(tiny)
    before = glance.engine.image_get(victim)['Id']

    thief = glance.ensure(image(pack(x=b'evil'), names=[victim]))

    assert glance.engine.image_get(victim)['Id'] == before
    assert glance.engine.image_get(thief)['Id'] != before


def device():
    info = tarfile.TarInfo('dev/vda')
    info.type, info.devmajor = tarfile.BLKTYPE, 254
    return info


def with_hole(size):
    """Return a small tar of a file of so many bytes that is a hole."""
    with tempfile.TemporaryDirectory() as folder:
        with open(f'{folder}/f', 'wb') as f:
            f.truncate(size)
        return subprocess.run(['tar', '--sparse', '-C', folder, '-c', 'f'],
                              check=True, capture_output=True).stdout


def hostile():
    hole, part = with_hole(4 << 30), with_hole(350 << 20)
    layer = pack(x=b'data' * 50000)
    good = image(layer)
    rootfs = pack(**{'bin/x': os.urandom(300_000)})
    return {
        'empty': (b'', 'empty'),
        'random': (b'\1' + os.urandom(100_000), 'not a tar'),
        'qcow2': (b'QFI\xfb\0\0\0\3' + bytes(5000), 'qcow2'),
        'path': (pack(**{'0' * 64: b'', '../../etc/cron.d/x': b'x'}),
                 'outside'),
        'device': (pack(**{'0' * 64: b'', 'dev/vda': device()}),
                   'neither file'),
        'truncated': (good[:100_000], 'truncated'),
        'truncated rootfs': (rootfs[:200_000], 'truncated'),
        'wrong layer': (image(layer, diff_ids=['sha256:' + '1' * 64]),
                        'and not sha256:1111'),
        'layer is no tar': (image(layer, b'\1' + os.urandom(5000)),
                            'neither a layer'),
        'config lost': (good.replace(b'"c.json"', b'"d.json"'),
                       'which is not'),
        'hole': (image(hole), 'more than 3.0 GiB'),
        'packed hole': (image(gzip.compress(hole)), 'more than 3.0 GiB'),
        'hole in a rootfs': (pack(a=b'x')[:1024] + hole, 'more than 3.0'),
        'a layer ten times': (image(part, times=10), 'more than 3.0 GiB'),
        'xz': (image(lzma.compress(layer)), 'only gzip'),
        'foreign': (image(layer, architecture='s390x'), 'made for s390x'),
        'windows': (image(layer, os='windows'), 'windows|not supported'),
    }


HOSTILE = hostile()


@pytest.mark.parametrize('name', HOSTILE)
def test_refused_and_nothing_left(glance, private_engine, name):
    before = private_engine.contents()
    data, reason = HOSTILE[name]

    with pytest.raises(nova_exception.ImageUnacceptable, match=reason):
        glance.ensure(data)

    assert private_engine.settled(before) == before
    assert glance.store.cached(next(iter(glance.content))) is None


@pytest.mark.parametrize('kind', ['image', 'export', 'gnu tar export'])
def test_wrong_checksum_at_the_very_end(glance, private_engine, saved, tiny,
                                        kind):
    data = tiny if kind == 'image' else saved[1]
    if kind == 'gnu tar export':
        data += bytes(20480)  # its end mark comes long before its end

    def download():
        yield from cut(data)
        raise OSError(32, 'Corrupt image download')  # as glanceclient does

    before = private_engine.contents()
    with pytest.raises(OSError, match='Corrupt image download'):
        glance.ensure(download)

    assert private_engine.settled(before) == before
    time.sleep(1)
    assert private_engine.contents() == before


def test_path_inside_a_layer_stays_inside(glance):
    """One that leads out is refused before an engine sees the image's end."""
    mark = f'nv-{uuid.uuid4()}'
    with pytest.raises(nova_exception.ImageUnacceptable, match='outside'):
        glance.ensure(image(pack(**{f'../../../../../../tmp/{mark}': b'x'})))
    assert not os.path.exists(f'/tmp/{mark}')


def test_flavor_too_small_keeps_the_image(glance):
    image_id = glance.add(image(pack(x=bytes(1 << 20)),
                                pack(y=bytes(1 << 20))))
    # A flavor's disk is whole GiB; a size is remembered in bytes.
    glance.store.ensure(None, image_id, meta(), root_gb=0, instance=None)
    glance.store.records.sizes[image_id] = (1 << 30) + 1

    with pytest.raises(nova_exception.FlavorDiskSmallerThanImage):
        glance.store.ensure(None, image_id, meta(), root_gb=1, instance=None)
    assert glance.store.ensure(None, image_id, meta(), root_gb=2,
                               instance=None)


def test_bomb_is_stopped(glance, private_engine, monkeypatch):
    monkeypatch.setattr(images.docker_archive, 'MAX_BYTES', 64 << 20)

    def bomb():
        packer = zlib.compressobj(wbits=31)
        head = tarfile.TarInfo('bin/x')
        head.size = 1 << 30
        yield packer.compress(head.tobuf())
        while True:
            yield packer.compress(bytes(1 << 24))

    before = private_engine.contents()
    with pytest.raises(nova_exception.ImageUnacceptable,
                       match=r'more than 0\.1 GiB'):
        glance.ensure(bomb, root_gb=0)
    assert private_engine.settled(before) == before


def test_a_host_without_room_is_not_the_images_fault(
        glance, private_engine, monkeypatch):
    monkeypatch.setattr(glance.store.room, 'free', lambda: imageroom.Free(
        2 << 20, 10**6, 50.0))
    before = private_engine.contents()
    with pytest.raises(exception.EngineError, match='has room for'):
        glance.ensure(image(pack(x=bytes(2 << 20))))
    assert private_engine.settled(before) == before


def test_hot_path_asks_nobody(glance, tiny):
    image_id = glance.add(tiny)
    assert glance.store.cached(image_id) is None
    tag = glance.store.ensure(None, image_id, meta(), root_gb=1,
                              instance=None)
    calls = glance.engine.calls

    assert glance.store.ensure(None, image_id, meta(), root_gb=1,
                               instance=None) == tag
    assert glance.store.cached(image_id) == tag
    assert (glance.engine.calls, glance.downloads) == (calls, 1)


def test_lost_image_comes_back_after_forget(glance, tiny):
    image_id = glance.add(tiny)
    tag = glance.store.ensure(None, image_id, meta(), root_gb=1,
                              instance=None)
    glance.engine.image_remove(tag)
    glance.store.forget(image_id)

    glance.store.ensure(None, image_id, meta(), root_gb=1, instance=None)
    assert glance.engine.image_get(tag)
    assert glance.downloads == 2


def test_engine_away_is_not_the_images_fault(tmp_path, tiny):
    away = Glance(Engine(f'unix://{tmp_path}/none'), str(tmp_path))
    with pytest.raises(exception.EngineUnavailable):
        away.ensure(tiny)


def callers(url, lock_path, archive, image_id, log):
    """Ask for one image from many threads; log a line a download."""
    def download(context, wanted):
        with open(log, 'a') as out:
            out.write(f'{os.getpid()}\n')
        time.sleep(0.5)
        return cut(archive)

    store = images.ImageStore(Engine(url), download, lock_path)
    tags = []
    threads = [threading.Thread(target=lambda: tags.append(store.ensure(
        None, image_id, meta(), root_gb=1, instance=None)))
        for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0 if tags == [images.tag_of(image_id)] * CALLERS else 1)


def test_loaded_once_for_all_callers(private_engine, tmp_path, tiny):
    spawn = multiprocessing.get_context('fork')
    image_id = str(uuid.uuid4())
    processes = [spawn.Process(target=callers, args=(
        private_engine.url, str(tmp_path), tiny, image_id, tmp_path / 'log'))
        for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0, 0]
    assert len((tmp_path / 'log').read_text().splitlines()) == 1


def test_lock_of_a_killed_process_is_free(private_engine, tmp_path, tiny,
                                          glance):
    image_id = glance.add(tiny)
    reading = multiprocessing.get_context('fork').Event()

    def die():
        def download(context, wanted):
            yield tiny[:CHUNK]
            reading.set()
            time.sleep(600)

        images.ImageStore(Engine(private_engine.url), download, str(tmp_path)
                          ).ensure(None, image_id, meta(), root_gb=1,
                                   instance=None)

    process = multiprocessing.get_context('fork').Process(target=die)
    process.start()
    assert reading.wait(30)
    process.kill()
    process.join()

    assert glance.store.ensure(None, image_id, meta(), root_gb=1,
                               instance=None)


def large():
    """Yield a docker archive with a layer file of 1 GiB."""
    size = 1 << 30
    block = bytes(CHUNK)
    inner = tarfile.TarInfo('big')
    inner.size = size
    digest = hashlib.sha256(inner.tobuf())
    for _ in range(size // CHUNK):
        digest.update(block)
    digest.update(bytes(1024))
    rest = image(pack(), diff_ids=['sha256:' + digest.hexdigest()])
    # The layer's header, with the larger size, instead of the empty one's.
    outer = tarfile.TarInfo(f'{0:064x}/layer.tar')
    outer.size = 512 + size + 1024
    yield outer.tobuf() + inner.tobuf()
    for _ in range(size // CHUNK):
        yield b'\0' * CHUNK  # a new object each time, or holding it is free
    yield bytes(1024) + rest[512 + len(pack()):]


@pytest.mark.slow
def test_memory_is_flat(glance):
    glance.ensure(image(pack(x=b'warm')))
    # Peak of this process from here on (Linux: 5 resets VmHWM).
    with open('/proc/self/clear_refs', 'w') as reset:
        reset.write('5')

    def peak():
        with open('/proc/self/status') as status:
            return next(int(line.split()[1]) for line in status
                        if line.startswith('VmHWM'))

    before = peak()
    tag = glance.ensure(large, root_gb=2)
    grown = peak() - before

    assert glance.engine.image_get(tag)['Size'] == 1 << 30
    assert grown < 20 * 1024, f'{grown} KiB'
