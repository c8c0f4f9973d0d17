# SPDX-License-Identifier: Apache-2.0
"""A registry, and whom it refers to, gets neither memory nor credentials.

What answers here is no registry: it says whatever it likes, on loopback.
"""

import base64
import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import gzip
import http.server
import json
import socket
import ssl
import threading

import pytest
import registry as registry_fixture
from registry import configuration
from registry import digest
from registry import layer

from nova_vcloud import exception
from nova_vcloud.image import registry
from nova_vcloud.image import registry_http

MIB = 1 << 20
ENDLESS = 64 * MIB  # bytes; nobody reads so many
LOGIN = base64.b64encode(b'cloud:secret').decode()
LAYER = layer(a=b'x')
CONFIG = configuration(LAYER)
MANIFEST = json.dumps({
    'schemaVersion': 2,
    'config': {'digest': digest(CONFIG), 'size': len(CONFIG)},
    'layers': [{'mediaType': f'{registry_fixture.OCI}layer.v1.tar',
                'digest': digest(LAYER), 'size': len(LAYER)}]}).encode()
BLOBS = {digest(each): each for each in (LAYER, CONFIG)}


class Answers:
    """A server that says what a test wants, and notes what it is asked.

    :ivar said: {beginning of a path: what answers it}
    :ivar asked: (path, headers)
    :ivar written: bytes of bodies
    :ivar connections: that were opened
    """

    def __init__(self) -> None:
        self.said: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.written = self.connections = 0
        self.url = self.place = ''

    def credentials(self) -> list[str]:
        """Return what it was told that is for nobody else."""
        return [value for _path, headers in self.asked
                for name, value in headers.items()
                if name in ('Authorization', 'Cookie')]


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection to :class:`Answers`."""

    answers: Answers

    def setup(self) -> None:
        self.answers.connections += 1
        super().setup()

    def do_GET(self) -> None:
        self.answers.asked.append((self.path, dict(self.headers)))
        for beginning, say in self.answers.said.items():
            if self.path.startswith(beginning):
                with contextlib.suppress(OSError):  # it is not listened to
                    say(self)
                return
        name = self.path.rpartition('/')[2]
        self.say(MANIFEST if '/manifests/' in self.path else BLOBS[name])

    def say(self, data: bytes, status: int = 200, **headers: str) -> None:
        """Answer."""
        self.begin(status, Content_Length=str(len(data)), **headers)
        self.write(data)

    def begin(self, status: int, **headers: str) -> None:
        """Begin an answer; ``_`` in the name of a header is a dash."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()

    def write(self, data: bytes) -> None:
        """Send a part of a body."""
        self.wfile.write(data)
        self.answers.written += len(data)

    def log_message(self, *_args: object) -> None:
        """Keep quiet."""


def endless(status=200, **headers):
    """Say more than anybody should listen to."""
    def say(handler):
        handler.begin(status, **headers)
        for _ in range(ENDLESS // MIB):
            handler.write(b' ' * MIB)
    return say


def redirect(url, status=307, **headers):
    return lambda handler: handler.say(b'', status, Location=url,
                                       Set_Cookie='mine=1', **headers)


def challenge(url):
    """Want a token of that server."""
    def say(handler):
        if handler.headers['Authorization'] == 'Bearer sesame':
            handler.say(MANIFEST if '/manifests/' in handler.path
                        else BLOBS[handler.path.rpartition('/')[2]])
        else:
            handler.say(b'', 401, WWW_Authenticate=f'Bearer realm="{url}"')
    return say


def say_token(handler):
    handler.say(json.dumps({'token': 'sesame'}).encode())


@contextlib.contextmanager
def serving(certificate=None) -> Iterator[Answers]:
    """Have a server on loopback.

    :param certificate: folder with that of a registry; None for no TLS
    """
    answers = Answers()
    handler = type('Own', (Handler,), {'answers': answers})
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0),
                                         handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / 'ca.pem',
                                    certificate / 'key.pem')
            server.socket = context.wrap_socket(
                server.socket, server_side=True,
                do_handshake_on_connect=False)
        answers.place = f'127.0.0.1:{server.server_port}'
        answers.url = f'http{"s" * bool(certificate)}://{answers.place}'
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    home = tmp_path_factory.mktemp('certificate')
    registry_fixture.certificate(home)
    return home


@pytest.fixture
def plain():
    with serving() as found:
        yield found


@pytest.fixture
def other_plain():
    with serving() as found:
        yield found


@pytest.fixture
def secure(certificate):
    with serving(certificate) as found:
        yield found


@pytest.fixture
def other(certificate):
    with serving(certificate) as found:
        yield found


