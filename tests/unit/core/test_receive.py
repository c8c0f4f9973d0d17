# SPDX-License-Identifier: Apache-2.0
"""What other hosts may do with the spool, and what not."""

import contextlib
import io
import os
import subprocess
import sys

import pytest
import transfers

from nova_vcloud.transfer import receiver
from nova_vcloud.transfer import spool as spools

SERVER = '11111111-2222-4333-8444-555566667777'
OTHER = '22222222-2222-4333-8444-555566667777'
BEGIN = f'begin {SERVER} {transfers.TOKEN} {{}}'


def frame(data):
    data = data if isinstance(data, bytes) else data.encode()
    return receiver.LENGTH.pack(len(data)) + data


def ask(spool, *frames, cut=None, names=None):
    """Return what is said to some frames, without the greeting."""
    sent, said = b''.join(map(frame, frames))[:cut], io.StringIO()
    receiver.Connection(spools.Spool(str(spool)),
                        io.BufferedReader(io.BytesIO(sent)), said,
                        names).serve()
    greeting, *lines = said.getvalue().splitlines()
    assert greeting == receiver.VERSION
    return lines


def folders(spool):
    return [path for path in spool.iterdir() if path.is_dir()]


def test_a_server_begins_with_its_manifest_only(tmp_path):
    transfers.admit(tmp_path, SERVER)
    (tmp_path / SERVER).mkdir()
    (tmp_path / SERVER / 'old').write_text('of an earlier try')
    assert ask(tmp_path, f'{BEGIN[:-2]}{{"a": 1, "b": 2}}') == ['yes done']
    found = list((tmp_path / SERVER).iterdir())
    assert [(path.name, path.read_text()) for path in found] == [
        (spools.MANIFEST, '{"a": 1, "b": 2}')]
    assert (tmp_path / SERVER).stat().st_mode & 0o777 == 0o700
    assert spools.Spool(str(tmp_path)).manifest(SERVER) == '{"a": 1, "b": 2}'


def test_files_come_in_frames(tmp_path):
    transfers.admit(tmp_path, SERVER)
    one, two = b'x' * (receiver.CHUNK + 7), os.urandom(300)
    assert ask(tmp_path, BEGIN, 'put layer.tar', one, two, b'',
               'put changes.tar', b'') == [
        'yes done', f'yes {len(one) + len(two)}', 'yes 0']
    assert (tmp_path / SERVER / 'layer.tar').read_bytes() == one + two
    assert (tmp_path / SERVER / 'changes.tar').read_bytes() == b''


@pytest.mark.parametrize('missing', [1, 8, 9, 1000])
def test_a_file_without_its_end_has_no_name(tmp_path, missing):
    transfers.admit(tmp_path, SERVER)
    *_, last = ask(tmp_path, BEGIN, 'put layer.tar', b'x' * 3000, b'',
                   cut=-missing)
    assert last.startswith('no ')
    assert not (tmp_path / SERVER / 'layer.tar').exists()


def test_more_than_waits_for_the_disk_arrives_whole(tmp_path, monkeypatch):
    transfers.admit(tmp_path, SERVER)
    monkeypatch.setattr(spools, 'BEHIND', 1000)
    chunks = [os.urandom(700) for _ in range(10)]
    ask(tmp_path, BEGIN, 'put layer.tar', *chunks, b'')
    assert (tmp_path / SERVER / 'layer.tar').read_bytes() == b''.join(chunks)


def test_a_connection_sends_one_server_after_the_other(tmp_path):
    for server in (SERVER, OTHER):
        transfers.admit(tmp_path, server)
    assert ask(tmp_path, BEGIN, 'put layer.tar', b'one', b'',
               BEGIN.replace(SERVER, OTHER), 'put layer.tar', b'two', b'') == [
        'yes done', 'yes 3'] * 2
    assert (tmp_path / SERVER / 'layer.tar').read_bytes() == b'one'
    assert (tmp_path / OTHER / 'layer.tar').read_bytes() == b'two'


def test_a_server_begins_anew_when_a_connection_was_lost(tmp_path):
    transfers.admit(tmp_path, SERVER)
    for word in (b'one', b'two'):
        ask(tmp_path, BEGIN, 'put layer.tar', word, b'')
        assert (tmp_path / SERVER / 'layer.tar').read_bytes() == word


@pytest.mark.parametrize('request_', [
    'put ../etc passwd', f'put {SERVER} layer.tar', f'drop {SERVER}',
    'begin x 1 {}', f'begin {SERVER} {transfers.TOKEN}', f'begin {SERVER}',
    f'begin ../{SERVER} {transfers.TOKEN} {{}}', 'exec sh', '',
    'put layer.tar', 'put', '\x00'])
def test_what_is_no_request_or_too_early(tmp_path, request_):
    transfers.admit(tmp_path, SERVER)
    [said] = ask(tmp_path, request_, BEGIN)
    assert said.startswith('no ')
    # And nothing is done after it.
    assert folders(tmp_path) == []


