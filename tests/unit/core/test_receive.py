# SPDX-License-Identifier: Apache-2.0
"""What other hosts may do with the spool, and what not."""

import io
import os
import subprocess
import sys

import pytest

from nova_vcloud import spool as spools

SERVER = '11111111-2222-4333-8444-555566667777'
BEGIN = f'begin {SERVER} 10 {{}}'


def frame(data):
    data = data if isinstance(data, bytes) else data.encode()
    return spools.LENGTH.pack(len(data)) + data


def ask(spool, *frames, cut=None):
    """Return what is said to some frames, without the greeting."""
    sent, said = b''.join(map(frame, frames))[:cut], io.StringIO()
    spools.serve(spools.Spool(str(spool)),
                  io.BufferedReader(io.BytesIO(sent)), said)
    greeting, *lines = said.getvalue().splitlines()
    assert greeting == spools.VERSION
    return lines


def test_a_server_begins_with_its_papers_only(tmp_path):
    (tmp_path / SERVER).mkdir()
    (tmp_path / SERVER / 'old').write_text('of an earlier try')
    assert ask(tmp_path, f'begin {SERVER} 10 {{"a": 1, "b": 2}}') == [
        'yes done']
    found = list((tmp_path / SERVER).iterdir())
    assert [(path.name, path.read_text()) for path in found] == [
        (spools.PAPERS, '{"a": 1, "b": 2}')]
    assert (tmp_path / SERVER).stat().st_mode & 0o777 == 0o700


def test_files_come_in_frames(tmp_path):
    one, two = b'x' * (spools.CHUNK + 7), os.urandom(300)
    assert ask(tmp_path, BEGIN, f'put {SERVER} layer.tar', one, two, b'',
               f'put {SERVER} empty', b'') == [
        'yes done', f'yes {len(one) + len(two)}', 'yes 0']
    assert (tmp_path / SERVER / 'layer.tar').read_bytes() == one + two
    assert (tmp_path / SERVER / 'empty').read_bytes() == b''


@pytest.mark.parametrize('missing', [1, 8, 9, 1000])
def test_a_file_without_its_end_has_no_name(tmp_path, missing):
    *_, last = ask(tmp_path, BEGIN, f'put {SERVER} layer.tar', b'x' * 3000,
                   b'', cut=-missing)
    assert last.startswith('no ')
    assert not (tmp_path / SERVER / 'layer.tar').exists()


def test_more_than_waits_for_the_disk_arrives_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, 'BEHIND', 1000)
    chunks = [os.urandom(700) for _ in range(10)]
    ask(tmp_path, BEGIN, f'put {SERVER} layer.tar', *chunks, b'')
    assert (tmp_path / SERVER / 'layer.tar').read_bytes() == b''.join(chunks)


def test_what_is_dropped_is_gone_and_may_be_dropped_again(tmp_path):
    assert ask(tmp_path, BEGIN, f'drop {SERVER}', f'drop {SERVER}') == [
        'yes done'] * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('request_', [
    'put ../etc passwd', f'put {SERVER} ../passwd',
    f'put {SERVER} /etc/passwd', f'put {SERVER} .ssh', 'drop .', 'drop ',
    'begin x 1 {}', f'begin {SERVER} many {{}}', f'begin {SERVER} -1 {{}}',
    f'begin {SERVER} {"9" * 5000} {{}}',
    f'put {SERVER} layer.tar.part/../x', f'begin {SERVER} {1 << 60} {{}}',
    f'begin {SERVER} 1', 'exec sh', '', f'put  {SERVER} x', '\x00'])
def test_nothing_else_can_be_reached(tmp_path, request_):
    (tmp_path / SERVER).mkdir()
    [said] = ask(tmp_path, request_, f'drop {SERVER}')
    assert said.startswith('no ')
    # And nothing is done after it.
    assert list((tmp_path / SERVER).iterdir()) == []


def test_there_is_no_room(tmp_path):
    [said] = ask(tmp_path, f'begin {SERVER} {1 << 60} {{}}')
    assert 'has room for' in said


def test_a_server_that_was_not_announced(tmp_path):
    [said] = ask(tmp_path, f'put {SERVER} layer.tar', b'')
    assert said == (f'no {tmp_path}/{SERVER}/layer.tar.part: No such file or '
                    'directory')


def test_what_is_no_request(tmp_path):
    [said] = ask(tmp_path, b'\xff\xfe')
    assert said.startswith('no ')
    [said] = ask(tmp_path, b'x' * (spools.MAX_REQUEST + 1))
    assert said == f'no a request of {spools.MAX_REQUEST + 1} bytes'
    # A length that never comes takes no memory.
    with_length = spools.LENGTH.pack(1 << 62)
    said = io.StringIO()
    spools.serve(spools.Spool(str(tmp_path)),
                  io.BufferedReader(io.BytesIO(with_length)), said)
    assert 'no a request of' in said.getvalue()


def program(spool, *words, said=b'', **env):
    return subprocess.run(
        [sys.executable, '-m', 'nova_vcloud.cmd.receive', '--spool',
         str(spool), *words], input=said, capture_output=True, check=False,
        env={'PYTHONPATH': ':'.join(sys.path), **env})


def test_the_program_answers_on_its_output(tmp_path):
    done = program(tmp_path, said=frame(BEGIN))
    assert done.stdout.decode().splitlines() == [spools.VERSION, 'yes done']
    assert done.returncode == 0
    done = program(tmp_path, said=frame('exec sh'))
    assert done.returncode == 1


def test_what_the_ssh_client_wants_to_run_does_not_matter(tmp_path):
    """The spool is the key's to name, not the client's."""
    other = tmp_path / 'other'
    other.mkdir()
    done = program(tmp_path, said=frame(BEGIN), SSH_ORIGINAL_COMMAND=(
        f'nova-vcloud-receive --spool {other}'))
    assert done.returncode == 0
    assert (tmp_path / SERVER).exists()
    assert list(other.iterdir()) == []


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
