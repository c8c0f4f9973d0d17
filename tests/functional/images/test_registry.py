# SPDX-License-Identifier: Apache-2.0
"""Images of a real registry, good and bad, into a real engine."""

import base64
import http.server
import json
import os
import threading
from typing import ClassVar
import uuid

from nova import exception as nova_exception
from nova import objects
import pytest
import registry as registry_fixture  # found by tests/conftest.py
from registry import configuration
from registry import digest
from registry import layer
import requests

from nova_vcloud.engine import Engine
from nova_vcloud.image import image_config
from nova_vcloud.virt_docker.image import images
from nova_vcloud.virt_docker.image import registry_ref

objects.register_all()

META = objects.ImageMeta.from_dict({
    'container_format': 'docker', 'disk_format': 'raw', 'properties': {}})


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    home = tmp_path_factory.mktemp('plain') / 'home'
    with registry_fixture.private(home) as found:
        yield found


@pytest.fixture(scope='module')
def secure(tmp_path_factory):
    home = tmp_path_factory.mktemp('secure') / 'home'
    with registry_fixture.private(home, secure=True) as found:
        yield found


class Host:
    """A compute host and the images that Glance tells it of."""

    def __init__(self, private_engine, lock_path, settings, *, writes=True):
        self.records = {}
        self.writes = writes
        self.engine = Engine(private_engine.url)
        self.store = images.ImageStore(
            self.engine, self.download, lock_path,
            registry_ref.References(self, settings))

    def add(self, reference, **properties):
        image_id = str(uuid.uuid4())
        self.records[image_id] = {registry_ref.REFERENCE: reference,
                                  **properties}
        return image_id

    def get(self, context, image_id):
        return {'id': image_id, 'properties': dict(self.records[image_id])}

    def update(self, context, image_id, image_info, data=None,
               purge_props=False):
        if not self.writes:
            raise nova_exception.ImageNotAuthorized(image_id=image_id)
        self.records[image_id].update(image_info['properties'])

    def download(self, context, image_id):
        raise AssertionError('Glance has no such file')

    def ensure(self, image_id, root_gb=1):
        return self.store.ensure(None, image_id, META, root_gb=root_gb,
                                 instance=None)

    def config(self, image_id):
        return self.engine.image_get(images.tag_of(image_id))['Id']


@pytest.fixture
def host(private_engine, tmp_path, plain):
    return Host(private_engine, str(tmp_path), plain.settings())


def written(config, layers=1):
    """Return the digest of what a host makes of a configuration."""
    return digest(image_config.rewritten(config, layers).data)


def unique(**files):
    """Return a layer that no other test has."""
    return layer(**files, name=uuid.uuid4().bytes)


def refused(host, private_engine, image_id, reason, root_gb=1):
    before = private_engine.contents()
    with pytest.raises(nova_exception.ImageUnacceptable, match=reason):
        host.ensure(image_id, root_gb)
    assert private_engine.settled(before) == before


def test_by_digest(host, plain):
    base = unique(a=b'x')
    pushed = plain.push('team/web', '1', base)
    image_id = host.add(f'{plain.host}/team/web@{pushed}')

    assert host.ensure(image_id) == images.tag_of(image_id)
    assert host.config(image_id) == written(configuration(base))
    assert registry_ref.DIGEST not in host.records[image_id]


def test_a_tag_is_looked_up_once(host, plain, private_engine, tmp_path):
    first = unique(a=b'1')
    pushed = plain.push('team/moving', 'latest', first)
    image_id = host.add(f'{plain.host}/team/moving:latest')
    host.ensure(image_id)
    assert host.records[image_id][registry_ref.DIGEST] == pushed

    plain.push('team/moving', 'latest', unique(a=b'2'))
    host.engine.image_remove(images.tag_of(image_id))
    other = Host(private_engine, str(tmp_path), plain.settings())
    other.records = host.records
    other.ensure(image_id)
    assert other.config(image_id) == written(configuration(first))