def test_what_is_no_text(tmp_path):
    [said] = ask(tmp_path, b'\xff\xfe')
    assert said.startswith('no ')
    [said] = ask(tmp_path, b'x' * (receiver.MAX_REQUEST + 1))
    assert said == f'no a request of {receiver.MAX_REQUEST + 1} bytes'
    # A length that never comes takes no memory.
    with_length = receiver.LENGTH.pack(1 << 62)
    said = io.StringIO()
    refused = receiver.Connection(
        spools.Spool(str(tmp_path)),
        io.BufferedReader(io.BytesIO(with_length)), said).serve()
    assert refused == f'a request of {1 << 62} bytes'
    assert f'no {refused}' in said.getvalue()


def test_a_manifest_that_is_no_text(tmp_path):
    """The account of the receiver can write any."""
    (tmp_path / SERVER).mkdir()
    (tmp_path / SERVER / 'manifest.json').write_bytes(b'\xff')
    with pytest.raises(spools.Refused, match='no text'):
        spools.Spool(str(tmp_path)).manifest(SERVER)


def test_the_manifest_of_a_host_of_the_release_before(tmp_path):
    """One that had sent all before this host was upgraded."""
    spool = spools.Spool(str(tmp_path))
    assert spool.manifest(SERVER) is None
    (tmp_path / SERVER).mkdir()
    (tmp_path / SERVER / 'papers.json').write_text('{"nova_vcloud": 1}')
    assert spool.manifest(SERVER) == '{"nova_vcloud": 1}'
    assert spool.waiting() == [SERVER]
    spool.drop(SERVER)
    assert list(tmp_path.iterdir()) == []


def test_only_servers_wait(tmp_path):
    spool = spools.Spool(str(tmp_path))
    transfers.admit(tmp_path, SERVER)
    (tmp_path / OTHER).mkdir()
    for name in ('lost+found', f'{SERVER}.new', 'x.admission'):
        (tmp_path / name).touch()
    assert spool.waiting() == [SERVER, OTHER]


def test_an_admission_is_told_and_revoked(tmp_path):
    spool = spools.Spool(str(tmp_path))
    assert spool.admission(SERVER) is None
    token = transfers.admit(tmp_path, SERVER, 5)
    found = spool.admission(SERVER)
    assert (found.size, found.sender, found.migration) == (
        5, transfers.SENDER, transfers.MIGRATION)
    # The token itself is nowhere.
    assert token not in (tmp_path / f'{SERVER}.admission').read_text()
    spool.revoke(SERVER)
    spool.revoke(SERVER)
    assert spool.admission(SERVER) is None


def program(spool, *words, said=b'', **env):
    return subprocess.run(
        [sys.executable, '-m', 'nova_vcloud.cmd.receive', '--spool',
         str(spool), *words], input=said, capture_output=True, check=False,
        env={'PYTHONPATH': ':'.join(sys.path), **env})


def test_the_program_answers_on_its_output(tmp_path):
    transfers.admit(tmp_path, SERVER)
    done = program(tmp_path, said=frame(BEGIN))
    assert done.stdout.decode().splitlines() == [receiver.VERSION, 'yes done']
    assert done.returncode == 0
    done = program(tmp_path, said=frame('exec sh'))
    assert done.returncode == 1


def test_what_the_ssh_client_wants_to_run_does_not_matter(tmp_path):
    """The spool is the key's to name, not the client's."""
    transfers.admit(tmp_path, SERVER)
    other = tmp_path / 'other'
    other.mkdir()
    done = program(tmp_path, said=frame(BEGIN), SSH_ORIGINAL_COMMAND=(
        f'nova-vcloud-receive --spool {other}'))
    assert done.returncode == 0
    assert (tmp_path / SERVER).exists()
    assert list(other.iterdir()) == []


