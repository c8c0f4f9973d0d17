# SPDX-License-Identifier: Apache-2.0
"""Which lines of a server's own files are ours to change."""

import pytest

from nova_vcloud.virt_docker.guest import hosts_file

OURS = '10.0.0.5\tweb\t# nova\n'
NEW = {'made': 'web', 'hostname': 'shop', 'given': ['10.0.0.6/24']}
LINES = '10.0.0.6\tshop\t# nova\n'


@pytest.mark.parametrize(('hosts', 'own', 'after'), [
    ('127.0.0.1 localhost\n' + OURS, 'web\n',
     ('127.0.0.1 localhost\n' + LINES, 'shop\n')),
    # The owner's lines stay, in their order.
    ('1.1.1.1 a\n' + OURS + '2.2.2.2 b\n' + OURS + '3.3.3.3 c', 'web\n',
     ('1.1.1.1 a\n' + LINES + '2.2.2.2 b\n3.3.3.3 c', 'shop\n')),
    # A name that Nova never gave.
    (OURS, 'mine\n', (LINES, 'mine\n')),
    # One that it gave before the last: our line has it.
    ('10.0.0.5\tthird\t# nova\n', 'third\n', (LINES, 'shop\n')),
    # No line of ours is left: its owner wants none.
    ('10.9.9.9 web2\n', 'web\n', ('10.9.9.9 web2\n', 'shop\n')),
    ('', '', ('', '')),
    # Of a release without marks, also after a move (the container was made
    # with another name there).
    ('127.0.1.1 web\n10.0.0.5\tweb\n', 'web', ('127.0.1.1 web\n' + LINES,
                                              'shop\n')),
    ('10.0.0.5\told\n10.0.0.5 old alias\n', 'old',
     (LINES + '10.0.0.5 old alias\n', 'shop\n')),
    ('nonsense web\nfe80::1%eth0 web\n# nova', 'web',
     ('nonsense web\nfe80::1%eth0 web\n' + LINES, 'shop\n')),
])
def test_what_is_ours_follows_and_the_rest_stays(hosts, own, after):
    changed = hosts_file.renewed(hosts, own, **NEW)
    assert changed == {
        path: text for path, text, old in (
            (hosts_file.HOSTS_PATH, after[0], hosts),
            (hosts_file.HOSTNAME_PATH, after[1], own)) if text != old}


def test_the_place_is_kept_while_there_is_no_address():
    none = hosts_file.renewed(OURS, 'web\n', 'web', 'web', [])
    assert none == {hosts_file.HOSTS_PATH: '# nova\n'}
    assert hosts_file.renewed(none[hosts_file.HOSTS_PATH], 'web\n', 'web',
                              'web',
                              ['10.0.0.5/24']) == {hosts_file.HOSTS_PATH: OURS}


def test_what_is_right_is_not_written():
    assert hosts_file.renewed(LINES, 'shop\n', **NEW) == {}