def test_a_tag_that_cannot_be_noted_is_used(private_engine, tmp_path, plain):
    plain.push('team/public', '1', unique(a=b'1'))
    host = Host(private_engine, str(tmp_path), plain.settings(),
                writes=False)
    assert host.ensure(host.add(f'{plain.host}/team/public:1'))


def test_layers_are_shared_and_pulled_once(host, plain, private_engine):
    base = unique(base=os.urandom(200_000))
    one, two = unique(one=b'1'), unique(two=b'2')
    plain.push('team/one', '1', base, one)
    host.ensure(host.add(f'{plain.host}/team/one:1'))
    before = len(private_engine.contents()['layers'])

    plain.push('team/two', '1', base, two)
    asked = len(plain.pulled())
    image_id = host.add(f'{plain.host}/team/two:1')
    host.ensure(image_id)
    # Its configuration and the layer of its own.
    assert len(plain.pulled()) - asked == 2
    assert len(private_engine.contents()['layers']) == before + 1
    found = host.engine.image_get(images.tag_of(image_id))
    assert found['RootFS']['Layers'] == [digest(base), digest(two)]


def test_one_of_several_machines(host, plain):
    ours, other = unique(a=b'ours'), unique(a=b'other')
    mine = plain.push('team/many', 'mine', ours)
    foreign = plain.push('team/many', 'foreign', other, config=configuration(
        other, architecture='s390x'))
    plain.manifest('team/many', 'all', {
        'schemaVersion': 2,
        'mediaType': f'{registry_fixture.OCI}index.v1+json',
        'manifests': [
            {'mediaType': f'{registry_fixture.OCI}manifest.v1+json',
             'digest': found, 'size': 1, 'platform': {
                 'os': 'linux', 'architecture': name}}
            for found, name in ((foreign, 's390x'), (mine, 'amd64'))]})
    image_id = host.add(f'{plain.host}/team/many:all')
    host.ensure(image_id)
    assert host.config(image_id) == written(configuration(ours))


def test_tls_and_password(private_engine, tmp_path, secure):
    secure.push('team/secret', '1', unique(a=b'1'))
    host = Host(private_engine, str(tmp_path), secure.settings())
    assert host.ensure(host.add(f'{secure.host}/team/secret:1'))


@pytest.mark.parametrize(('changed', 'reason'), [
    ({'ca_file': ''}, 'TLS certificate verification failed'),
    ({'auth_file': ''}, 'has none for it'),
    ({'auth_file': '/nonexistent'}, 'cannot be read'),
    ({'auth_file': 'wrong'}, 'refuses the credentials'),
    ({'allowed': ()}, r'\[vcloud_registry\] allowed'),
    ({'allowed': ('registry.example.com',)}, 'not among the registries'),
])
def test_what_keeps_an_image_out(private_engine, tmp_path, secure, changed,
                                 reason):
    if changed.get('auth_file') == 'wrong':
        wrong = tmp_path / 'wrong'
        wrong.write_text(f'{{"auths": {{"{secure.host}": '
                         '{"auth": "eDp5"}}}')
        changed = {'auth_file': str(wrong)}
    secure.push('team/secret', '1', unique(a=b'1'))
    host = Host(private_engine, str(tmp_path), secure.settings(**changed))
    refused(host, private_engine, host.add(f'{secure.host}/team/secret:1'),
            reason)


def test_part_of_a_registry_may_be_allowed(private_engine, tmp_path, plain):
    host = Host(private_engine, str(tmp_path), plain.settings(
        allowed=(f'{plain.host}/team',)))
    plain.push('team/in', '1', unique(a=b'1'))
    assert host.ensure(host.add(f'{plain.host}/team/in:1'))
    plain.push('teams/out', '1', unique(a=b'1'))
    refused(host, private_engine, host.add(f'{plain.host}/teams/out:1'),
            'not among the registries')


@pytest.mark.parametrize('reference', [
    '{}/team/none:1', '{}/team/none@sha256:' + '0' * 64])
def test_missing(host, plain, private_engine, reference):
    refused(host, private_engine, host.add(reference.format(plain.host)),
            'has no')


