# SPDX-License-Identifier: Apache-2.0
"""What is done when another host says no, or something else than expected."""

import os
import signal
import sys
import time

from oslo_config import cfg
import pytest
import transfers

from mini import certificates
from nova_vcloud import exception
from nova_vcloud.conf import migration
from nova_vcloud.transfer import channels
from nova_vcloud.transfer import receiver as receivers
from nova_vcloud.transfer import transport
from nova_vcloud.virt_docker import factory

SERVER = '11111111-2222-4333-8444-555566667777'
OTHER = '22222222-2222-4333-8444-555566667777'
HOST = '192.0.2.1'


class Local:
    """A transport to a script of this host, in place of ssh."""

    def __init__(self, folder, script):
        self.made = 0
        self._script = folder / 'script'
        self._script.write_text(f'#!/bin/sh\n{script}\n')
        self._script.chmod(0o755)

    def connect(self, host):
        self.made += 1
        return channels._Program([str(self._script), host])


@pytest.fixture
def spool(tmp_path):
    path = tmp_path / 'spool'
    path.mkdir()
    for server in (SERVER, OTHER):
        transfers.admit(path, server)
    return path


@pytest.fixture
def receiver(tmp_path, spool):
    """A transport to the program that other hosts run."""
    return Local(tmp_path, (
        f'PYTHONPATH={":".join(sys.path)} exec {sys.executable} -m '
        f'nova_vcloud.cmd.receive --spool {spool}'))


@pytest.fixture
def hosts():
    """Return what makes Hosts, and ends their connections."""
    made = []

    def make(way, persist=60):
        made.append(transport.Hosts(way, persist))
        return made[-1]
    yield make
    for each in made:
        each.close()


def begin(remote):
    with remote.announced(SERVER, transfers.TOKEN, '{}'):
        pass


def saying(tmp_path, script):
    return Local(tmp_path, f'echo "{receivers.VERSION}"; {script}')


def test_what_arrives_whole_is_whole(hosts, receiver, spool):
    chunks = [b'a' * 100_000, b'', os.urandom(3_000_000)]
    with hosts(receiver).remote(HOST).announced(
            SERVER, transfers.TOKEN, '{"a": 1}') as delivery:
        assert delivery.put('layer.tar', iter(chunks)) == 3_100_000
        assert delivery.put('changes.tar', []) == 0
    assert (spool / SERVER / 'layer.tar').read_bytes() == b''.join(chunks)
    assert (spool / SERVER / 'changes.tar').read_bytes() == b''
    assert (spool / SERVER / 'manifest.json').read_text() == '{"a": 1}'


def test_the_command_of_ssh():
    words = channels.Ssh('nova', 2222, '/k', '/h',
                         'nova-vcloud-receive').words('192.0.2.1')
    asked = ' '.join(words)
    assert '-l nova' in asked
    assert '-p 2222' in asked
    assert 'StrictHostKeyChecking=yes' in asked
    assert 'IdentityFile=/k' in asked
    assert 'UserKnownHostsFile=/h' in asked
    assert asked.endswith('-- 192.0.2.1 nova-vcloud-receive')


def test_a_connection_is_kept_for_the_next_server(hosts, receiver, spool):
    remote = hosts(receiver).remote(HOST)
    for _ in range(3):
        with remote.announced(
            SERVER, transfers.TOKEN, '{}') as delivery:
            delivery.put('layer.tar', [b'data'])
    assert receiver.made == 1
    assert (spool / SERVER / 'layer.tar').read_bytes() == b'data'


def test_two_servers_at_a_time_have_two(hosts, receiver):
    remote = hosts(receiver).remote(HOST)
    with remote.announced(
            SERVER, transfers.TOKEN, '{}'), \
            remote.announced(
                OTHER, transfers.TOKEN, '{}'):
        assert receiver.made == 2
    with remote.announced(
            SERVER, transfers.TOKEN, '{}'), \
            remote.announced(
                OTHER, transfers.TOKEN, '{}'):
        assert receiver.made == 2