@pytest.fixture
def find(tmp_path, certificate):
    """Look an image up, and read its layer; return the layer."""
    def found(answers, plain=(), trusted=(), **settings):
        auths = tmp_path / 'auth.json'
        auths.write_text(json.dumps(
            {'auths': {answers.place: {'auth': LOGIN}}}))
        image = registry.find(f'{answers.place}/team/web:1', registry.Settings(
            (answers.place,), tuple(each.place for each in plain),
            str(certificate / 'ca.pem'), str(auths), 30,
            tuple(each.place for each in trusted), **settings), 'x86_64')
        return b''.join(image.pull(image.layers[0]))
    return found


def refused(find, reason, *args, **kwargs):
    with pytest.raises(exception.RegistryError, match=reason) as raised:
        find(*args, **kwargs)
    assert len(str(raised.value)) < 1000


# Answers without end

@pytest.mark.parametrize('where', ['/token', '/v2/team/web/'])
def test_no_answer_takes_memory(find, plain, where):
    plain.said = {where: endless(), '/v2/': challenge(f'{plain.url}/token')}
    refused(find, 'is larger than', plain, plain=[plain])
    # What the kernel takes of a connection is beside what was read.
    assert plain.written < ENDLESS // 2


@pytest.mark.parametrize('where', ['/token', '/v2/team/web/'])
def test_no_answer_is_unpacked(find, plain, where):
    bomb = gzip.compress(b' ' * ENDLESS + MANIFEST)
    plain.said = {where: lambda handler: handler.say(
        bomb, Content_Encoding='gzip'),
        '/v2/': challenge(f'{plain.url}/token')}
    with pytest.raises((exception.RegistryError,
                        exception.InvalidImageArchive)):
        find(plain, plain=[plain])


def test_an_image_has_a_time_to_come(find, plain):
    """One that never stands still for long would keep its build for days."""
    refused(find, r'takes more than 0 seconds .*pull_timeout', plain,
            plain=[plain], pull_timeout=0)
    assert find(plain, plain=[plain]) == LAYER


