# SPDX-License-Identifier: Apache-2.0
"""References, what an operator allows, and what manifests say."""

import json

import pytest

from nova_vcloud import exception
from nova_vcloud.image import manifests
from nova_vcloud.image import registry

DIGEST = 'sha256:' + 'a' * 64
OCI = 'application/vnd.oci.image.'


@pytest.mark.parametrize(('text', 'wanted'), [
    ('r.example.com/web', ('r.example.com', 'web', 'latest', '')),
    ('r.example.com:5000/a/b_c:1.0', ('r.example.com:5000', 'a/b_c', '1.0',
                                      '')),
    (f'localhost/a@{DIGEST}', ('localhost', 'a', '', DIGEST)),
    (f'[::1]:5000/a:1@{DIGEST}', ('[::1]:5000', 'a', '1', DIGEST)),
])
def test_references(text, wanted):
    assert registry.parse(text) == registry.Reference(*wanted)


@pytest.mark.parametrize('text', [
    '', 'debian', 'library/debian:12', 'r.example.com', 'r.example.com/',
    'r.example.com/A', 'r.example.com/a/../b', 'r.example.com/a?b=c',
    'https://r.example.com/a', 'user@r.example.com/a', 'r.example.com/a:',
    'r.example.com/a@md5:' + 'a' * 32, f'r.example.com/a@{DIGEST[:-1]}',
    'r.example.com/a\n.other.com/b', 'r.example.com//a'])
def test_what_is_no_reference(text):
    with pytest.raises(exception.RegistryError):
        registry.parse(text)


@pytest.mark.parametrize(('allowed', 'fits'), [
    (['r.example.com'], True), (['r.example.com/team'], True),
    (['r.example.com/team/'], True), (['r.example.com/team/web'], True),
    (['r.example.com/te'], False), (['r.example.com:5000'], False),
    (['example.com'], False), ([], False)])
def test_what_is_allowed(allowed, fits):
    reference = registry.parse('r.example.com/team/web:1')
    assert registry.is_allowed(reference, allowed) is fits


def image(**changed):
    return json.dumps({
        'schemaVersion': 2,
        'config': {'digest': DIGEST, 'size': 5},
        'layers': [{'mediaType': f'{OCI}layer.v1.tar+gzip',
                    'digest': DIGEST, 'size': 7}], **changed}).encode()


def test_a_manifest():
    assert manifests.parse(image(), 'x86_64') == manifests.Manifest(
        manifests.Blob(DIGEST, 5), (manifests.Blob(DIGEST, 7),))


@pytest.mark.parametrize(('data', 'reason'), [
    (b'x', 'not JSON'), (b'[]', 'describes no image'),
    (image(schemaVersion=1), 'not of version 2'),
    (image(layers='x'), 'layers'),
    (image(layers=[{}] * 128), 'layers'),
    (image(config={'digest': '../../x', 'size': 1}), 'sha256'),
    (image(config={'digest': DIGEST, 'size': -1}), 'size'),
    (image(layers=[{'mediaType': f'{OCI}layer.v1.tar+zstd',
                    'digest': DIGEST, 'size': 7}]), 'zstd'),
    (image(layers=[{'mediaType': f'{OCI}layer.nondistributable.v1.tar',
                    'digest': DIGEST, 'size': 7, 'urls': ['http://x']}]),
     'nondistributable'),
    (image(manifests=[{'digest': DIGEST, 'size': 1, 'platform': {
        'os': 'linux', 'architecture': 's390x'}}]), 'only for s390x'),
])
def test_what_is_no_manifest(data, reason):
    with pytest.raises(exception.InvalidImageArchive, match=reason):
        manifests.parse(data, 'x86_64')


def test_the_best_of_an_index():
    def entry(number, **platform):
        return {'digest': DIGEST[:-1] + str(number), 'size': 1,
                'platform': {'os': 'linux', **platform}}
    data = image(manifests=[
        entry(1, architecture='386'), entry(2, architecture='amd64'),
        entry(3, architecture='arm64')])
    assert manifests.parse(data, 'x86_64').digest.endswith('2')
    assert manifests.parse(data, 'aarch64').digest.endswith('3')


@pytest.mark.parametrize('chunks', [
    [b'hello'], [b'he', b'', b'llo'], [b'h', b'ello']])
def test_checked(chunks):
    blob = manifests.Blob(manifests.digest_of(b'hello'), 5)
    assert b''.join(manifests.checked(blob, chunks)) == b'hello'


@pytest.mark.parametrize(('chunks', 'reason'), [
    ([b'hell'], 'cut off'), ([b'hello', b'!'], 'longer'),
    ([b'hallo'], 'another digest')])
def test_the_last_chunk_of_a_bad_piece_does_not_come(chunks, reason):
    blob, came = manifests.Blob(manifests.digest_of(b'hello'), 5), []
    with pytest.raises(exception.InvalidImageArchive, match=reason):
        came.extend(manifests.checked(blob, chunks))
    assert len(b''.join(came)) < 5
