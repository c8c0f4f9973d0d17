# SPDX-License-Identifier: Apache-2.0
"""Who may send a server to a host, by real ssh and real TLS, and how much."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import io
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
from nova_vcloud import listener
from nova_vcloud import receiver
from nova_vcloud import spool as spools
from nova_vcloud.virt_docker import channels
from nova_vcloud.virt_docker import transport as transports

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
    """Return what lies in the spool, but for admissions."""
    return sorted(str(path.relative_to(spool)) for path in spool.rglob('*')
                  if path.suffix != '.admission')


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
        with session(transport) as two, refused('another connection'):
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
        with refused('has come already'):
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
    with session(transport) as found, refused('the admission has ended'):
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
    with pytest.raises(spools.Refused, match='no room left'):
        arrival.put('layer.tar', [b'x' * spools.BEHIND] * 3)
    arrival.close()
    assert not (spool / SERVER / 'layer.tar').exists()


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


@pytest.mark.parametrize('transport', ['tls'], indirect=True)
def test_who_keeps_all_connections_open_keeps_nobody_out(transport, spool,
                                                         tmp_path):
    """No more threads than allowed; another address is heard."""
    transfers.admit(spool, SERVER)
    listening = process_of(transport.port)
    with contextlib.ExitStack() as stack:
        for _ in range(4 * listener.MAX_PER_ADDRESS):
            stack.enter_context(socket.create_connection(
                (sshd.ADDRESS, transport.port), 10, ('127.0.0.7', 0)))
        until(lambda: 'too many connections' in (
            tmp_path / 'keys' / 'log').read_text())
        assert threads(listening) <= listener.MAX_PER_ADDRESS + 2
        with session(transport) as found:
            assert begin(found) == 'done'


def test_all_connections_are_bounded_and_counted(spool):
    """However many addresses they come from."""
    with listener.Listener(spools.Spool(str(spool)), ('127.0.0.1', 0),
                           None) as one:
        addresses = [(f'192.0.2.{number % 250}', 1) for number in range(300)]
        taken = [one.verify_request(None, each) for each in addresses]
        assert sum(taken) == listener.MAX_CONNECTIONS
        assert not one.verify_request(None, ('198.51.100.1', 1))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            two, _peer = socket.socketpair()
            pool.submit(one.process_request_thread, two,
                        addresses[0]).result()
        assert one.verify_request(None, ('198.51.100.1', 1))
        _peer.close()


def test_a_connection_for_which_there_is_no_thread_is_not_counted(
        spool, monkeypatch):
    def start(_thread):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, 'start', start)
    peer = ('192.0.2.1', 1)
    with listener.Listener(spools.Spool(str(spool)), ('127.0.0.1', 0),
                           None) as one:
        for _ in range(listener.MAX_PER_ADDRESS + 1):
            assert one.verify_request(None, peer)
            with pytest.raises(RuntimeError):
                one.process_request(None, peer)


def test_who_begins_nothing_is_not_waited_for(spool, monkeypatch):
    monkeypatch.setattr(receiver, 'BEGIN_TIMEOUT', 0.2)
    out, into = os.pipe()
    with open(out, 'rb', buffering=0), open(into, 'wb', buffering=0) as sink:
        assert converse(spool, out) == 'nothing came in time'
        sink.write(b'\0' * 3)  # part of a frame
        assert converse(spool, out) == 'nothing came in time'


def test_who_stops_sending_is_not_waited_for(spool, monkeypatch):
    monkeypatch.setattr(receiver, 'DATA_TIMEOUT', 0.2)
    transfers.admit(spool, SERVER)
    out, into = os.pipe()
    with open(out, 'rb', buffering=0), open(into, 'wb', buffering=0) as sink:
        for data in (f'begin {SERVER} {transfers.TOKEN} {{}}'.encode(),
                     b'put layer.tar', b'some'):
            sink.write(receiver.LENGTH.pack(len(data)) + data)
        assert converse(spool, out) == 'nothing came in time'
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
