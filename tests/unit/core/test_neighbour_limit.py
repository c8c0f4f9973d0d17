# SPDX-License-Identifier: Apache-2.0
"""What the packet filter of a server's namespace is told."""

import logging

import pytest

from nova_vcloud import neighbour_limit
from nova_vcloud import netns
from nova_vcloud import privsep


@pytest.fixture(autouse=True)
def in_process():
    privsep.in_process()


def test_gateways_and_own_addresses_are_named():
    lines = neighbour_limit.ruleset(
        7, ('10.1.0.5/24', 'fd00::5/64', '10.1.0.4/24'),
        ('fd00::12:3456:1', '10.1.0.1', '10.1.0.1')).splitlines()
    assert [line for line in lines if line.startswith('add element')] == [
        'add element arp nova_vcloud own4 { 10.1.0.4, 10.1.0.5 }',
        'add element inet nova_vcloud gateways4 { 10.1.0.1 }',
        'add element arp nova_vcloud gateways4 { 10.1.0.1 }',
        # ND asks for a gateway in a group of its own.
        ('add element inet nova_vcloud gateways6 '
         '{ fd00::12:3456:1, ff02::1:ff56:1 }')]


def test_a_full_set_drops():
    """Each rule that remembers is followed by one that drops the rest."""
    rules = [line for line in neighbour_limit.ruleset(7, (), ()).splitlines()
             if line.startswith('add rule')]
    remembering = [at for at, rule in enumerate(rules) if ' update @' in rule]
    assert len(remembering) == 6
    for at in remembering:
        matched, _, rest = rules[at].partition(' update ')
        assert rest.endswith(' accept')
        assert '_7 {' in rest
        assert rules[at + 1] == f'{matched} drop'


def test_what_is_remembered_stays():
    """Nothing but the rules is flushed, and that in one go with new ones."""
    lines = neighbour_limit.ruleset(7, (), ()).splitlines()
    assert not [line for line in lines if line.startswith('delete')]
    assert all(line.startswith('flush chain') for line in lines
               if line.startswith('flush'))
    assert sum('size 7 ' in line for line in lines) == 5


def test_gateways_of_before_go_where_all_are_named():
    lines = neighbour_limit.ruleset(
        7, (), ('10.1.0.1',), whole=True).splitlines()
    flushed = {line for line in lines if line.startswith('flush set')}
    assert flushed == {
        'flush set inet nova_vcloud gateways4',
        'flush set inet nova_vcloud gateways6',
        'flush set arp nova_vcloud gateways4',
        'flush set arp nova_vcloud own4'}
    assert max(map(lines.index, flushed)) < lines.index(
        'add element inet nova_vcloud gateways4 { 10.1.0.1 }')


def test_off_removes_the_tables():
    assert neighbour_limit.ruleset(0, ('10.1.0.5/24',), ()).splitlines() == [
        'add table inet nova_vcloud', 'add table arp nova_vcloud',
        'delete table inet nova_vcloud', 'delete table arp nova_vcloud']


@netns.own_thread
def apart(limit):
    """Limit a namespace that ends with the call."""
    netns.isolate()
    neighbour_limit.hold(limit, (), ())


@pytest.fixture
def nft(tmp_path, monkeypatch):
    """Have a program in place of nft, or none."""
    monkeypatch.setenv('PATH', str(tmp_path))

    def write(script):
        path = tmp_path / 'nft'
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)
    return write


def test_a_host_without_nft_is_told(nft, caplog):
    check = neighbour_limit.check(5)
    assert 'install nftables' in check.fix
    assert 'takes the network of all' in check.problem
    with caplog.at_level(logging.WARNING):
        apart(5)
    assert 'install nftables' in caplog.text


def test_a_kernel_that_refuses_is_told(nft, caplog):
    nft('echo "Error: Operation not supported" >&2; exit 1')
    assert 'Operation not supported' in neighbour_limit.check(5).fix
    with caplog.at_level(logging.WARNING):
        apart(5)
        assert 'Operation not supported' in caplog.text
        caplog.clear()
        apart(0)
    assert not caplog.text


def test_nft_takes_little_of_the_host(nft, monkeypatch):
    """However much a server with NET_ADMIN has it read."""
    nft('while read -r _line; do :; done; ulimit -v >&2; exit 1')
    assert str(neighbour_limit._MEMORY >> 10) in neighbour_limit.check(5).fix
    nft('exec /bin/sleep 1000')
    monkeypatch.setattr(neighbour_limit, '_TIME', 0.1)
    assert 'nft takes more than' in neighbour_limit.check(5).fix


def test_off_is_a_problem_of_its_own(nft):
    nft('exit 1')
    check = neighbour_limit.check(0)
    assert (check.found, check.fix) == (
        'off', 'set [vcloud_net] neighbour_limit')


def test_a_link_in_an_address_is_not_told():
    text = neighbour_limit.ruleset(7, ('fe80::5%eth0/64',), ('fe80::1%eth0',))
    assert '%' not in text
    assert ('add element inet nova_vcloud gateways6 '
            '{ fe80::1, ff02::1:ff00:1 }') in text
