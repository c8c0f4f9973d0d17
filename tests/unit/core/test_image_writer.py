# SPDX-License-Identifier: Apache-2.0
"""Images with a configuration and a layer of our own."""

import hashlib
import io
import json
import os
import tarfile

import pytest

from nova_vcloud.exception import InvalidImageArchive
from nova_vcloud.image import image_writer
from nova_vcloud.image import layer_writer

TAG = 'some/image:tag'
LAYER = b'layer' * 100


def layer(more=0):
    return image_writer.Layer(len(LAYER) + more, [LAYER[:7], LAYER[7:]])


def members(chunks) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(b''.join(chunks))) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar
                if info.isfile()}


def described(found):
    manifest, = json.loads(found['manifest.json'])
    return manifest, json.loads(found[manifest['Config']])


def saved(config, names=('manifest.json', 'c.json'), oci=False):
    """Return what docker save writes, of old engines or of new ones."""
    place = 'blobs/sha256/{}' if oci else '{}'
    config_name, layer_name = place.format(names[1]), place.format('a.tar')
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for name, data in (
                (layer_name, b'\0' * 5_000_000), (config_name, config),
                ('repositories', b'{}'), ('index.json', b'{}'),
                (names[0], json.dumps([{
                    'Config': config_name, 'Layers': [layer_name, 'link'],
                    'RepoTags': None}]).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo('link')
        link.type, link.linkname = tarfile.SYMTYPE, layer_name
        tar.addfile(link)
    return [out.getvalue()[:100], out.getvalue()[100:]]


def test_an_image_of_one_layer():
    config = {'architecture': 'amd64', 'os': 'linux', 'x': {'y': [1]},
              'config': {'Env': ['A=ü$1\n']}}
    manifest, found = described(members(image_writer.single(
        layer(), config, TAG, 'why')))
    assert manifest['RepoTags'] == [TAG]
    assert found['rootfs']['diff_ids'] == [
        f'sha256:{hashlib.sha256(LAYER).hexdigest()}']
    assert found.items() >= config.items()
    assert [each['comment'] for each in found['history']] == ['why']


@pytest.mark.parametrize('oci', [False, True])
def test_an_image_with_one_layer_more(oci):
    before = {'architecture': 'arm64', 'variant': 'v8', 'new': 'field',
              'config': {'Cmd': ['a'], 'User': 'me', 'Labels': {
                  'ours': '', 'theirs': '1'}},
              'rootfs': {'type': 'layers', 'diff_ids': ['sha256:1']},
              'history': [{'created_by': 'them'}]}
    archive = members(image_writer.extended(
        saved(json.dumps(before).encode(), oci=oci), layer(),
        {'Cmd': ['b'], 'Entrypoint': None}, TAG, 'why', ['ours']))
    manifest, found = described(archive)
    assert manifest['Layers'][-1] in archive
    assert archive[manifest['Layers'][-1]] == LAYER
    assert len(archive[manifest['Layers'][0]]) == 5_000_000
    assert not {'repositories', 'index.json'} & set(archive)
    assert found['config'] == {'Cmd': ['b'], 'User': 'me',
                               'Labels': {'theirs': '1'}}
    assert len(found['rootfs']['diff_ids']) == len(found['history']) == 2
    assert (found['variant'], found['new']) == ('v8', 'field')


@pytest.mark.parametrize('more', [-1, 1])
def test_a_layer_of_another_size_is_no_image(more):
    with pytest.raises(InvalidImageArchive, match='bytes it should have'):
        list(image_writer.single(layer(more), {}, TAG, ''))


@pytest.mark.parametrize('chunks', [
    [b'no tar' * 200], saved(b'[no json'), saved(b'{}', ('x', 'c.json'))])
def test_what_is_no_image_cannot_be_extended(chunks):
    with pytest.raises(InvalidImageArchive):
        list(image_writer.extended(chunks, layer(), {}, TAG, ''))


def test_a_layer_has_the_size_that_was_told(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / ('n' * 200)).write_bytes(b'x' * 513)
    (tmp_path / 'link').symlink_to('t' * 300)
    os.link(tmp_path / 'folder' / ('n' * 200), tmp_path / 'again')
    with (tmp_path / 'hole').open('wb') as f:
        f.truncate(3_000_000)
    out = io.BytesIO()
    layer_writer.write(str(tmp_path), out)
    sizes = layer_writer.measure(str(tmp_path))
    assert sizes == layer_writer.Sizes(len(out.getvalue()), 3_000_513, False)


@pytest.mark.parametrize('name', ['.wh.x', '.wh..wh..opq'])
def test_a_name_that_means_a_deleted_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InvalidImageArchive, match='stands for a deleted'):
        layer_writer.measure(str(tmp_path))


def test_a_path_that_no_engine_can_make_is_refused(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir('d' * 250, dir_fd=here)
        below = os.open('d' * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(InvalidImageArchive, match='path of a file'):
        layer_writer.measure(str(tmp_path))
