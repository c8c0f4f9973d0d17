# SPDX-License-Identifier: Apache-2.0
"""Both transports: real ssh, and TLS with real certificates."""

import contextlib
import dataclasses
import fcntl
import os
import signal
import socket
import ssl
import sys
import threading
import time

import pytest
import receivers
import sshd
import tlsd
import transfers

from mini import certificates
from nova_vcloud import exception
from nova_vcloud.transfer import channels
from nova_vcloud.transfer import listener
from nova_vcloud.transfer import transport

SERVER = '11111111-2222-4333-8444-555566667777'
SIZE = 20 << 20


@pytest.fixture
def spool(tmp_path):
    path = tmp_path / 'spool'
    path.mkdir()
    transfers.admit(path, SERVER)
    return path


@pytest.fixture(params=['ssh', 'tls'])
def way(request, tmp_path, spool):
    """A way to a host of which the folder is ``tmp_path / 'keys'``."""
    folder = tmp_path / 'keys'
    folder.mkdir()
    fixture = {'ssh': sshd, 'tls': tlsd}[request.param]
    with fixture.private(folder, spool) as found:
        yield found


def test_a_receiver_may_start_before_its_spool_is_made(tmp_path):
    """By nova-compute; and it looks again at who can write to it."""
    spool, folder = tmp_path / 'spool', tmp_path / 'keys'
    folder.mkdir()

    def send(hosts):
        with hosts.remote(sshd.ADDRESS).announced(
                SERVER, transfers.TOKEN, '{}'):
            pass

    with tlsd.private(folder, spool) as way, contextlib.closing(
            transport.Hosts(way, 0)) as hosts:
        with pytest.raises(exception.MoveFailed, match='No such file'):
            send(hosts)
        spool.mkdir()
        transfers.admit(spool, SERVER)
        spool.chmod(0o777)
        with pytest.raises(exception.MoveFailed,
                           match='others than its owner can write'):
            send(hosts)
        spool.chmod(0o700)
        send(hosts)


@contextlib.contextmanager
def proxy(port, change=bytes, address=sshd.ADDRESS):
    """Have a port that leads to another.

    :param change: returns what is passed on of what is sent there
    """
    def pump(source, sink, work):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(work(data))
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes who reads from it
            each.close()

    def accept():
        with contextlib.suppress(OSError):
            while True:
                one, _address = port_of_proxy.accept()
                two = socket.create_connection((sshd.ADDRESS, port))
                opened.extend([one, two])
                for words in ((one, two, change), (two, one, bytes)):
                    threading.Thread(target=pump, args=words,
                                     daemon=True).start()
    opened = []
    with socket.create_server((address, 0)) as port_of_proxy:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield port_of_proxy.getsockname()[1]
        finally:
            port_of_proxy.shutdown(socket.SHUT_RDWR)
            for each in opened:
                each.close()


def begin(way, host=sshd.ADDRESS):
    with transport.Hosts(way, 0).remote(host).announced(
            SERVER, transfers.TOKEN, '{}'):
        pass


def through(way, port, folder):
    """Return the same way by another port."""
    if isinstance(way, channels.Ssh):
        known = folder / 'known'
        known.write_text(known.read_text().replace(f':{way.port} ',
                                                   f':{port} '))
    return dataclasses.replace(way, port=port)


def test_what_is_sent_arrives(way, spool):
    data = os.urandom(SIZE)
    remote = transport.Hosts(way, 0).remote(sshd.ADDRESS)
    with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery:
        assert delivery.put('layer.tar', [data[:9], data[9:]]) == SIZE
        assert delivery.put('changes.tar', []) == 0
    assert (spool / SERVER / 'layer.tar').read_bytes() == data
    assert (spool / SERVER / 'manifest.json').read_text() == '{}'