def going_on(handler):
    """Say again and again that there will be an answer."""
    for _ in range(ENDLESS // MIB):
        handler.write(b'HTTP/1.1 100 Continue\r\n\r\n' * (MIB // 25))
    handler.say(LAYER)


def in_pieces(more, end=b'0\r\n\r\n'):
    """Say a layer, and something beside it."""
    def say(handler):
        handler.begin(200, Transfer_Encoding='chunked')
        handler.write(f'{len(LAYER):x}\r\n'.encode() + LAYER + b'\r\n')
        for _ in range(ENDLESS // MIB):
            handler.write(more)
        handler.write(end)
    return say


@pytest.mark.parametrize('say', [
    going_on, in_pieces(b'0\r\n' + b'a: b\r\n' * (MIB // 6))])
def test_no_answer_takes_work_without_end(find, plain, monkeypatch, say):
    """A time-out does not help: all of it comes at once."""
    monkeypatch.setattr(Handler, 'protocol_version', 'HTTP/1.1')
    blob = f'/v2/team/web/blobs/{digest(LAYER)}'
    plain.said = {blob: say}
    refused(find, 'cannot be reached', plain, plain=[plain])
    assert plain.written < ENDLESS // 2


@pytest.mark.parametrize('status', [307, 401, 500])
def test_what_is_said_beside_an_answer_is_not_read(find, plain, status):
    plain.said = {'/v2/team/web/blobs/': endless(
        status, Location='/elsewhere/' + digest(LAYER),
        WWW_Authenticate='Basic realm="x"')}
    if status == 307:
        # Of the configuration, and of the layer.
        plain.said['/elsewhere/'] = lambda handler: handler.say(CONFIG)
    with contextlib.suppress(exception.RegistryError,
                             exception.InvalidImageArchive):
        find(plain, plain=[plain])
    assert plain.written < ENDLESS // 2


@pytest.mark.parametrize('token', [
    b'[]', b'"x"', b'null', b'{}', b'{"token": 5}', b'[' * 60_000,
    b'{"token": "a\\r\\nHost: b"}', b'{"token": "\\u00fc"}', b'\xff'])
def test_what_is_no_token(find, plain, token):
    plain.said = {'/token': lambda handler: handler.say(token),
                  '/v2/': challenge(f'{plain.url}/token')}
    refused(find, 'refuses the credentials', plain, plain=[plain])


# Who else is asked

@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
def test_a_manifest_lies_nowhere_else(find, plain, other_plain, status):
    plain.said = {'/v2/team/web/manifests/': redirect(
        f'{other_plain.url}/v2/x/manifests/1', status)}
    refused(find, 'unexpected redirect', plain,
            plain=[plain, other_plain])
    assert not other_plain.connections


def test_a_token_server_sends_nobody_on(find, plain, other_plain):
    plain.said = {'/token': redirect(f'{other_plain.url}/token'),
                  '/v2/': challenge(f'{plain.url}/token')}
    refused(find, 'token server of .* redirects', plain,
            plain=[plain, other_plain])
    assert not other_plain.connections


@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
def test_a_blob_may_lie_elsewhere(find, secure, other, status):
    secure.said = {'/token': say_token, '/v2/team/web/blobs/': (
        lambda handler: redirect(
            f'{other.url}/{handler.path.rpartition("/")[2]}', status)(
                handler)), '/v2/': challenge(f'{secure.url}/token')}
    assert find(secure, trusted=[other]) == LAYER
    assert secure.credentials()
    assert not other.credentials()


def test_a_blob_that_lies_elsewhere_on_the_registry(find, plain):
    """There the credentials are wanted too."""
    wanted = challenge(f'{plain.url}/token')
    plain.said = {
        '/token': say_token, '/v2/team/web/blobs/': lambda handler: (
            redirect(handler.path.replace('/v2/', '/v3/')) if handler.headers[
                'Authorization'] else wanted)(handler),
        '/v2/': wanted, '/v3/': wanted}
    assert find(plain, plain=[plain]) == LAYER


@pytest.mark.parametrize('where', [
    'https://{other}/', '//{other}/', 'https://localhost:{port}/',
    'https://[::ffff:127.0.0.1]:{port}/', 'https://127.1:{port}/',
    'https://2130706433:{port}/', 'https://LOCALHOST:{port}/'])
@pytest.mark.parametrize('kind', ['blob', 'token'])
def test_no_address_of_the_host_or_its_neighbours(find, secure, other, where,
                                                  kind):
    place = where.format(other=other.place, port=other.place[10:])
    if kind == 'blob':
        secure.said = {'/v2/team/web/blobs/': redirect(place)}
    else:
        secure.said = {'/v2/': challenge(place)}
    refused(find, 'is not public|no address of a host|without TLS', secure)
    assert not other.connections


@pytest.mark.parametrize('address', [
    '169.254.169.254', '10.0.0.1', '172.16.5.5', '192.168.1.1', '127.0.0.1',
    '100.64.0.1', '0.0.0.0', '224.0.0.1', '::1', 'fe80::1', 'fd00::1',
    '::ffff:10.0.0.1', '64:ff9b::a00:1', '2002:7f00:1::', '::', 'ff02::1',
    # Of a site: NAT64, and what Python took for global, or does.
    '64:ff9b:1::a00:1', 'fec0::1', '::7f00:1', '5f00::1', '3fff::1'])
def test_addresses_that_are_not_public(address):
    assert not registry_http.is_public(address)


@pytest.mark.parametrize('address', [
    '93.184.216.34', '2a00:1450:4001::1', '64:ff9b::5db8:d822'])
def test_addresses_that_are(address):
    assert registry_http.is_public(address)


def test_a_name_that_becomes_another_address(find, secure, other,
                                             monkeypatch):
    """What was looked at is what is asked: a name is looked up once."""
    looked = collections.Counter()
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host != 'blobs.example.com':
            return real(host, port, *args, **kwargs)
        looked[host] += 1
        # First a public address, at which nobody answers here.
        return real('192.0.0.9' if looked[host] == 1 else '127.0.0.1', port,
                    *args, **kwargs)

    def create_connection(address, *args, **kwargs):
        if address[0] == '192.0.0.9':
            raise OSError('unreachable')
        return create(address, *args, **kwargs)

    create = socket.create_connection
    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    monkeypatch.setattr(socket, 'create_connection', create_connection)
    secure.said = {'/v2/team/web/blobs/': redirect(
        f'https://blobs.example.com:{other.place[10:]}/')}
    refused(find, 'cannot be reached', secure)
    assert looked['blobs.example.com'] == 1
    assert not other.connections


@pytest.mark.parametrize('kind', ['blob', 'token'])
def test_what_has_tls_keeps_it(find, secure, other_plain, kind):
    if kind == 'blob':
        secure.said = {'/v2/team/web/blobs/': redirect(other_plain.url)}
    else:
        secure.said = {'/v2/': challenge(f'{other_plain.url}/token')}
    refused(find, 'without TLS', secure, plain=[other_plain],
            trusted=[other_plain])
    assert not other_plain.connections


@pytest.mark.parametrize('where', [
    '', 'file:///etc/passwd', 'ftp://{0}/', 'https://', 'https://{0}:x/',
    'https://user:word@{0}/', 'gopher://{0}/', 'https://[', 'https://[::1',
    'https://a..b/', f'https://{"a" * 70}.example.com/',
    'https://a\xad/'])
def test_what_is_no_place(find, secure, other, where):
    secure.said = {'/v2/team/web/blobs/': redirect(
        where.format(other.place))}
    refused(find, 'refers to|redirects more|cannot be reached', secure,
            trusted=[other])
    assert not other.connections


def test_a_circle(find, secure):
    secure.said = {'/v2/team/web/blobs/': redirect('/v2/team/web/blobs/x')}
    refused(find, 'redirects more than 5 times', secure)
    assert secure.connections < 10
