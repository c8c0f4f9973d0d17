# SPDX-License-Identifier: Apache-2.0
"""Words that come from elsewhere are no options of the programs we run.

Read from the source: in the words of a program, one that is not written there
stands after ``--``, or is the value of an option before it.
"""

import ast
from collections.abc import Iterator
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = {
    'blkid', 'blockdev', 'btrfs', 'chattr', 'cp', 'du', 'find', 'ip',
    'losetup', 'mkfs', 'mount', 'nsenter', 'resize2fs', 'setpriv', 'skopeo',
    'ssh', 'sync', 'tar', 'tc', 'umount', 'unshare', 'xfs_growfs',
    'xfs_quota', 'docker', 'sh', 'bash'}
#: Functions that run what they are given.
RUNNERS = {'commands.run', 'rootfs.tool', 'tool'}
#: Options of theirs of which the next word is the value.
VALUED = {
    '--associated', '--blocking-factor', '--detach', '--directory', '--file',
    '--files-from', '--match-tag', '--options', '--output', '--set-capacity',
    '--transform', '--types', '-C', '-L', '-c', '-cf', '-d', '-f', '-l', '-n',
    '-o', '-p'}
#: Programs whose operands are paths that are absolute wherever they come
#: from: those of connections are checked as they enter
#: (volumes/connections.py), the others begin with a directory of ours. And a
#: shell's script that a guest is given, which is a name of ours.
ABSOLUTE = {
    'virt_docker/guest/user_data.py': {'sh'},
    'virt_docker/rootfs/changed_files.py': {'find'},  # has no '--'
    'virt_docker/volumes/ephemeral.py': {'mkfs.'},
    'virt_docker/volumes/filesystems.py': {
        'mount', 'umount', 'blkid', 'xfs_growfs', 'resize2fs', 'btrfs',
        'mkfs.'},
    'virt_docker/volumes/loops.py': {'losetup'},
    'qos/disk/btrfs_qgroup.py': {'btrfs'},
    'qos/disk/loop_file.py': {'mkfs.xfs', 'mount', 'umount', 'sync', 'cp',
                              'losetup', 'xfs_growfs'},
    'qos/disk/xfs_project_quota.py': {'xfs_quota'},
    # Paths of mounts are the host's, and the numbers our own.
    'qos/disk/rootfs.py': {'xfs_quota', 'xfs_growfs'},
}


def literal(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    # An f-string that begins with text is no option that someone else chose.
    if isinstance(node, ast.JoinedStr) and node.values and isinstance(
            node.values[0], ast.Constant):
        return str(node.values[0].value)
    return None


def commands(tree: ast.AST) -> Iterator[list[ast.expr]]:
    """Yield the words of every program that is run."""
    for node in ast.walk(tree):
        words: list[ast.expr] = []
        if isinstance(node, (ast.List, ast.Tuple)):
            words = node.elts
        elif isinstance(node, ast.Call) and ast.unparse(
                node.func) in RUNNERS:
            words = node.args
        if len(words) > 1 and (name := literal(words[0])) and (
                name.split('.')[0] in PROGRAMS):
            yield words


def options_from_elsewhere(words: list[ast.expr]) -> list[str]:
    """Return the words of a program that could be taken for options."""
    loose, before = [], ''
    for word in words[1:]:
        text = literal(word)
        if text == '--':
            break
        value = before in VALUED
        if text is None and not value and not isinstance(word, ast.Starred):
            loose.append(ast.unparse(word))
        before = text or ''
    return loose


def sources() -> list[pathlib.Path]:
    return [path.relative_to(ROOT) for top in (
        'nova_vcloud', 'virt_docker', 'qos', 'filters')
        for path in sorted((ROOT / top).rglob('*.py'))]


@pytest.mark.parametrize('path', sources(), ids=str)
def test_words_from_elsewhere_are_no_options(path):
    tree = ast.parse((ROOT / path).read_text())
    known = ABSOLUTE.get(str(path), set())
    found = [(literal(words[0]), loose) for words in commands(tree)
             if (loose := options_from_elsewhere(words))
             and literal(words[0]) not in known]
    assert found == []


@pytest.mark.parametrize(('source', 'loose'), [
    ("run(['tar', '--extract', name])", ['name']),
    ("run(['tar', '-f', path, '--', name])", []),
    ("run(['ssh', host])", ['host']), ("run(['umount', '--', path])", []),
    ("commands.run('mount', '--bind', a, b)", ['a', 'b']),
    ("run(['tar', '--file=-', name])", ['name']),
    ("run(['docker', f'{host}'])", ["f'{host}'"])])
def test_a_planted_one_is_found(source, loose):
    found = [options_from_elsewhere(words)
             for words in commands(ast.parse(source))]
    assert found == [loose]
