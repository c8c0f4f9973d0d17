# SPDX-License-Identifier: Apache-2.0
"""The limit of a server's neighbours, in a real kernel.

What it is good for is in tests/security/test_shared_tables.py.
"""

import dataclasses
import json
import subprocess

import lan as lan_fixture
import pytest

from nova_vcloud.virt_docker.vif.network import Network


def ruleset(lan, server):
    """Return {(kind, name): what nft tells of it}; no handles."""
    done = subprocess.run(
        ['ip', 'netns', 'exec', lan.prefix + server, 'nft', '-j', 'list',
         'ruleset'], check=True, capture_output=True, text=True)
    found = {}
    for each in json.loads(done.stdout)['nftables']:
        (kind, told), = each.items()
        told.pop('handle', None)
        if kind == 'rule':
            name = f'{told["family"]} {told["chain"]} {told["expr"]}'
        else:
            name = f'{told.get("family")} {told.get("name")}'
        found[kind, name] = told
    return found


@pytest.fixture
def make(lan, links_path):
    def make_one(limit):
        return Network(str(links_path), lan.name, lan.prefix,
                       neighbours=limit)
    return make_one


def test_a_second_plug_changes_nothing(lan, server):
    nics = (lan.nic(), lan.nic(name='eth1', routes=()))
    lan.network.plug(server, nics)
    assert lan.pings_all(*nics)

    def without_places():
        """Return all but who is remembered, with the time each has left."""
        return {key: {**told, 'elem': []} if told.get('timeout') else told
                for key, told in ruleset(lan, server).items()}
    before = without_places()
    lan.network.plug(server, nics)
    assert without_places() == before
    limit = lan_fixture.NEIGHBOURS
    assert before['set', f'inet sent4_{limit}']['size'] == limit


@pytest.mark.parametrize('broken', [
    'flush ruleset', 'delete table arp nova_vcloud',
    'flush chain inet nova_vcloud send',
    'add rule inet nova_vcloud receive accept'])
def test_a_second_plug_repairs(lan, server, broken):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    before = set(ruleset(lan, server))
    subprocess.run(['ip', 'netns', 'exec', lan.prefix + server, 'nft',
                    broken], check=True)
    assert set(ruleset(lan, server)) != before
    lan.network.plug(server, (nic,))
    assert set(ruleset(lan, server)) == before
    assert lan.pings_all(nic)


def test_one_of_a_release_before_gets_it(lan, server, make):
    """And one whose limit is changed, or turned off, while it runs."""
    nic = lan.nic()
    make(0).plug(server, (nic,))
    assert ('table', 'inet nova_vcloud') not in ruleset(lan, server)
    for limit in (9, 11):
        make(limit).plug(server, (nic,))
        found = ruleset(lan, server)
        assert found['set', f'inet sent6_{limit}']['size'] == limit
        used = {name for kind, name in found
                if kind == 'rule' and f'sent6_{limit}' in name}
        assert len(used) == 1
        assert lan.pings_all(nic)
    make(0).plug(server, (nic,))
    assert ('table', 'inet nova_vcloud') not in ruleset(lan, server)
    assert lan.pings_all(nic)


def test_gateways_of_a_nic_stay_as_others_come(lan, server):
    first = lan.nic()
    second = lan.nic(
        name='eth1', addresses=('10.78.3.4/16',),
        routes=(('198.51.100.0/24', lan_fixture.GATEWAY_B),))
    lan.network.plug(server, (first,))
    lan.network.plug(server, (second,))
    found = ruleset(lan, server)
    for family in ('inet', 'arp'):
        assert {lan_fixture.GATEWAY, lan_fixture.GATEWAY_B} <= set(
            found['set', f'{family} gateways4']['elem'])


def test_gateways_that_a_server_has_no_more_are_limited(lan, server):
    """A tenant may have any number, one after the other."""
    nic = lan.nic()
    for number in (7, 8):
        nic = dataclasses.replace(nic, routes=(
            ('198.51.100.0/24', f'10.77.0.{number}'),))
        lan.network.plug(server, (nic,))
        found = ruleset(lan, server)
        for family in ('inet', 'arp'):
            assert found['set', f'{family} gateways4']['elem'] == [
                f'10.77.0.{number}']


def test_a_host_without_nft_serves_on(lan, server, monkeypatch, tmp_path):
    (tmp_path / 'nft').write_text('#!/bin/sh\nexit 1\n')
    (tmp_path / 'nft').chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv('PATH', str(tmp_path), prepend=':')
        nic = lan.nic()
        lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)
    assert ('table', 'inet nova_vcloud') not in ruleset(lan, server)