@contextlib.contextmanager
def receivers(spool, number, *words):
    """Have some that run, each with a pipe by which nothing comes."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(number):
            one = subprocess.Popen(
                [sys.executable, '-m', 'nova_vcloud.cmd.receive', '--spool',
                 str(spool), *words], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True,
                env={'PYTHONPATH': ':'.join(sys.path)})
            stack.enter_context(one)
            stack.callback(one.kill)
            started.append(one)
            assert one.stdout.readline().rstrip() == receiver.VERSION
        yield started


def test_only_so_many_receive_at_a_time(tmp_path):
    transfers.admit(tmp_path, SERVER)
    words, begin = ('--max-receivers', '3'), frame(BEGIN)
    with receivers(tmp_path, 3, *words) as [one, _two, _three]:
        done = program(tmp_path, *words, said=begin)
        assert done.stdout.decode() == (
            'no too many connections: 3 processes of nova-vcloud-receive use '
            f'{tmp_path} (--max-receivers)\n')
        assert done.returncode == 1
        # The place of one that ends, however it does, is free.
        one.kill()
        one.wait()
        done = program(tmp_path, *words, said=begin)
        assert done.stdout.decode().splitlines()[1:] == ['yes done']
    assert spools.Spool(str(tmp_path)).waiting() == [SERVER]


@pytest.mark.parametrize('words', [(), (
    '--listen', '127.0.0.1:0', '--cert', '/no', '--key', '/no', '--ca',
    '/no')])
def test_no_spool_that_others_can_write_is_used(tmp_path, words):
    tmp_path.chmod(0o770)
    done = program(tmp_path, *words)
    assert done.returncode
    assert 'others than its owner can write' in (
        done.stdout + done.stderr).decode()


def test_no_spool_at_all(tmp_path):
    done = program(tmp_path / 'none')
    assert done.stdout.decode() == (
        f'no {tmp_path}/none: No such file or directory\n')


def test_a_spool_is_made_for_its_owner_alone(tmp_path):
    spools.Spool(str(tmp_path / 'a/b')).make()
    assert (tmp_path / 'a/b').stat().st_mode & 0o777 == 0o700
    # That is fine with the next start, too.
    spools.Spool(str(tmp_path / 'a/b')).make()


@pytest.mark.parametrize(('mode', 'said'), [
    (0o770, r'mode 770\): chmod 700 '), (0o702, r'mode 702\): chmod 700 ')])
def test_a_spool_that_others_can_write(tmp_path, mode, said):
    path = tmp_path / 'spool'
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(spools.Refused, match=said + str(path)):
        spools.Spool(str(path)).make()
    path.chmod(0o755)
    spools.Spool(str(path)).make()


@pytest.mark.parametrize('kind', ['file', 'link'])
def test_a_spool_that_is_no_directory(tmp_path, kind):
    path = tmp_path / 'spool'
    if kind == 'file':
        path.touch()
    else:
        path.symlink_to(tmp_path)
    with pytest.raises(spools.Refused, match='is not a directory'):
        spools.Spool(str(path)).make()


def test_a_spool_that_others_can_replace(tmp_path):
    path = tmp_path / 'open/between/spool'
    path.mkdir(parents=True)
    (tmp_path / 'open').chmod(0o777)
    with pytest.raises(spools.Refused,
                       match=f'can rename {tmp_path}/open/between: chmod o-w '
                             f'{tmp_path}/open'):
        spools.Spool(str(path)).make()
    # As in /tmp: what is root's or ours stays.
    (tmp_path / 'open').chmod(0o1777)
    spools.Spool(str(path)).make()


def test_a_spool_of_somebody_else(tmp_path, monkeypatch):
    """Root takes that of an account, but none that anybody could make."""
    path = tmp_path / 'open/spool'
    path.mkdir(parents=True)
    os.chown(path, 65534, 65534)
    spools.Spool(str(path)).make()
    (tmp_path / 'open').chmod(0o1777)
    with pytest.raises(spools.Refused, match=f'anybody could have made {path}'
                       ):
        spools.Spool(str(path)).make()
    monkeypatch.setattr(spools.os, 'geteuid', lambda: 1234)
    with pytest.raises(spools.Refused, match='belongs to uid 65534, and this '
                                             'runs as uid 1234: chown 1234'):
        spools.Spool(str(path)).make()


@pytest.mark.parametrize(('words', 'said'), [
    (('--listen', '127.0.0.1:0'), 'needs --cert, --key and --ca'),
    (('--listen', '127.0.0.1:0', '--cert', '/no', '--key', '/no', '--ca',
      '/no'), 'No such file'),
    (('put', SERVER, 'x'), 'unrecognized arguments')])
def test_wrong_arguments(tmp_path, words, said):
    done = program(tmp_path, *words)
    assert done.returncode == 2
    assert said in done.stderr.decode()


def test_only_the_standard_library_is_loaded():
    """Each import is time that a first move takes."""
    script = (
        'import sys\nbefore = set(sys.modules)\n'
        'import nova_vcloud.cmd.receive\n'
        'new = set(sys.modules) - before\n'
        'print(*sorted({name.partition(".")[0] for name in new} '
        '- sys.stdlib_module_names), *({"ssl", "socket"} & new))')
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, check=True,
        text=True, env={'PYTHONPATH': ':'.join(sys.path)})
    assert done.stdout.split() == ['nova_vcloud']


class Drip(io.RawIOBase):
    """A byte at a time, each almost a time-out after the one before."""

    def __init__(self, data, monkeypatch):
        self._data = io.BytesIO(data)
        self._now = 0.0
        monkeypatch.setattr(receiver.time, 'monotonic', lambda: self._now)

    def readable(self):
        return True

    def readinto(self, buffer):
        self._now += receiver.BEGIN_TIMEOUT - 1
        return self._data.readinto(memoryview(buffer)[:1])


def test_a_request_comes_at_once_or_not_at_all(tmp_path, monkeypatch):
    said, source = io.StringIO(), Drip(frame(BEGIN), monkeypatch)
    receiver.Connection(spools.Spool(str(tmp_path)),
                        io.BufferedReader(source), said).serve()
    assert said.getvalue().splitlines() == [
        receiver.VERSION, 'no timed out: no data received']
    # The wait for the first byte counts, too.
    assert source._data.tell() == 2