def test_no_registry_there(private_engine, tmp_path, plain):
    host = Host(private_engine, str(tmp_path), plain.settings(
        allowed=('127.0.0.1:1',)))
    refused(host, private_engine, host.add('127.0.0.1:1/team/web:1'),
            'cannot be reached')


@pytest.mark.parametrize('which', ['layer', 'cut', 'config', 'manifest'])
def test_what_is_not_what_its_digest_says(host, plain, private_engine,
                                          which):
    base = unique(a=os.urandom(100_000))
    pushed = plain.push('team/spoilt', '1', base)
    image_id = host.add(f'{plain.host}/team/spoilt@{pushed}')
    found = plain.show('team/spoilt', pushed)
    name = {'config': found['config']['digest'], 'manifest': pushed}.get(
        which, found['layers'][0]['digest'])
    size = found['layers'][0]['size']
    plain.spoil(name, {
        'layer': bytes(size), 'cut': bytes(1000),
        'config': configuration(layer(b=b'y')) + b' ',
        'manifest': b'{"schemaVersion": 2}'}[which])
    refused(host, private_engine, image_id,
            'digest|cut off|longer|another manifest|HTTP status|size')


def test_bomb(host, plain, private_engine):
    # The same little layer over and over.
    bomb = unique(a=bytes(50 << 20))
    plain.push('team/bomb', '1', *[bomb] * 80)
    refused(host, private_engine, host.add(f'{plain.host}/team/bomb:1'),
            r'unpacks to more than 3\.0 GiB')


def test_ten_callers_pull_once(host, plain):
    plain.push('team/busy', '1', unique(a=os.urandom(300_000)))
    image_id = host.add(f'{plain.host}/team/busy:1')
    asked, found = len(plain.pulled()), []
    threads = [threading.Thread(
        target=lambda: found.append(host.ensure(image_id)))
        for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [images.tag_of(image_id)] * 10
    assert len(plain.pulled()) - asked == 2


class Tokens(http.server.BaseHTTPRequestHandler):
    """Stands before a registry and wants tokens, as Harbor does."""

    behind = ''
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self):
        said = self.headers['Authorization']
        if self.path.startswith('/token'):
            self.asked.append((self.path, said))
            right = said == f'Basic {LOGIN}'
            self.answer(200 if right else 401, json.dumps(
                {'token': 'sesame'} if right else {'errors': []}).encode())
        elif said != 'Bearer sesame':
            host = self.headers['Host']
            self.send_response(401)
            self.send_header(
                'WWW-Authenticate', f'Bearer realm="http://{host}/token",'
                'service="r",scope="repository:team/tokens:pull"')
            self.end_headers()
        else:
            got = requests.get(f'http://{self.behind}{self.path}', timeout=5,
                               headers={'Accept': self.headers['Accept']})
            self.answer(got.status_code, got.content)

    def answer(self, status, content):
        self.send_response(status)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args):
        """Keep quiet."""


LOGIN = base64.b64encode(b'cloud:secret').decode()


@pytest.mark.parametrize(('login', 'works'), [
    (LOGIN, True), ('eDp5', False)])
def test_tokens(private_engine, tmp_path, plain, login, works):
    plain.push('team/tokens', '1', unique(a=b'1'))
    Tokens.behind, Tokens.asked[:] = plain.host, []
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Tokens) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            place = f'127.0.0.1:{server.server_port}'
            auths = tmp_path / 'auth.json'
            auths.write_text(json.dumps({'auths': {place: {'auth': login}}}))
            host = Host(private_engine, str(tmp_path), plain.settings(
                allowed=(place,), plain=(place,), auth_file=str(auths)))
            image_id = host.add(f'{place}/team/tokens:1')
            if works:
                assert host.ensure(image_id)
            else:
                refused(host, private_engine, image_id,
                        'refuses the credentials')
        finally:
            server.shutdown()
            thread.join()
    # Once, for what is read of one repository.
    assert [said for _path, said in Tokens.asked] == [f'Basic {login}']
    assert 'scope=repository%3Ateam%2Ftokens%3Apull' in Tokens.asked[0][0]
