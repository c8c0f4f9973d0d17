# SPDX-License-Identifier: Apache-2.0
"""Who may send a server to a host, by real ssh and real TLS, and how much."""

import contextlib
import dataclasses
import fcntl
import io
import itertools
import json
import os
import pathlib
import random
import socket
import ssl
import threading
import time

import pytest
import sshd
import tlsd
import transfers

from mini import certificates
from nova_vcloud import exception
from nova_vcloud.transfer import channels
from nova_vcloud.transfer import listener
from nova_vcloud.transfer import receiver
from nova_vcloud.transfer import spool as spools
from nova_vcloud.transfer import transport as transports
from nova_vcloud.virt_docker.migration import cold_migration

SERVER = '11111111-2222-4333-8444-555566667777'
OTHER = '22222222-2222-4333-8444-555566667777'
MIB = 1 << 20


@pytest.fixture
def spool(tmp_path):
    path = tmp_path / 'spool'
    path.mkdir()
    return path


@pytest.fixture(params=['ssh', 'tls'])
def transport(request, tmp_path, spool):
    """A transport to a host, of which the folder is ``tmp_path / 'keys'``."""
    folder = tmp_path / 'keys'
    folder.mkdir()
    fixture = {'ssh': sshd, 'tls': tlsd}[request.param]
    with fixture.private(folder, spool) as found:
        yield found


@contextlib.contextmanager
def session(transport):
    found = transports.Session(transport, sshd.ADDRESS)
    try:
        yield found
    finally:
        found.kill()


def begin(found, server=SERVER, token=transfers.TOKEN, manifest='{}'):
    return found.ask('begin', server, token, manifest)


def files(spool):
    """Return what lies in the spool, but for admissions and locks."""
    return sorted(str(path.relative_to(spool)) for path in spool.rglob('*')
                  if path.suffix != '.admission'
                  and path.name != '.receivers')


def refused(match):
    return pytest.raises(exception.MoveFailed, match=match)


def test_nobody_sends_what_was_not_admitted(transport, spool):
    with session(transport) as found, refused('no such admission'):
        begin(found)
    transfers.admit(spool, SERVER)
    for token in ('', 'x', transfers.TOKEN[:-1], transfers.TOKEN + 'x',
                  spools.token_hash(transfers.TOKEN)):
        with session(transport) as found, refused('no such admission'):
            begin(found, token=token)
    # The token of one server is none for another.
    with session(transport) as found, refused('no such admission'):
        begin(found, OTHER)
    transfers.admit(spool, SERVER, expires=-1)
    with session(transport) as found, refused('no such admission'):
        begin(found)
    transfers.admit(spool, SERVER)
    spools.Spool(str(spool)).revoke(SERVER)
    with session(transport) as found, refused('no such admission'):
        begin(found)
    assert files(spool) == []


def test_a_connection_has_the_server_that_it_began(transport, spool):
    """The manifest, files or all of another move are out of its reach."""
    transfers.admit(spool, SERVER)
    transfers.admit(spool, OTHER)
    with session(transport) as victim:
        begin(victim, OTHER, manifest='{"victim": 1}')
        victim.put('layer.tar', [b'victim'])
        before = files(spool)
        for words in (('drop', OTHER), ('put', OTHER, 'changes.tar'),
                      ('put', f'../{OTHER}/changes.tar'),
                      ('begin', OTHER, 'x', '{}'), ('put', 'manifest.json')):
            with session(transport) as found:
                begin(found)
                with refused(r'no request|not among|no such admission'):
                    found.ask(*words)
    spools.Spool(str(spool)).drop(SERVER)
    assert files(spool) == before
    assert (spool / OTHER / 'layer.tar').read_bytes() == b'victim'
    assert spools.Spool(str(spool)).manifest(OTHER) == '{"victim": 1}'


def test_two_connections_do_not_send_one_server(transport, spool):
    transfers.admit(spool, SERVER)
    with session(transport) as one:
        begin(one)
        with session(transport) as two, refused('is in progress'):
            begin(two)
        one.put('layer.tar', [b'data'])
    assert (spool / SERVER / 'layer.tar').read_bytes() == b'data'


@pytest.mark.parametrize('name', [
    'manifest.json', 'papers.json', 'layer.tar.part', '../layer.tar', '.',
    '/etc/passwd', 'layer.tar/x', 'LAYER.TAR', 'disk.eph0', 'disk.eph1.tar',
    'disk.eph00.tar', '.ssh', 'layer.tar\n', 'image.tar\0'])