def test_what_is_changed_on_the_way_does_not_arrive(way, spool, tmp_path):
    passed = [0]

    def flip(data):
        passed[0] += len(data)
        if passed[0] > SIZE // 2 > passed[0] - len(data):
            return data[:-1] + bytes([data[-1] ^ 1])
        return data
    with proxy(way.port, flip) as port:
        hosts = transport.Hosts(through(way, port, tmp_path / 'keys'), 0)
        with pytest.raises(exception.MoveFailed), \
                hosts.remote(sshd.ADDRESS).announced(
                    SERVER, transfers.TOKEN, '{}') as delivery:
            delivery.put('layer.tar', [os.urandom(SIZE)])
    assert passed[0] > SIZE // 2
    assert not (spool / SERVER / 'layer.tar').exists()


def test_a_connection_that_is_cut_does_not_make_a_file(way, spool, tmp_path):
    def cut(data):
        passed.append(len(data))
        if sum(passed) > SIZE // 2:
            raise OSError
        return data
    passed = []
    with proxy(way.port, cut) as port:
        hosts = transport.Hosts(through(way, port, tmp_path / 'keys'), 0)
        with pytest.raises(exception.MoveFailed), \
                hosts.remote(sshd.ADDRESS).announced(
                    SERVER, transfers.TOKEN, '{}') as delivery:
            delivery.put('layer.tar', [os.urandom(SIZE)])
    assert not (spool / SERVER / 'layer.tar').exists()


@pytest.mark.parametrize('name', ['../x', 'layer.tar'])
def test_a_host_that_refuses_while_it_is_sent_to_says_why(way, spool, name):
    remote = transport.Hosts(way, 0).remote(sshd.ADDRESS)
    data = os.urandom(1 << 20)

    def send():
        with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery:
            (spool / SERVER / 'layer.tar.part').touch()
            delivery.put(name, (data for _ in range(50)))
    with pytest.raises(exception.MoveFailed,
                       match=r'is not among|File exists'):
        send()


def test_a_connection_that_was_kept_and_died(way):
    """It is the other host that went away, and is back."""
    hosts = transport.Hosts(way, 60)
    remote = hosts.remote(sshd.ADDRESS)
    try:
        with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery:
            channel = delivery._session._channel
        if isinstance(way, channels.Ssh):
            channel._process.send_signal(signal.SIGKILL)
        else:
            channel._connection.shutdown(socket.SHUT_RDWR)
        with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery:
            assert delivery._session._channel is not channel
            assert delivery.put('layer.tar', [b'data']) == 4
    finally:
        hosts.close()


def test_nobody_answers(way, tmp_path):
    with socket.socket() as s:
        s.bind((sshd.ADDRESS, 0))
        closed = dataclasses.replace(way, port=s.getsockname()[1])
        with pytest.raises(exception.MoveFailed, match='refused'):
            begin(closed)


# A host that answers no more

@pytest.mark.parametrize('way', ['tls'], indirect=True)
def test_no_handshake_is_waited_for_without_end(way, spool, monkeypatch):
    monkeypatch.setattr(listener, 'HANDSHAKE', 0.5)
    with receivers.suspended(spool), pytest.raises(
            exception.MoveFailed, match=f'host {sshd.ADDRESS}.*timed out'):
        transport.Session(way, sshd.ADDRESS)


def test_no_greeting_is_waited_for_without_end(tmp_path, spool):
    with sshd.private(tmp_path, spool, 'cat >/dev/null') as way, \
            pytest.raises(exception.MoveFailed,
                          match=f'host {sshd.ADDRESS}.*did not answer'):
        transport.Session(way, sshd.ADDRESS, 0.5)


def test_no_answer_is_waited_for_without_end(way, spool):
    session = transport.Session(way, sshd.ADDRESS)
    try:
        session._timeout = 0.5
        with receivers.suspended(spool), pytest.raises(
                exception.MoveFailed,
                match=r'did not answer for 0\.5 seconds'):
            session.ask('begin', SERVER, transfers.TOKEN, '{}')
    finally:
        session.kill()


@pytest.mark.parametrize(('size', 'said'), [
    (9, 'did not answer'), (1 << 30, 'received no data')])
