# SPDX-License-Identifier: Apache-2.0
"""No archive that is accepted unpacks to more than was counted of it.

What Go's archive/tar, with which engines unpack, and GNU tar make of tars that
are made by chance is compared with what was counted; some go into a real
engine. In the short form that engine is the only reader that is of Go: Go
itself, of 450 MB, is for the long one.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import uuid

import hostile_tars  # found by tests/conftest.py
from hostile_tars import file
from hostile_tars import header
from hostile_tars import pax
from hostile_tars import record
import image_hosts
from nova import exception as nova_exception
from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.image import docker_archive
from nova_vcloud.image import unpacked_size
from nova_vcloud.virt_docker.image import images

objects.register_all()

LIMIT = 64 << 20  # bytes
BLOCK = 4096
META = objects.ImageMeta.from_dict({
    'container_format': 'docker', 'disk_format': 'raw', 'properties': {}})
#: Where Debian puts it (golang-1.19-go), and where it is put by hand.
GO = next((path for path in map(pathlib.Path, (
    shutil.which('go') or '/', '/usr/lib/go-1.19/bin/go',
    '/usr/local/go/bin/go')) if path.is_file()), None)


def weigh(data):
    """Return what is counted of a layer; None when it is refused."""
    look = unpacked_size.Layer(unpacked_size.Scale(LIMIT))
    try:
        assert b''.join(look.passed([data])) == data
    except exception.InvalidImageArchive:
        return None
    return look.weight


def made(budget, count, folder):
    """Yield a file with a tar that was accepted, and what was counted."""
    smith, accepted = hostile_tars.Smith(budget.seed), 0
    for number in range(count):
        data = smith.archive()
        if weight := weigh(data):
            accepted += 1
            path = folder / f'{number}.tar'
            path.write_bytes(data)
            yield path, weight
            path.unlink()
    print(f'{accepted} of {count} accepted')
    assert count / 10 < accepted < count * 9 / 10


def measured(folder):
    """Return what was unpacked to a folder; a hole is written by engines."""
    found = {}
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            stat = os.lstat(os.path.join(top, name))
            size = 0 if os.path.isdir(os.path.join(top, name)) else (
                stat.st_size)
            found[stat.st_ino] = max(BLOCK, size + -size % BLOCK)
    return unpacked_size.Weight(sum(found.values()), len(found))


def within(weight, written, what):
    assert written.size <= weight.size <= LIMIT, what
    assert written.files <= weight.files, what


@pytest.mark.timeout(3600)  # in the long form
def test_gnu_tar_writes_no_more(budget, tmp_path):
    out = tmp_path / 'out'
    for path, weight in made(budget, budget.count(400, 10_000), tmp_path):
        out.mkdir()
        subprocess.run(['tar', '-xf', path, '-C', out, '--no-same-owner'],
                       check=False, capture_output=True)
        within(weight, measured(out), path.read_bytes())
        shutil.rmtree(out)


def go_reads(program, paths):
    """Return what Go makes of tars."""
    done = subprocess.run([program], input='\n'.join(map(str, paths)),
                          check=True, capture_output=True, text=True)
    return [unpacked_size.Weight(*map(int, line.split()[:2]))
            for line in done.stdout.splitlines()]


@pytest.fixture(scope='module')
def go_reader(tmp_path_factory):
    """Go's reader, built."""
    assert GO, 'this needs Go; on Debian: apt install golang-1.19-go'
    folder = tmp_path_factory.mktemp('go')
    source = pathlib.Path(hostile_tars.__file__).with_name('tarsize.go')
    subprocess.run([GO, 'build', '-o', folder / 'tarsize', source],
                   check=True, env={**os.environ,
                                    'GOCACHE': str(folder / 'cache')})
    return folder / 'tarsize'


@pytest.mark.long_form
@pytest.mark.timeout(3600)
def test_go_writes_no_more(budget, tmp_path, go_reader):
    counted = []
    for path, weight in made(budget, 10_000, tmp_path):
        counted.append((path.with_suffix('.kept'), weight))
        path.rename(counted[-1][0])
        path.touch()
    read = go_reads(go_reader, [path for path, _weight in counted])
    for (path, weight), written in zip(counted, read, strict=True):
        within(weight, written, path.read_bytes())


ODD = {
    **hostile_tars.KNOWN,
    'global size': pax(record(b'size', b'0'), kind=b'g') + header(b'f', 512),
    'size of a folder': header(b'd/', 512, b'5') + header(b'f', 512),
    'size of a link': header(b'l', 512, b'2', link=b'x') + header(b'f', 512),
    'old folder with a size': header(b'd/', 512, b'\0') + header(b'f', 512),
    'a type of tomorrow': header(b'x', 512, b'9') + bytes(512),
    'volumes': header(b'x', 0, b'V') + file(b'f', b'x'),
    'two pax headers': pax(record(b'size', b'0')) * 2 + header(b'f', 512),
    'long name after pax': pax(record(b'path', b'a')) + header(
        b'././@LongLink', 3, b'L') + hostile_tars.padded(b'ab\0') + file(
            b'f', b'x'),
    'sum of signed bytes': hostile_tars.header(b'\xff')[:148]
    + b'%06o\0 ' % (sum(hostile_tars.header(b'\xff')) - sum(
        hostile_tars.header(b'\xff')[148:156]) + 256 - 256)
    + hostile_tars.header(b'\xff')[156:],
    'a second archive': file(b'a', b'x') + bytes(512) + file(b'b', b'x'),
    'sparse, larger than it says': hostile_tars.sparse(
        b's', 512, [(0, b'x' * 512), (1 << 20, b'y' * 512)]),
    'sparse, pieces overlap': hostile_tars.sparse(
        b's', 4096, [(0, b'x' * 1024), (512, b'y' * 512)]),
}


