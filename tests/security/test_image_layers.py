# SPDX-License-Identifier: Apache-2.0
"""Whose layers an image gets: those whose bytes it brings, and no others.

The digests of a private image are no secret (a log, a manifest in a cache);
an image that names them must not have its files.
"""

import gzip
import uuid

import image_hosts  # found by tests/conftest.py
from nova import exception as nova_exception
import pytest
import registry as registry_fixture
from registry import configuration
from registry import digest
from registry import layer

from nova_vcloud.image import docker_archive


def secret_layer():
    """Return a layer that nobody else has."""
    return layer(secret=uuid.uuid4().bytes * 1000)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    with registry_fixture.private(
            tmp_path_factory.mktemp('plain') / 'home') as found:
        yield found


@pytest.fixture
def host(dockerd, plain, tmp_path):
    with image_hosts.private(dockerd, tmp_path, plain.settings()) as found:
        yield found


def has(dockerd, tag, name, folder):
    """Tell whether an image has a file."""
    container = dockerd.engine.create(f'look-{uuid.uuid4()}', {
        'Image': tag, 'Cmd': ['/x'], 'HostConfig': {'NetworkMode': 'none'}})
    try:
        return dockerd.docker('cp', f'{container}:/{name}', str(folder),
                              check=False).returncode == 0
    finally:
        dockerd.engine.remove(container)


DUMMIES = {
    'a dummy': lambda _secret: [layer(a=b'x')],
    'nothing of it': lambda _secret: [bytes(1024)],
    'packed': lambda _secret: [gzip.compress(layer(a=b'x'))],
    'all but its end': lambda secret: [secret[:-512]],
    'more than it': lambda secret: [secret + bytes(512)],
    'one of two': lambda secret: [secret, layer(a=b'x')],
}


@pytest.mark.parametrize('kind', DUMMIES)
def test_an_archive_that_names_the_digests_of_another(host, kind):
    secret = secret_layer()
    host.ensure(host.upload(image_hosts.saved(secret)))
    before = host.contents()

    layers = DUMMIES[kind](secret)
    stolen = configuration(*([secret] * len(layers)))
    thief = host.upload(image_hosts.saved(*layers, config=stolen))
    with pytest.raises(nova_exception.ImageUnacceptable, match='and not sha'):
        host.ensure(thief)
    assert host.settled(before) == before


def test_who_has_the_bytes_shares_the_layer(host, dockerd, tmp_path):
    shared = secret_layer()
    host.ensure(host.upload(image_hosts.saved(shared)))
    before = len(host.contents()['layers'])
    tag = host.ensure(host.upload(image_hosts.saved(
        shared, layer(more=b'x'))))
    assert len(host.contents()['layers']) == before + 1
    assert has(dockerd, tag, 'secret', tmp_path)


@pytest.mark.parametrize('came', ['from Glance', 'from the registry'])
@pytest.mark.parametrize('blob', ['a dummy', 'one that is not there'])
def test_a_manifest_that_names_the_digests_of_another(host, plain, came,
                                                      blob):
    """A registry's manifest and configuration are whatever is pushed."""
    secret = secret_layer()
    if came == 'from Glance':
        host.ensure(host.upload(image_hosts.saved(secret)))
    else:
        plain.push('private/web', '1', secret)
        host.ensure(host.register(f'{plain.host}/private/web:1'))
    dummy = layer(dummy=uuid.uuid4().bytes)
    plain.push('evil/web', '1', dummy, config=configuration(secret))
    if blob == 'one that is not there':
        # As another registry would answer, that checks no manifest.
        plain.spoil(digest(gzip.compress(dummy, 1, mtime=0)), b'')
    before = host.contents()
    with pytest.raises(nova_exception.ImageUnacceptable):
        host.ensure(host.register(f'{plain.host}/evil/web:1'))
    assert host.settled(before) == before


def test_a_piece_that_the_registry_does_not_give(host, plain):
    """One seen here is not taken for proof that another may have it."""
    secret = secret_layer()
    pushed = plain.push('private/web', '1', secret)
    host.ensure(host.register(f'{plain.host}/private/web:1'))
    # The same manifest, where the repository has lost the layer.
    found = plain.show('private/web', pushed)
    plain.push('evil/web', '1', secret)
    plain.unlink('evil/web', found['layers'][0]['digest'])
    before = host.contents()
    with pytest.raises(nova_exception.ImageUnacceptable, match='has no'):
        host.ensure(host.register(f'{plain.host}/evil/web:1'))
    assert host.settled(before) == before


def test_a_layer_that_was_not_looked_at_is_pulled(host, plain):
    """What an earlier release has pulled is not known to be right."""
    base = secret_layer()
    plain.push('team/one', '1', base)
    host.ensure(host.register(f'{plain.host}/team/one:1'))
    for path in (host.path / 'layers').iterdir():
        path.unlink()
    asked = len(plain.pulled())
    plain.push('team/two', '1', base, layer(two=b'2'))
    host.ensure(host.register(f'{plain.host}/team/two:1'))
    assert len(plain.pulled()) - asked == 3  # with the configuration


def test_an_image_of_pieces_takes_what_all_take(host, plain, monkeypatch):
    """Also those that are not pulled count."""
    monkeypatch.setattr(docker_archive, 'MAX_BYTES', 64 << 20)
    base = layer(big=uuid.uuid4().bytes + bytes(40 << 20))
    plain.push('team/base', '1', base)
    host.ensure(host.register(f'{plain.host}/team/base:1'), root_gb=0)
    plain.push('team/bomb', '1', base, layer(more=bytes(30 << 20)))
    with pytest.raises(nova_exception.ImageUnacceptable, match='unpacks to'):
        host.ensure(host.register(f'{plain.host}/team/bomb:1'), root_gb=0)