def test_no_file_is_waited_for_without_end(way, spool, size, said):
    """Be it that it does not read, or does not say that it has all."""
    def send():
        with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery, \
                receivers.suspended(spool):
            delivery._session._timeout = 0.5
            delivery.put('layer.tar', (data[:size] for _ in range(
                max(1, size >> 20))))
    data = os.urandom(1 << 20)
    remote = transport.Hosts(way, 0).remote(sshd.ADDRESS)
    with pytest.raises(exception.MoveFailed,
                       match=f'host {sshd.ADDRESS}.*{said}'):
        send()
    # It gives up what it has, and takes the server once it works again.
    wait_unlocked(spool)
    begin(way)


def wait_unlocked(spool):
    deadline = time.monotonic() + 60
    with open(spool / f'{SERVER}.admission', 'rb') as admission:
        while True:
            try:
                fcntl.flock(admission, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return


def test_a_kept_connection_that_hangs_is_given_up(way, spool):
    hosts = transport.Hosts(way, 60)
    remote = hosts.remote(sshd.ADDRESS)
    try:
        with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery:
            delivery._session._timeout = 0.5
        with receivers.suspended(spool), pytest.raises(
                exception.MoveFailed, match='did not answer'), \
                remote.announced(SERVER, transfers.TOKEN, '{}'):
            pytest.fail('nobody answers')
        wait_unlocked(spool)
        with remote.announced(SERVER, transfers.TOKEN, '{}') as delivery:
            delivery.put('layer.tar', [b'data'])
    finally:
        hosts.close()


def test_a_remote_host_may_write_errors_without_end(tmp_path, spool,
                                                    monkeypatch):
    """They are neither kept nor waited for."""
    monkeypatch.setattr(channels, 'CLOSE_TIMEOUT', 0.2)
    with sshd.private(tmp_path, spool, (
            f'yes >&2 & PYTHONPATH={":".join(sys.path)} exec '
            f'{sys.executable} -m nova_vcloud.cmd.receive --spool {spool}'
            )) as way, transport.Hosts(way, 0).remote(
                sshd.ADDRESS).announced(SERVER, transfers.TOKEN,
                                        '{}') as delivery:
        for name in ('layer.tar', 'changes.tar'):
            delivery.put(name, [os.urandom(1 << 20)] * 20)
        assert len(delivery._session._channel._errors) == channels.MAX_LINE
    assert (spool / SERVER / 'changes.tar').stat().st_size == SIZE


@pytest.mark.parametrize('way', ['tls'], indirect=True)
@pytest.mark.parametrize('case', ['client', 'server', 'address'])
def test_a_certificate_of_someone_else(way, spool, tmp_path, case):
    """Neither end talks to one that its own authority has not signed."""
    other = tmp_path / 'other'
    other.mkdir()
    ca = certificates.authority(other)
    if case == 'client':
        cert, key = certificates.certificate(
            ca, other, sshd.ADDRESS)
        wrong, host = dataclasses.replace(
            way, cert=str(cert), key=str(key)), sshd.ADDRESS
    elif case == 'server':
        wrong, host = dataclasses.replace(way, ca=str(ca)), sshd.ADDRESS
    else:
        wrong, host = way, '127.0.0.2'
    with pytest.raises(exception.MoveFailed) as failed, \
            proxy(way.port, address=host) as port:
        begin(dataclasses.replace(wrong, port=port), host)
    assert {'client': 'alert', 'server': 'self-signed',
            'address': 'IP address mismatch'}[case] in str(failed.value)


@pytest.mark.parametrize('way', ['tls'], indirect=True)
def test_who_has_no_certificate_is_not_heard(way, spool):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(way.ca)
    with socket.create_connection((sshd.ADDRESS, way.port)) as plain, \
            context.wrap_socket(plain, server_hostname=sshd.ADDRESS) as tls, \
            pytest.raises(OSError, match='certificate required'):
        tls.recv(1)
    assert not (spool / SERVER).exists()
    # Nor one that says nothing, for whom nobody else waits.
    with socket.create_connection((sshd.ADDRESS, way.port)):
        start = time.monotonic()
        begin(way)
        assert time.monotonic() - start < 5
