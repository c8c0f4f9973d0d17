# SPDX-License-Identifier: Apache-2.0
"""What passes to the engine, what is refused and why, and at which cost."""

import gzip
import io
import json
import subprocess
import sys
import tarfile

import pytest

from nova_vcloud.exception import InvalidImageArchive
from nova_vcloud.image import docker_archive
from nova_vcloud.image import image_config
from nova_vcloud.image import manifests

TAG = 'nova-vcloud/11111111-2222-3333-4444-555555555555:latest'
LAYER = 'a' * 64 + '/layer.tar'
CONFIG = 'b' * 64 + '.json'
MANIFEST = [{'Config': CONFIG, 'RepoTags': ['debian:12'], 'Layers': [LAYER]}]


def member(name, data=b'', **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def pack(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def config(*layers, **more):
    return json.dumps({
        'architecture': 'amd64', 'os': 'linux', 'config': {},
        'rootfs': {'type': 'layers', 'diff_ids': [
            manifests.digest_of(each) for each in layers]}, **more}).encode()


CONTENT = pack(member('bin/x', b'layer' * 1000))


def image(*more, manifest=MANIFEST, layer=CONTENT, said=None):
    """Return a docker archive; its configuration is right, or as said."""
    times = 1
    if manifest and isinstance(manifest[0].get('Layers'), list):
        times = len(manifest[0]['Layers'])
    return pack(member(LAYER, layer),
                member(CONFIG, said or config(*[layer] * times)), *more,
                member('manifest.json', json.dumps(manifest).encode()))


def cut(data, size):
    return (data[i:i + size] for i in range(0, len(data), size))


def run(data, size=65536, **kwargs):
    return b''.join(docker_archive.open_archive(cut(data, size), TAG, **kwargs)
                    .chunks)


def unpack(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {i.name: tar.extractfile(i).read() if i.isreg() else i.linkname
                for i in tar}


@pytest.mark.parametrize('size', [1, 511, 512, 513, 65536])
def test_image_keeps_its_layers_and_is_named_by_us(size):
    assert unpack(run(image(), size)) == {
        '0.tar': CONTENT,
        'config.json': image_config.rewritten(config(CONTENT), 1).data,
        'manifest.json': json.dumps([{
            'Config': 'config.json', 'Layers': ['0.tar'],
            'RepoTags': [TAG]}]).encode()}


def test_no_chunk_is_empty():
    for data in (image(), pack(member('bin/sh', b'x' * 9000))):
        opened = docker_archive.open_archive(cut(data, 100), TAG)
        assert all(opened.chunks)


def test_all_that_could_name_or_fetch_is_dropped():
    entry = {**MANIFEST[0], 'Parent': 'sha256:1',
             'LayerSources': {'sha256:2': {'urls': ['http://192.0.2.1/']}}}
    found = unpack(run(image(
        member('repositories', b'{"debian": {"12": "x"}}'),
        member('index.json', b'{}'), member('./oci-layout', b'{}'),
        member('c' * 64 + '/VERSION', b'1.0'),
        member('c' * 64 + '/json', b'{"id": "c"}'),
        manifest=[entry])))

    assert set(found) == {'0.tar', 'config.json', 'manifest.json'}
    assert set(json.loads(found['manifest.json'])[0]) == {
        'Config', 'RepoTags', 'Layers'}


def test_headers_are_written_anew():
    odd = member(LAYER, CONTENT, uid=7, mode=0o4777, uname='eve',
                 pax_headers={'SCHILY.xattr.trusted.x': 'y'})
    out = run(pack(odd, member(CONFIG, config(CONTENT)), member(
        'manifest.json', json.dumps(MANIFEST).encode())))
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        info = tar.getmember('0.tar')
    assert (info.uid, info.mode, info.uname, info.pax_headers) == (
        0, 0o644, '', {})


def test_linked_layer_of_older_engines():
    link = member('c' * 64 + '/layer.tar', type=tarfile.SYMTYPE,
                  linkname='../' + LAYER)
    entry = {**MANIFEST[0], 'Layers': [LAYER, link[0].name]}
    found = unpack(run(image(link, manifest=[entry])))
    assert json.loads(found['manifest.json'])[0]['Layers'] == ['0.tar'] * 2


def test_long_names():
    name = 'blobs/sha256/' + 'd' * 200
    assert unpack(run(image(member(name, pack()))))['1.tar'] == pack()


@pytest.mark.parametrize('parts', [1, 3])
def test_gzip_also_of_several_parts(parts):
    data = image()
    step = -(-len(data) // parts)
    packed = b''.join(gzip.compress(part) for part in cut(data, step))
    assert run(packed + bytes(512), 7) == run(data)


def test_rootfs_is_passed_on_unchanged():
    for size in (1, 511, 512, 5000):
        data = pack(member('./', type=tarfile.DIRTYPE),
                    member('./sbin/init', b'#!/bin/sh\n' * 500))
        opened = docker_archive.open_archive(cut(data, size), TAG)
        assert opened.kind is docker_archive.Kind.ROOTFS
        assert b''.join(opened.chunks) == data


@pytest.mark.parametrize('first', [
    'a' * 64, 'a' * 64 + '/', 'a' * 64 + '.tar', 'sha256:' + 'a' * 64,
    'blobs/', './blobs/', 'oci-layout', 'index.json', 'manifest.json',
    'repositories'])
def test_first_name_of_an_image(first):
    assert docker_archive.classify(
        pack(member(first))) is docker_archive.Kind.IMAGE


@pytest.mark.parametrize('first', [
    '.dockerenv', 'bin/', './', 'a' * 63, 'blobsy', 'etc/manifest.json'])
def test_first_name_of_a_rootfs(first):
    data = pack(member(first), member('usr/', type=tarfile.DIRTYPE))
    assert docker_archive.classify(data) is docker_archive.Kind.ROOTFS


def sparse():
    return member('x', type=tarfile.GNUTYPE_SPARSE)


def long_header():
    return member('x', pax_headers={'comment': 'y' * (2 << 20)})


BAD = {
    'empty': (b'', 'it is empty'),
    'random': (bytes(range(1, 256)) * 100, 'not a tar'),
    'text': (b'hello\n', 'not a tar'),
    'qcow2': (b'QFI\xfb' + bytes(1000), 'qcow2'),
    'xz': (b'\xfd7zXZ\0', 'only gzip'),
    'zeros': (bytes(10240), 'without members'),
    'no manifest': (pack(member(LAYER, CONTENT)), 'no manifest.json'),
    'oci': (pack(member('oci-layout', b'{}'), member('index.json', b'{}')),
            'OCI layout'),
    'two images': (image(manifest=MANIFEST * 2), '2 images'),
    'no image': (image(manifest=[]), 'describes no image'),
    'no layers': (image(manifest=[{'Config': CONFIG}]), 'no image'),
    'odd layers': (image(manifest=[{**MANIFEST[0], 'Layers': [1]}]),
                   'no image'),
    'deep json': (pack(member('manifest.json', b'[' * 100_000)), 'not JSON'),
    'missing layer': (
        image(manifest=[{**MANIFEST[0], 'Layers': ['x/layer.tar']}]),
        "names 'x/layer.tar'"),
    'missing config': (image(manifest=[{**MANIFEST[0], 'Config': '/etc/x'}]),
                       "names '/etc/x'"),
    'missing link': (image(manifest=[{**MANIFEST[0], 'Layers': ['']}]),
                     "names ''"),
    'two manifests': (image(member('./manifest.json', b'[]')), 'duplicate'),
    'large manifest': (
        pack(member('manifest.json',
                    b'[' * (docker_archive.MAX_MANIFEST + 1))),
        'larger than'),
    'absolute': (image(member('/etc/passwd', b'x')), 'neither a layer'),
    'above': (image(member('../x', b'x')), 'outside'),
    'above inside': (image(member('a/../../x', b'x')), 'outside'),
    'odd name': (image(member('x\n', b'{}')), 'no engine writes'),
    'no layer': (image(member('x', b'x')), 'neither a layer'),
    'text as a layer': (image(layer=b'layer' * 1000), 'neither a layer'),
    'JSON as a layer': (image(layer=b'{}' + bytes(5000)), 'not in it'),
    'other layer': (image(said=config(CONTENT + bytes(512))), 'and not'),
    'too few layers': (image(said=config()), 'does not describe the layers'),
    'many JSON files': (
        pack(*[member(f'{"a" * 64}/{i}.json', b'{' + b' ' * (3 << 20))
               for i in range(6)]), 'JSON files are larger'),
    'something after the end': (
        pack(member(LAYER, CONTENT)) + b'x' * 512, 'follows the end'),
    'device': (image(member('x', type=tarfile.BLKTYPE)), 'neither file'),
    'pipe': (image(member('x', type=tarfile.FIFOTYPE)), 'neither file'),
    'hard link': (image(member('x', type=tarfile.LNKTYPE, linkname='/etc')),
                  'neither file'),
    'link out': (image(member('x', type=tarfile.SYMTYPE, linkname='../y')),
                 'invalid target'),
    'link away': (image(member('x', type=tarfile.SYMTYPE, linkname='/etc')),
                  'invalid target'),
    'link to here': (image(member('x', type=tarfile.SYMTYPE, linkname='.')),
                     'invalid target'),
    'link to itself': (
        image(member('x', type=tarfile.SYMTYPE, linkname='x')),
        'invalid target'),
    'sparse': (image(sparse()), 'sparse file'),
    'long header': (image(long_header()), 'absurdly long'),
    'many members': (image(*[member(f'{i}') for i in range(5000)]),
                     'more than 4096'),
    'truncated gzip': (gzip.compress(image())[:-20], 'truncated'),
    'corrupt gzip': (gzip.compress(image())[:10] + b'\xff' * 99, 'gzip'),
    'truncated rootfs': (pack(member('bin/sh', b'x' * 9000))[:5000],
                         'truncated'),
    'corrupt header': (
        pack(member(LAYER))[:512] + pack(member('x')).replace(b'x', b'y', 1),
        'corrupt'),
}


@pytest.mark.parametrize('name', BAD)
def test_refused(name):
    data, reason = BAD[name]
    with pytest.raises(InvalidImageArchive, match=reason):
        run(data)


def test_truncated_anywhere_never_ends_well():
    data = image()
    whole = len(data.rstrip(b'\0')) + 512
    for size in range(0, whole - 512, 97):
        with pytest.raises(InvalidImageArchive):
            run(data[:size])


def test_absurd_member_size():
    info = tarfile.TarInfo(LAYER)
    info.size = 1 << 60
    with pytest.raises(InvalidImageArchive, match='unpacks to more'):
        run(info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize('data', [
    image(layer=pack(member('x', bytes(3 << 20)))),
    pack(member('bin/sh', bytes(3 << 20)))])
def test_limit_holds_for_what_unpacks(data):
    packed = gzip.compress(data)
    assert len(run(packed, limit=4 << 20)) > 3 << 20
    with pytest.raises(InvalidImageArchive, match='unpacks to more'):
        run(packed, limit=2 << 20)


def test_error_of_the_source_comes_through():
    def source():
        yield image()
        raise OSError(32, 'wrong checksum')

    seen = []
    with pytest.raises(OSError, match='wrong checksum'):
        seen.extend(docker_archive.open_archive(source(), TAG).chunks)
    # Without its manifest and end mark no engine takes it.
    assert b'manifest.json' not in b''.join(seen)


PROGRAM = '''
import hashlib, json, resource, sys, tarfile
from nova_vcloud.image import docker_archive
GIB = 1 << 30
def head(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()
def layer():
    yield head('x', GIB)
    for _ in range(GIB // 65536):
        yield b'x' * 65536  # a new object each time, or holding it is free
    yield bytes(1024)
def small(name, content):
    data = json.dumps(content).encode()
    return head(name, len(data)) + data + bytes(-len(data) % 512)
def source():
    if sys.argv[1] == 'rootfs':
        yield from layer()
        return
    name, digest = 'a' * 64 + '/layer.tar', hashlib.sha256()
    yield head(name, GIB + 1536)
    for chunk in layer():
        digest.update(chunk)
        yield chunk
    yield small('c.json', {'rootfs': {'diff_ids': [
        'sha256:' + digest.hexdigest()]}})
    yield small('manifest.json', [{'Config': 'c.json', 'Layers': [name]}])
    yield bytes(1024)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(map(len, docker_archive.open_archive(source(), 'x:y').chunks))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(size, after - before)
'''


@pytest.mark.parametrize('first', ['image', 'rootfs'])
def test_memory_is_flat(first):
    # A process of its own: a peak cannot be reset.
    done = subprocess.run([sys.executable, '-c', PROGRAM, first], check=True,
                          stdout=subprocess.PIPE)
    size, grown_kib = map(int, done.stdout.split())
    assert size > 1 << 30
    assert grown_kib < 20 * 1024
