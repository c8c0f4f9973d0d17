# SPDX-License-Identifier: Apache-2.0
"""What other hosts may do with the spool, and what not."""

import hashlib
import io
import subprocess
import sys

import pytest

from nova_vcloud.cmd import receive

SERVER = '11111111-2222-4333-8444-555566667777'


def ask(spool, *words, said=b''):
    return receive.run(str(spool), list(words), io.BytesIO(said))


def test_a_server_begins_with_its_papers_only(tmp_path):
    (tmp_path / SERVER).mkdir()
    (tmp_path / SERVER / 'old').write_text('of an earlier try')
    assert ask(tmp_path, 'begin', SERVER, '10', said=b'{}') == receive.VERSION
    found = list((tmp_path / SERVER).iterdir())
    assert [(path.name, path.read_text()) for path in found] == [
        (receive.PAPERS, '{}')]
    assert (tmp_path / SERVER).stat().st_mode & 0o777 == 0o700


def test_a_file_is_told_by_its_digest(tmp_path):
    ask(tmp_path, 'begin', SERVER, '0')
    data = b'x' * (receive.CHUNK + 7)
    told = ask(tmp_path, 'put', SERVER, 'layer.tar', said=data)
    assert told == f'{hashlib.sha256(data).hexdigest()} {len(data)}'
    assert (tmp_path / SERVER / 'layer.tar').read_bytes() == data


def test_what_is_dropped_is_gone_and_may_be_dropped_again(tmp_path):
    ask(tmp_path, 'begin', SERVER, '0')
    ask(tmp_path, 'drop', SERVER)
    ask(tmp_path, 'drop', SERVER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('words', [
    ('put', '../etc', 'passwd'), ('put', SERVER, '../passwd'),
    ('put', SERVER, '/etc/passwd'), ('put', SERVER, '.ssh'),
    ('drop', '.'), ('drop', ''), ('begin', 'x', '1'),
    ('begin', SERVER, 'many'), ('put', SERVER, 'layer.tar.part/../x'),
    ('begin', SERVER, str(1 << 60))])
def test_nothing_else_can_be_reached(tmp_path, words):
    (tmp_path / SERVER).mkdir()
    with pytest.raises(receive.Refused):
        ask(tmp_path, *words)
    assert list((tmp_path / SERVER).iterdir()) == []


def test_there_is_no_room(tmp_path):
    with pytest.raises(receive.Refused, match='has room for'):
        ask(tmp_path, 'begin', SERVER, str(1 << 60))


def test_a_server_that_was_not_announced(tmp_path):
    with pytest.raises(receive.Refused, match='No such file'):
        ask(tmp_path, 'put', SERVER, 'layer.tar')


def test_papers_are_one_line(tmp_path):
    ask(tmp_path, 'begin', SERVER, '0', said=b'{}\nmore')
    assert (tmp_path / SERVER / receive.PAPERS).read_bytes() == b'{}'


def test_who_begins_keeps_the_connection(tmp_path):
    with subprocess.Popen(
            [sys.executable, '-m', 'nova_vcloud.cmd.receive', '--spool',
             str(tmp_path), 'begin', SERVER, '5'], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
            env={'PYTHONPATH': ':'.join(sys.path)}) as process:
        process.stdin.write('{}\n')
        process.stdin.flush()
        assert process.stdout.readline() == f'{receive.VERSION}\n'
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize(('asked', 'code'), [
    (f'nova-vcloud-receive begin {SERVER} 5', 0),
    ('sh -c evil', 1), (f'nova-vcloud-receive put {SERVER} ../x', 1),
    ('', 1)])
def test_the_ssh_clients_words_count(tmp_path, asked, code):
    """The spool is the key's to name, not the client's."""
    done = subprocess.run(
        [sys.executable, '-m', 'nova_vcloud.cmd.receive', '--spool',
         str(tmp_path)], input=b'', capture_output=True, check=False,
        env={'SSH_ORIGINAL_COMMAND': asked, 'PYTHONPATH': ':'.join(sys.path)})
    assert bool(done.returncode) == bool(code), done.stderr
    assert (tmp_path / SERVER).exists() == (code == 0)


def test_only_the_standard_library_is_loaded():
    """Each import is time for which the server that moves is down."""
    script = (
        'import sys\nbefore = set(sys.modules)\n'
        'import nova_vcloud.cmd.receive\n'
        'print(*sorted({name.partition(".")[0] for name in '
        'set(sys.modules) - before} - sys.stdlib_module_names))')
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, check=True,
        text=True, env={'PYTHONPATH': ':'.join(sys.path)})
    assert done.stdout.split() == ['nova_vcloud']