def test_only_files_that_were_announced(transport, spool, name):
    transfers.admit(spool, SERVER)
    with session(transport) as found:
        begin(found)
        before = files(spool)
        with refused('not among|no request'):
            found.put(name, [b'x'])
    assert files(spool) == before


def test_a_file_comes_once(transport, spool):
    transfers.admit(spool, SERVER)
    with session(transport) as found:
        begin(found)
        found.put('layer.tar', [b'data'])
        with refused('was received already'):
            found.put('layer.tar', [b'more'])
    assert (spool / SERVER / 'layer.tar').read_bytes() == b'data'


@pytest.mark.parametrize('size', [0, 1000, MIB])
def test_no_more_than_was_announced(transport, spool, size):
    """In one file, in many, or in a frame that only says so."""
    most = size + 64 * 1024
    transfers.admit(spool, SERVER, size)
    with session(transport) as found, refused(f'more than the {size} bytes'):
        begin(found)
        found.put('layer.tar', (os.urandom(MIB) for _ in range(50)))
    assert written(spool) <= most
    with session(transport) as found, refused(f'more than the {size} bytes'):
        begin(found)
        for name in transfers.FILES:
            found.put(name, [b'x' * (size // 2)] if size else [b'x'])
    assert written(spool) <= most
    with session(transport) as found, refused(f'more than the {size} bytes'):
        begin(found)
        found._frame(b'put layer.tar')
        found._channel.write(receiver.LENGTH.pack(1 << 62), 60)
        found._answer()
    assert written(spool) <= most


def written(spool):
    return sum(path.stat().st_size for path in spool.rglob('*')
               if path.is_file() and path.suffix != '.admission')


def test_a_file_comes_in_few_frames(transport, spool):
    transfers.admit(spool, SERVER, MIB)
    with session(transport) as found, refused('too many frames'):
        begin(found)
        found._frame(b'put layer.tar')
        found._channel.write((receiver.LENGTH.pack(1) + b'x') * 1000,
                             60)
        found._answer()


def test_the_admission_ends_while_it_is_sent(transport, spool):
    transfers.admit(spool, SERVER)
    with session(transport) as found, refused('admission expired or revoked'):
        begin(found)

        def chunks():
            yield b'x' * MIB
            spools.Spool(str(spool)).revoke(SERVER)
            yield b'x' * MIB
        found.put('layer.tar', chunks())
    assert 'layer.tar' not in os.listdir(spool / SERVER)


def test_a_request_is_small(transport, spool):
    transfers.admit(spool, SERVER)
    with session(transport) as found, refused('a request of'):
        begin(found, manifest='x' * (receiver.MAX_REQUEST + 1))
    assert files(spool) == []


@contextlib.contextmanager
def talking_ssh(folder, spool):
    """A host that has taken another's place, and says zeros without end."""
    with sshd.private(folder, spool, 'cat /dev/zero') as found:
        yield found


@contextlib.contextmanager
def talking_tls(folder, _spool):
    ca = certificates.authority(folder)
    cert, key = map(str, certificates.certificate(ca, folder, sshd.ADDRESS))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def talk():
        with contextlib.suppress(OSError), context.wrap_socket(
                port.accept()[0], server_side=True) as tls:
            while True:
                tls.sendall(bytes(MIB))
    with socket.create_server((sshd.ADDRESS, 0)) as port:
        thread = threading.Thread(target=talk)
        thread.start()
        yield channels.Tls(port.getsockname()[1], cert, key, str(ca))
        thread.join()


@pytest.mark.parametrize('talking', [talking_ssh, talking_tls])
def test_a_host_that_is_sent_to_says_little(tmp_path, spool, talking):
    """The sender does not read for ever what has no end."""
    folder = tmp_path / 'keys'
    folder.mkdir()
    with talking(folder, spool) as found, \
            refused('a line of more than 4096 bytes'):
        transports.Session(found, sshd.ADDRESS)


def noise(chance):
    """Return random requests, some of them nearly right."""
    words = ['begin', 'put', 'drop', SERVER, OTHER, transfers.TOKEN, '{}',
             'layer.tar', '../x', 'x' * 300, '', '\0', '\n', 'é']
    frames = []
    for _ in range(chance.randint(1, 6)):
        data = ' '.join(chance.choices(
            words, k=chance.randint(0, 5))).encode()
        if chance.random() < 0.2:
            data = chance.randbytes(chance.randint(0, 400))
        length = len(data) if chance.random() < 0.9 else chance.choice(
            [0, 1, len(data) + 9, 1 << 20, 1 << 63, (1 << 64) - 1])
        frames.append(receiver.LENGTH.pack(length) + data)
    return b''.join(frames)


def test_no_noise_gets_anything_stored(budget, spool, tmp_path):
    """With no token but its own, of a server of 1000 bytes."""
    transfers.admit(spool, SERVER, 1000)
    for number in range(budget.count(2000, 200_000)):
        chance = random.Random(f'{budget.seed}-{number}')
        receiver.Connection(
            spools.Spool(str(spool)), io.BufferedReader(io.BytesIO(
                noise(chance))), io.StringIO()).serve()
        for path in files(spool):
            assert path == SERVER or path.startswith(f'{SERVER}/'), number
        assert written(spool) <= 1000 + receiver.MAX_REQUEST, number
    assert [path.name for path in tmp_path.iterdir()] == ['spool']


# Room

def test_what_is_announced_adds_up(spool, monkeypatch):
    monkeypatch.setattr(spools, '_free', lambda _where: 100 * MIB
                        + spools.RESERVE)
    here = spools.Spool(str(spool))
    transfers.admit(spool, SERVER, 60 * MIB)
    with pytest.raises(spools.Refused, match='60 MiB are to come'):
        transfers.admit(spool, OTHER, 50 * MIB)
    transfers.admit(spool, OTHER, 40 * MIB)
    # What has come of one is no longer free, and no longer to come.
    arrival = here.begin(SERVER, transfers.TOKEN, '{}', None)
    arrival.put('layer.tar', [b'x' * 30 * MIB])
    arrival.close()
    monkeypatch.setattr(spools, '_free', lambda _where: 70 * MIB
                        + spools.RESERVE)
    transfers.admit(spool, OTHER, 39 * MIB)
    with pytest.raises(spools.Refused, match='has room for'):
        transfers.admit(spool, OTHER, 41 * MIB)
    # One that never began keeps nothing.
    here.drop(SERVER)
    transfers.admit(spool, SERVER, 20 * MIB, expires=-1)
    transfers.admit(spool, OTHER, 70 * MIB)


def test_no_size_makes_room_for_others(spool):
    with pytest.raises(spools.Refused, match='a server of -1 bytes'):
        transfers.admit(spool, OTHER, -1)


@pytest.mark.parametrize('forged', [
    '[' * 50_000, '{}', '{"size": 1}', json.dumps(
        {**spools.Admission('', '', '', -(1 << 60), [], 1e12)._asdict()}),
    json.dumps({**spools.Admission('', '', '', 0, [], 0)._asdict(),
                'size': '9'}),
    json.dumps({**spools.Admission('', '', '', 0, [], 0)._asdict(),
                'expires': 'never'})])
def test_what_the_receivers_account_writes_is_no_admission(spool, forged):
    """It owns the directory; nova-compute counts what it has admitted."""
    (spool / f'{OTHER}.admission').write_text(forged)
    found = spools.Spool(str(spool))
    assert found.admission(OTHER) is None
    with pytest.raises(spools.Refused, match='has room for'):
        transfers.admit(spool, SERVER, 1 << 59)
    transfers.admit(spool, SERVER)
    found.drop(OTHER)


def test_a_lock_that_is_kept_keeps_no_thread(spool, monkeypatch):
    monkeypatch.setattr(spools, 'LOCK_TIMEOUT', 0.1)
    fd = os.open(spool, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(spools.Refused, match='is locked'):
            transfers.admit(spool, SERVER)
    finally:
        os.close(fd)
    transfers.admit(spool, SERVER)


def test_the_reserve_stays_while_it_is_sent(spool, monkeypatch):
    transfers.admit(spool, SERVER)
    arrival = spools.Spool(str(spool)).begin(SERVER, transfers.TOKEN, '{}',
                                             None)
    left = iter([spools.RESERVE, spools.RESERVE - 1])
    monkeypatch.setattr(spools, '_free', lambda _where: next(left))
    with pytest.raises(spools.Refused, match='no space left'):
        arrival.put('layer.tar', [b'x' * spools.BEHIND] * 3)
    arrival.close()
    assert not (spool / SERVER / 'layer.tar').exists()


# Who can write to the spool

@pytest.mark.parametrize('mode', [0o770, 0o707, 0o1777])
def test_no_start_with_a_spool_that_others_can_write(spool, mode):
    """They could have nova-compute, which is root, unpack what they like."""
    found = cold_migration.Moves(*[None] * 3, 'layer', str(spool), *[None] * 7)
    found.make_spool()
    spool.chmod(mode)
    with pytest.raises(exception.HostNotReady,
                       match=rf'spool_path: .*\): chmod 700 {spool}$'):
        found.make_spool()


# Links in the spool

@pytest.mark.parametrize('place', ['folder', 'admission', 'new'])
def test_no_link_in_the_spool_is_followed(spool, tmp_path, place):
    """Neither by the receiver nor by nova-compute, which may be root."""
    victim = tmp_path / 'victim'
    victim.mkdir()
    (victim / 'file').write_text('mine')
    here = spools.Spool(str(spool))
    transfers.admit(spool, SERVER)
    if place == 'folder':
        (spool / SERVER).symlink_to(victim)
    elif place == 'admission':
        os.rename(spool / f'{SERVER}.admission', tmp_path / 'admission')
        (spool / f'{SERVER}.admission').symlink_to(tmp_path / 'admission')
        with pytest.raises(spools.Refused):
            here.begin(SERVER, transfers.TOKEN, '{}', None)
        assert here.admission(SERVER) is None
        transfers.admit(spool, SERVER)
    else:
        (spool / f'{SERVER}.new').symlink_to(victim / 'file')
        transfers.admit(spool, SERVER)
    arrival = here.begin(SERVER, transfers.TOKEN, '{}', None)
    arrival.put('layer.tar', [b'theirs'])
    arrival.close()
    assert (spool / SERVER / 'layer.tar').read_bytes() == b'theirs'
    assert os.listdir(victim) == ['file']
    assert (victim / 'file').read_text() == 'mine'
    (spool / SERVER / 'manifest.json').unlink()
    (spool / SERVER / 'manifest.json').symlink_to(victim / 'file')
    with pytest.raises(spools.Refused, match='not a regular file'):
        here.manifest(SERVER)
    here.drop(SERVER)
    (spool / SERVER).symlink_to(victim)
    with pytest.raises(spools.Refused, match='not a directory'):
        here.manifest(SERVER)
    here.drop(SERVER)
    assert os.listdir(victim) == ['file']
    assert os.listdir(spool) == []


def test_a_pipe_in_the_spool_is_not_waited_for(spool):
    here = spools.Spool(str(spool))
    (spool / SERVER).mkdir()
    os.mkfifo(spool / SERVER / 'manifest.json')
    with pytest.raises(spools.Refused, match='not a regular file'):
        here.manifest(SERVER)


def test_the_receiver_of_another_account_reads_its_admissions(spool):
    os.chown(spool, 65534, 65534)
    transfers.admit(spool, SERVER)
    status = os.stat(spool / f'{SERVER}.admission')
    assert (status.st_uid, status.st_mode & 0o777) == (65534, 0o600)


@pytest.mark.parametrize('transport', ['ssh'], indirect=True)
def test_one_key_does_not_start_receivers_without_end(transport, spool):
    """Who is one too many hears why, and begins nothing."""
    transfers.admit(spool, SERVER)
    with contextlib.ExitStack() as stack:
        for number in range(spools.MAX_RECEIVERS):
            fd = os.open(spool / '.receivers', os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, fd)
            fcntl.lockf(fd, fcntl.LOCK_EX, 1, number)
        with refused('too many connections: 64 processes of'):
            stack.enter_context(session(transport))
    assert files(spool) == []
    with session(transport) as found:
        assert begin(found) == 'done'


# TLS

def cert_of(transport, tmp_path, address):
    """Return the transport of another host that has a certificate, too."""
    folder = tmp_path / address
    folder.mkdir()
    cert, key = certificates.certificate(
        pathlib.Path(transport.ca), folder, address)
    return dataclasses.replace(transport, cert=str(cert), key=str(key))


@pytest.mark.parametrize('transport', ['tls'], indirect=True)
def test_the_certificate_of_another_host_sends_nothing(transport, spool,
                                                       tmp_path):
    """Though its authority is ours, and it has the token."""
    transfers.admit(spool, SERVER)
    other = cert_of(transport, tmp_path, '127.0.0.9')
    with session(other) as found, refused(
            'is to come from 127.0.0.1, and the certificate names 127.0.0.9'):
        begin(found)
    assert files(spool) == []
    # It is told before it is noted.
    log = tmp_path / 'keys' / 'log'
    while 'the certificate names 127.0.0.9' not in log.read_text():
        time.sleep(0.01)
    with session(transport) as found:
        assert begin(found) == 'done'


@pytest.mark.parametrize(('names', 'expected'), [
    ([('DNS', '192.0.2.1')], []),
    ([('DNS', 'a.example'), ('IP Address', '192.0.2.1')], ['192.0.2.1']),
    ([('IP Address', 'FD00:0:0:0:0:0:0:1')], ['fd00::1'])])
def test_addresses_of_a_certificate(names, expected):
    assert listener.names_in({'subjectAltName': names}) == set(expected)
    assert listener.names_in({}) == set()


@contextlib.contextmanager
def flood(port):
    """Have 500 connections from 40 addresses that show no certificate.

    Some say nothing, some a byte now and then; each that ends is made anew.
    """
    ended = threading.Event()
    opened = [connected(port, number) for number in range(500)]

    def keep_up():
        for number in itertools.cycle(range(len(opened))):
            if ended.is_set():
                return
            with contextlib.suppress(BlockingIOError):
                try:
                    if number % 2:
                        opened[number].send(HELLO)
                    alive = opened[number].recv(1)
                except ConnectionError:
                    alive = b''
                if not alive:
                    opened[number].close()
                    opened[number] = connected(port, number)
    thread = threading.Thread(target=keep_up)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for each in opened:
            each.close()


def connected(port, number):
    found = socket.create_connection((sshd.ADDRESS, port), 60,
                                     (f'127.0.1.{number % 40}', 0))
    found.setblocking(False)
    return found


HELLO = b'\x16'  # how a TLS handshake begins (RFC 8446, 5.1)


@pytest.mark.parametrize('transport', ['tls'], indirect=True)
def test_who_has_no_certificate_keeps_no_host_out(transport, spool):
    """A server comes as ever, and there are no more threads than allowed."""
    listening = process_of(transport.port)
    data = os.urandom(MIB)
    with flood(transport.port):
        for number in range(5):
            server = f'{SERVER[:-1]}{number}'
            transfers.admit(spool, server)
            with session(transport) as found:
                assert begin(found, server) == 'done'
                found.put('layer.tar', [data] * 4)
            assert (spool / server / 'layer.tar').read_bytes() == data * 4
            assert threads(listening) <= (listener.MAX_HANDSHAKES
                                          + listener.MAX_CONNECTIONS + 2)


@pytest.mark.parametrize('transport', ['tls'], indirect=True)
def test_one_certificate_does_not_take_all_connections(transport, spool,
                                                       tmp_path):
    """From whatever addresses; it hears why."""
    transfers.admit(spool, SERVER)
    other = cert_of(transport, tmp_path, '127.0.0.9')
    with contextlib.ExitStack() as stack:
        for _ in range(listener.MAX_PER_CERTIFICATE):
            stack.enter_context(session(other))
        with refused('too many connections: one certificate may have'):
            stack.enter_context(session(other))
        with session(transport) as found:
            assert begin(found) == 'done'


@contextlib.contextmanager
def listening(spool, context=None):
    context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with listener.Listener(spools.Spool(str(spool)), (sshd.ADDRESS, 0),
                           context) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()


def test_a_handshake_has_a_time_however_slowly_it_comes(spool, monkeypatch):
    monkeypatch.setattr(listener, 'HANDSHAKE', 0.5)
    with listening(spool) as found, socket.create_connection(
            found.server_address) as one:
        one.settimeout(0.1)

        def ended():
            with contextlib.suppress(TimeoutError):
                try:
                    one.send(HELLO)
                    return not one.recv(1)
                except (ConnectionError, BrokenPipeError):
                    return True
            return False
        until(ended)
        until(lambda: not found.connections._handshakes)


def test_connections_are_bounded_and_counted(monkeypatch):
    """Those with a certificate, of however many certificates."""
    connections = listener.Connections()
    for number in range(listener.MAX_CONNECTIONS):
        assert connections.add(number, f'192.0.2.{number % 250}')
        assert connections.authenticated(number, number % 9)
    assert connections.add('one', '198.51.100.1')
    assert not connections.authenticated('one', 'new')
    connections.remove(0)
    assert connections.authenticated('one', 'new')


@pytest.mark.parametrize(('first', 'then', 'ends'), [
    ('192.0.2.{}', ['198.51.100.1'], 1),
    ('192.0.2.7', ['198.51.100.1', '198.51.100.1'], 0),
    # Who has an IPv6 network has its addresses.
    ('2001:db8::{:x}', ['2001:db8:1::1', '2001:db8:1::2'], 0),
    ('::ffff:192.0.2.{}', ['198.51.100.1'], 1)])
def test_who_has_the_most_handshakes_loses_one(monkeypatch, first, then, ends):
    """The oldest; a host that has shown a certificate is the last to."""
    monkeypatch.setattr(listener, 'EVICTION', 0)
    connections = listener.Connections()
    pairs = [socket.socketpair() for _ in range(listener.MAX_HANDSHAKES)]
    try:
        connections.add(None, first.format(1))
        connections.authenticated(None, 'host')
        for number, (one, _two) in enumerate(pairs, 1):
            assert connections.add(one, first.format(number))
        for address in then:
            assert not connections.add(object(), address)
            pairs[ends][1].settimeout(60)
            assert pairs[ends][1].recv(1) == b''
            connections.remove(pairs[ends][0])
            assert connections.add(object(), address)
            ends += 1
        for one, two in pairs[ends:]:
            one.send(b'x')
            assert two.recv(1) == b'x'
    finally:
        for each in itertools.chain(*pairs):
            each.close()


def test_what_anybody_can_cause_fills_no_log(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(listener.time, 'monotonic', lambda: now[0])
    connections = listener.Connections()
    for _ in range(1000):
        connections.log('192.0.2.1', 'TLS handshake failed')
    now[0] += 1
    connections.log('192.0.2.1', 'TLS handshake failed')
    assert capsys.readouterr().err.splitlines() == [
        "192.0.2.1: 'TLS handshake failed'",
        "192.0.2.1: 'TLS handshake failed (and 999 more such lines)'"]


def test_a_connection_for_which_there_is_no_thread_is_not_counted(
        spool, monkeypatch):
    class Broken(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")
    with listening(spool) as found:
        with monkeypatch.context() as patch:
            patch.setattr(listener.socketserver.threading, 'Thread', Broken)
            patch.setattr(found, 'handle_error', lambda *_args: None)
            for _ in range(listener.MAX_HANDSHAKES + 1):
                with socket.create_connection(found.server_address) as one:
                    assert one.recv(1) == b''
        until(lambda: not found.connections._handshakes)


def test_who_begins_nothing_is_not_waited_for(spool, monkeypatch):
    monkeypatch.setattr(receiver, 'BEGIN_TIMEOUT', 0.2)
    out, into = os.pipe()
    with open(out, 'rb', buffering=0), open(into, 'wb', buffering=0) as sink:
        assert converse(spool, out) == 'timed out: no data received'
        sink.write(b'\0' * 3)  # part of a frame
        assert converse(spool, out) == 'timed out: no data received'


def test_who_stops_sending_is_not_waited_for(spool, monkeypatch):
    monkeypatch.setattr(receiver, 'DATA_TIMEOUT', 0.2)
    transfers.admit(spool, SERVER)
    out, into = os.pipe()
    with open(out, 'rb', buffering=0), open(into, 'wb', buffering=0) as sink:
        for data in (f'begin {SERVER} {transfers.TOKEN} {{}}'.encode(),
                     b'put layer.tar', b'some'):
            sink.write(receiver.LENGTH.pack(len(data)) + data)
        assert converse(spool, out) == 'timed out: no data received'
    assert not (spool / SERVER / 'layer.tar').exists()
    # Another connection is not kept out by it.
    assert spools.Spool(str(spool)).begin(SERVER, transfers.TOKEN, '{}', None)


def converse(spool, fd):
    source = receiver.Input(fd)
    return receiver.Connection(
        spools.Spool(str(spool)), io.BufferedReader(source), io.StringIO(),
        set_timeout=source.set_timeout).serve()


def process_of(port):
    """Return the process that listens on a port."""
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            if f':{port}\0--cert'.encode() in path.read_bytes():
                return path.parent
    raise AssertionError(f'nobody listens on {port}')


def threads(process):
    return len(list((process / 'task').iterdir()))


def until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