@pytest.mark.parametrize('name', ODD)
def test_what_readers_differ_on_is_refused(name):
    for data in (ODD[name] + bytes(1024), gzip.compress(
            ODD[name] + bytes(1024))):
        with pytest.raises(exception.InvalidImageArchive):
            list(unpacked_size.Layer(
                unpacked_size.Scale(1 << 40)).passed([data]))
        # As a rootfs, where it may also be taken for what is no tar.
        with pytest.raises(exception.InvalidImageArchive):
            list(docker_archive.open_archive([data], 'x:y').chunks)


def test_folders_that_names_imply_count():
    # 10 kB that made 150,000 folders.
    names = [b'%d/' % number + b'/'.join([b'a'] * 40)[:90]
             for number in range(3000)]
    data = b''.join(file(name, b'') for name in names) + bytes(1024)
    with pytest.raises(exception.ImageTooLarge):
        list(unpacked_size.Layer(unpacked_size.Scale(LIMIT)).passed([data]))
    with pytest.raises(exception.TooManyFiles):
        list(unpacked_size.Layer(unpacked_size.Scale(1 << 40,
                                                     100_000)).passed([data]))


# A real engine.

def image(*layers):
    """Return what `docker save` would write of these layers."""
    out = io.BytesIO()
    config = {'architecture': 'amd64', 'os': 'linux', 'rootfs': {
        'type': 'layers', 'diff_ids': [
            'sha256:' + hashlib.sha256(gunzip(each)).hexdigest()
            for each in layers]}}
    names = [f'{number:064x}/layer.tar' for number in range(len(layers))]
    files = [*zip(names, layers, strict=True),
             ('c.json', json.dumps(config).encode()),
             ('manifest.json', json.dumps([
                 {'Config': 'c.json', 'Layers': names}]).encode())]
    with tarfile.open(fileobj=out, mode='w') as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def gunzip(data):
    return gzip.decompress(data) if data.startswith(b'\x1f\x8b') else data


@pytest.fixture
def load(dockerd, tmp_path, monkeypatch):
    """Load an image with a limit; return what it takes on the disk."""
    monkeypatch.setattr(docker_archive, 'MAX_BYTES', LIMIT)
    content = {}
    store = images.ImageStore(
        dockerd.engine, lambda _context, image_id: [content[image_id]],
        str(tmp_path))

    def ensure(data):
        image_id = str(uuid.uuid4())
        content[image_id], before = data, image_hosts.taken(dockerd)
        tag = images.tag_of(image_id)
        try:
            store.ensure(None, image_id, META, root_gb=0, instance=None)
            return image_hosts.taken(dockerd) - before
        finally:
            dockerd.engine.image_remove(tag)
    return ensure


@pytest.mark.timeout(3600)
def test_an_engine_writes_no_more(budget, load, tmp_path):
    loaded = 0
    for path, weight in made(budget, budget.count(30, 1500), tmp_path):
        data = path.read_bytes()
        try:
            written = load(image(data))
        except nova_exception.ImageUnacceptable as e:
            # What it can't make of a tree that is right: a device, a name.
            assert 'the Docker engine refused it' in str(e)  # noqa: PT017 - most are loaded
            continue
        loaded += 1
        # Beside the layer, the engine keeps what it knows of it: some files.
        assert written.size <= min(weight.size, LIMIT) * 1.01 + (100 << 10)
        assert written.files <= weight.files + 30
    print(f'{loaded} loaded')
    assert loaded >= budget.count(1, 300)


@pytest.mark.parametrize('name', ODD)
def test_no_engine_gets_what_readers_differ_on(name, load, dockerd):
    before = image_hosts.taken(dockerd)
    with pytest.raises(nova_exception.ImageUnacceptable):
        load(image(ODD[name] + bytes(1024)))
    after = image_hosts.taken(dockerd)
    assert after.size <= before.size + (100 << 10)
    assert after.files <= before.files + 5


def test_a_full_limit_is_no_more_than_that(load):
    data = b''.join(file(b'f%d' % number, b'x' * 4097)
                    for number in range(7000)) + bytes(1024)
    written = load(image(data))
    assert (50 << 20) < written.size <= LIMIT * 1.01
    with pytest.raises(nova_exception.ImageUnacceptable, match='unpacks to'):
        load(image(data, data + bytes(512)))
