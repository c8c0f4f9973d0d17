# SPDX-License-Identifier: Apache-2.0
"""What an operator imports is what a compute host loads."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid

from nova import objects
import pytest
from registry import configuration  # found by tests/conftest.py
from registry import digest
from registry import layer

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.image import docker_archive
from nova_vcloud.image import import_file
from nova_vcloud.virt_docker.image import images

objects.register_all()
OCI = 'application/vnd.oci.image.'
META = objects.ImageMeta.from_dict({
    'container_format': 'docker', 'disk_format': 'raw', 'properties': {}})


def layout(folder, *layers):
    """Write an OCI image layout."""
    blobs = folder / 'blobs/sha256'
    blobs.mkdir(parents=True)

    def blob(data, kind):
        name = digest(data)
        (blobs / name.partition(':')[2]).write_bytes(data)
        return {'mediaType': OCI + kind, 'digest': name, 'size': len(data)}
    manifest = {
        'schemaVersion': 2,
        'config': blob(configuration(*layers), 'config.v1+json'),
        'layers': [blob(gzip.compress(each, mtime=0), 'layer.v1.tar+gzip')
                   for each in layers]}
    entry = blob(json.dumps(manifest).encode(), 'manifest.v1+json')
    (folder / 'index.json').write_text(json.dumps(
        {'schemaVersion': 2, 'manifests': [entry]}))
    (folder / 'oci-layout').write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


@pytest.fixture(scope='module')
def system(tmp_path_factory):
    """A root filesystem: one program, and links to it."""
    folder = tmp_path_factory.mktemp('system') / 'root'
    (folder / 'bin').mkdir(parents=True)
    shutil.copy(shutil.which('busybox'), folder / 'bin/busybox')
    (folder / 'bin/echo').symlink_to('busybox')
    os.chown(folder / 'bin/echo', 7, 8, follow_symlinks=False)
    return folder


def packed(folder, *options):
    return subprocess.run(['tar', '-C', folder, *options, '-c', '.'],
                          check=True, capture_output=True).stdout


def sources(system, tmp_path, private_engine):
    """Return {what it is: (source, what it is found to be)}."""
    rootfs = packed(system)
    (tmp_path / 'rootfs.tar').write_bytes(rootfs)
    (tmp_path / 'rootfs.tgz').write_bytes(gzip.compress(rootfs, 1))
    oci = layout(tmp_path / 'oci', rootfs, layer(more=b'x'))
    (tmp_path / 'oci.tar').write_bytes(packed(oci))
    private_engine.docker('import', str(tmp_path / 'rootfs.tar'), 'saved:1')
    private_engine.docker('save', '-o', str(tmp_path / 'saved.tar'),
                          'saved:1')
    private_engine.docker('rmi', 'saved:1')
    return {'folder': system, 'tar': tmp_path / 'rootfs.tar',
            'packed tar': tmp_path / 'rootfs.tgz', 'OCI folder': oci,
            'OCI archive': tmp_path / 'oci.tar',
            'docker save': tmp_path / 'saved.tar'}


@pytest.mark.parametrize('what', [
    'folder', 'tar', 'packed tar', 'OCI folder', 'OCI archive',
    'docker save'])
def test_every_form_runs(private_engine, system, tmp_path, what):
    source = sources(system, tmp_path, private_engine)[what]
    (tmp_path / 'work').mkdir()
    found = import_file.accepted(source, tmp_path / 'work')

    whole = what in ('OCI folder', 'OCI archive', 'docker save')
    assert found.kind is (docker_archive.Kind.IMAGE if whole
                          else docker_archive.Kind.ROOTFS)
    assert found.architecture == ('x86_64' if whole else '')
    real = (system / 'bin/busybox').stat().st_size
    assert real <= found.size <= real + 65536

    engine, image_id = Engine(private_engine.url), str(uuid.uuid4())
    store = images.ImageStore(
        engine, lambda _context, _id: [found.path.read_bytes()],
        str(tmp_path))
    tag = store.ensure(None, image_id, META, root_gb=1, instance=None)
    try:
        assert private_engine.docker(
            'run', '--rm', '--network=none', tag, '/bin/echo',
            'runs').stdout == b'runs\n'
    finally:
        engine.image_remove(tag)


def test_owners_are_kept(system, tmp_path):
    found = import_file.accepted(system, tmp_path)
    with tarfile.open(found.path) as tar:
        info = tar.getmember('./bin/echo')
    assert (info.uid, info.gid, info.uname) == (7, 8, '')


@pytest.mark.parametrize(('content', 'reason'), [
    (b'', 'empty'), (b'#!/bin/sh\n' * 100, 'not a tar'),
    (b'QFI\xfb' + bytes(600), 'qcow2')])
def test_what_is_no_image(tmp_path, content, reason):
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(exception.InvalidImageArchive, match=reason):
        import_file.accepted(tmp_path / 'x', tmp_path)


@pytest.mark.parametrize('spoil', ['lost', 'changed'])
def test_a_layout_that_is_not_whole(tmp_path, spoil):
    one = layer(a=b'x')
    oci = layout(tmp_path / 'oci', one)
    path = oci / 'blobs/sha256' / digest(gzip.compress(
        one, mtime=0)).partition(':')[2]
    path.unlink() if spoil == 'lost' else path.write_bytes(b'other')
    with pytest.raises((exception.InvalidImageArchive, OSError)):
        import_file.accepted(oci, tmp_path)


def test_a_dockerfile_is_built(private_engine, system, tmp_path):
    shutil.copytree(system, tmp_path / 'root', symlinks=True)
    (tmp_path / 'Dockerfile').write_text(
        'FROM scratch\nARG WORD\nCOPY root/ /\nRUN ["/bin/busybox", "true"]\n'
        'CMD ["/bin/busybox", "sleep", "9"]\nLABEL word=$WORD\n')
    engine, before = Engine(private_engine.url), private_engine.contents()
    said = ''.join(engine.image_build(
        str(tmp_path), 'built:1', buildargs={'WORD': 'w'},
        network_mode='none'))
    assert 'Successfully built' in said
    assert engine.image_get('built:1')['Config']['Labels'] == {'word': 'w'}
    engine.image_remove('built:1')
    assert private_engine.settled(before) == before


def test_a_dockerfile_that_fails(private_engine, tmp_path):
    (tmp_path / 'Dockerfile').write_text(
        'FROM scratch\nCOPY nothing /\n')
    before = private_engine.contents()
    with pytest.raises(exception.EngineError, match='nothing'):
        list(Engine(private_engine.url).image_build(str(tmp_path), 'x:1'))
    assert private_engine.settled(before) == before


@pytest.mark.slow
def test_very_many_files(private_engine, tmp_path):
    """10^5 files pass, and those of a bomb do not reach the engine."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for number in range(100_000):
            tar.addfile(tarfile.TarInfo(f'{number // 1000}/{number}'))
    path = tmp_path / 'many.tar'
    path.write_bytes(out.getvalue())
    # A block of data each, what its header says, and the 100 folders.
    size = import_file.accepted(path, tmp_path).size
    assert 100_100 * 4096 < size < 100_100 * (4096 + 1024)

    engine, image_id = Engine(private_engine.url), str(uuid.uuid4())
    store = images.ImageStore(
        engine, lambda _context, _id: iter([path.read_bytes()]),
        str(tmp_path))
    tag = store.ensure(None, image_id, META, root_gb=1, instance=None)
    engine.image_remove(tag)