@pytest.mark.parametrize('persist', [0, 0.1])
def test_it_is_given_up_in_time(hosts, receiver, persist):
    all_hosts = hosts(receiver, persist)
    with all_hosts.remote(HOST).announced(
            SERVER, transfers.TOKEN, '{}') as delivery:
        process = delivery._session._channel._process
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.returncode == 0
    begin(all_hosts.remote(HOST))
    assert receiver.made == 2


def test_one_that_has_died_meanwhile_is_made_anew(hosts, receiver):
    remote = hosts(receiver).remote(HOST)
    with remote.announced(
            SERVER, transfers.TOKEN, '{}') as delivery:
        process = delivery._session._channel._process
    process.kill()
    process.wait()
    with remote.announced(
            SERVER, transfers.TOKEN, '{}') as delivery:
        assert delivery.put('layer.tar', [b'data']) == 4
    assert receiver.made == 2


def test_one_on_which_something_failed_is_not_kept(hosts, receiver):
    remote = hosts(receiver).remote(HOST)
    with pytest.raises(exception.MoveFailed, match='gone'), \
            remote.announced(
            SERVER, transfers.TOKEN, '{}'):
        raise exception.MoveFailed('gone')
    begin(remote)
    assert receiver.made == 2


@pytest.mark.parametrize(('wait', 'said'), [
    (0.5, '3 bytes of 4'), (0, "'3' before the end")])
def test_other_bytes_than_were_sent(hosts, tmp_path, wait, said):
    way = saying(tmp_path, f'echo yes done; sleep {wait}; echo yes 3; '
                           'exec cat >/dev/null')

    def chunks():
        if not wait:
            time.sleep(0.2)
        yield b'data'
    with pytest.raises(exception.MoveFailed, match=said), \
            hosts(way).remote(HOST).announced(
            SERVER, transfers.TOKEN, '{}') as delivery:
        delivery.put('layer.tar', chunks())


def test_a_host_that_refuses_says_why(hosts, receiver):
    with pytest.raises(exception.MoveFailed,
                       match=r'192\.0\.2\.1: no such admission'), \
            hosts(receiver).remote(HOST).announced(SERVER, 'x', '{}'):
        pytest.fail('it was refused')


def test_a_host_that_refuses_while_it_is_sent_to(hosts, receiver):
    with pytest.raises(exception.MoveFailed, match='is not among'), \
            hosts(receiver).remote(HOST).announced(
                SERVER, transfers.TOKEN, '{}') as delivery:
        # It does not even read.
        delivery.put('../x', iter([b'x' * 1_000_000] * 5))


@pytest.mark.parametrize(('script', 'said'), [
    ('echo a warning >&2; echo Permission denied >&2; exit 255',
     'Permission denied'),
    ('echo nova-vcloud-receive 2', "'nova-vcloud-receive 2' is not supported"),
    ('echo no too many connections', '1: too many connections$'),
    ('exit 0', 'no reason given')])
def test_a_host_that_cannot_be_reached(hosts, tmp_path, script, said):
    with pytest.raises(exception.MoveFailed, match=said):
        begin(hosts(Local(tmp_path, script)).remote(HOST))


FLOOD = 'head -c 5000000 /dev/zero | tr "\\0" x >&2; echo >&2'


def test_the_last_error_is_told_of_many(hosts, tmp_path):
    """More than any pipe holds, before anything is said."""
    script = f'{FLOOD}; echo Permission denied >&2; exit 255'
    with pytest.raises(exception.MoveFailed) as failed:
        begin(hosts(Local(tmp_path, script)).remote(HOST))
    assert str(failed.value) == f'host {HOST}: Permission denied'


def test_no_reason_is_waited_for_without_end(hosts, tmp_path, monkeypatch):
    monkeypatch.setattr(channels, 'CLOSE_TIMEOUT', 0.2)
    script = f'exec >/dev/null; {FLOOD}; exec tail -f /dev/null'
    with pytest.raises(exception.MoveFailed, match='connection closed'):
        begin(hosts(Local(tmp_path, script)).remote(HOST))


