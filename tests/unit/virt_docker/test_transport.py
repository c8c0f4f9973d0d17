# SPDX-License-Identifier: Apache-2.0
"""What is done when another host says no, or something else than expected."""

import os
import stat

import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker import transport

SERVER = '11111111-2222-4333-8444-555566667777'


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Return what makes a remote host whose ssh is a script."""
    def make(script: str) -> transport.Remote:
        program = tmp_path / 'ssh'
        program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n'
                           f'{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
        return transport.Remote(
            transport.Ssh('nova', 2222, '/k', '/h', 'nova-vcloud-receive'),
            '192.0.2.1')
    make.asked = tmp_path / 'asked'
    return make


RECEIVE = ('cat >$0.data; set -- $(sha256sum $0.data); '
           'echo $1 $(stat -c %s $0.data)')


def delivery(remote: transport.Remote) -> transport.Delivery:
    return transport.Delivery(remote, SERVER, {'ControlPath': '/c'})


def test_what_arrives_whole_is_whole(host):
    chunks = [b'a' * 100_000, b'b' * 300_000]
    assert delivery(host(RECEIVE)).put(
        'layer.tar', iter(chunks)) == 400_000
    asked = host.asked.read_text()
    assert '-l nova' in asked
    assert '-p 2222' in asked
    assert 'StrictHostKeyChecking=yes' in asked
    assert 'ControlPath=/c' in asked
    assert f'-- 192.0.2.1 nova-vcloud-receive put {SERVER}' in asked


def test_other_data_than_were_sent(host):
    remote = host('cat >/dev/null; echo 00 4')
    with pytest.raises(exception.MoveFailed, match='other data'):
        delivery(remote).put('layer.tar', [b'data'])


def test_a_host_that_refuses_says_why(host):
    remote = host('echo a warning >&2; echo no room >&2; exit 1')
    with pytest.raises(exception.MoveFailed, match=r'192\.0\.2\.1: no room'), \
            remote.announced(SERVER, 5, '{}'):
        pytest.fail('it was refused')
    # It does not even read.
    with pytest.raises(exception.MoveFailed, match='no room'):
        delivery(remote).put('layer.tar', iter([b'x' * 1_000_000] * 5))


def test_a_connection_lasts_as_long_as_it_is_needed(host, tmp_path):
    done = tmp_path / 'done'
    remote = host(f'read papers; echo "$papers" >{done}; echo fine; '
                  f'cat >/dev/null; rm {done}')
    with remote.announced(SERVER, 5, '{"a": 1}'):
        assert done.read_text() == '{"a": 1}\n'
    assert not done.exists()


def test_what_was_begun_and_is_not_needed_ends(host):
    with delivery(host('exec sleep 1000')).opened('layer.tar'):
        pass


def test_what_cannot_be_read_here_is_not_sent(host):
    def chunks():
        yield b'data'
        raise exception.EngineUnavailable('gone')
    with pytest.raises(exception.EngineUnavailable):
        delivery(host('cat >/dev/null')).put('image.tar', chunks())


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