@pytest.mark.parametrize('script', [
    'exec tail -f /dev/null', 'while :; do echo yes >&2; done',
    'while :; do printf x; sleep 0.1; done'])
def test_neither_silence_nor_anything_else_is_an_answer(hosts, tmp_path,
                                                        script):
    """The time-out is for all of an answer, not for each byte."""
    with pytest.raises(exception.MoveFailed, match='did not answer'):
        transport.Session(Local(tmp_path, script), HOST, 0.5)


def test_no_orderly_end_is_waited_for_without_end(hosts, tmp_path,
                                                  monkeypatch):
    """Nor does what is said meanwhile fill the memory."""
    monkeypatch.setattr(channels, 'CLOSE_TIMEOUT', 0.2)
    script = saying(tmp_path, 'echo yes done; exec cat /dev/zero')
    all_hosts = hosts(script, 0)
    with all_hosts.remote(HOST).announced(
            SERVER, transfers.TOKEN, '{}') as delivery:
        process = delivery._session._channel._process
    assert process.returncode == -signal.SIGKILL


def test_what_cannot_be_read_here_has_no_name_there(hosts, receiver, spool):
    def chunks():
        yield b'data'
        raise exception.EngineUnavailable('gone')
    with pytest.raises(exception.EngineUnavailable), \
            hosts(receiver).remote(HOST).announced(
                SERVER, transfers.TOKEN, '{}') as delivery:
        delivery.put('image.tar', chunks())
    assert not (spool / SERVER / 'image.tar').exists()


@pytest.mark.parametrize('missing', ['cert', 'key', 'ca'])
def test_certificates_that_are_not_there(tmp_path, missing):
    ca = certificates.authority(tmp_path)
    cert, key = certificates.certificate(ca, tmp_path, HOST)
    files = {'cert': str(cert), 'key': str(key), 'ca': str(ca)}
    channels.Tls(1, **files).check()
    for wrong in ('', '/no/such.pem'):
        with pytest.raises(exception.HostNotReady,
                           match=f'tls_{missing}_file.*transport to ssh'):
            channels.Tls(1, **{**files, missing: wrong}).check()


def test_the_operator_chooses_the_transport(tmp_path):
    conf = cfg.ConfigOpts()
    migration.register_opts(conf)
    conf([], default_config_files=[])
    assert isinstance(channels.transport_of(conf.vcloud_migration),
                      channels.Ssh)
    path = tmp_path / 'nova.conf'
    path.write_text('[vcloud_migration]\ntransport = tls\n'
                    'transfer_timeout = 7\n')
    conf([], default_config_files=[str(path)])
    assert channels.transport_of(conf.vcloud_migration) == channels.Tls(
        16560, '', '', '')
    assert factory.other_hosts(conf)._timeout == 7


def test_a_worker_writes_to_a_pipe():
    def work(sink):
        with open(sink, 'wb') as f:
            for _ in range(5):
                f.write(b'x' * 1_000_000)
    with transport.produced(work) as chunks:
        assert sum(map(len, chunks)) == 5_000_000


@pytest.mark.parametrize('opens', [True, False])
def test_a_worker_that_fails_is_heard(opens):
    def work(sink):
        if opens:
            with open(sink, 'wb') as f:
                f.write(b'half')
        raise exception.MoveFailed('tar: no')
    with pytest.raises(exception.MoveFailed, match='tar: no'), \
            transport.produced(work) as chunks:
        assert b''.join(chunks) == (b'half' if opens else b'')


def test_a_worker_is_not_left_waiting_when_nobody_reads():
    def work(sink):
        with open(sink, 'wb') as f:
            f.write(b'x' * 10_000_000)
    with pytest.raises(exception.MoveFailed, match='refused'), \
            transport.produced(work):
        raise exception.MoveFailed('refused')
