# SPDX-License-Identifier: Apache-2.0
"""A server's network namespace costs the host what its NICs do.

A server with CAP_NET_ADMIN can fill it with links, addresses and routes.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
import subprocess
import time
import tracemalloc

import lan as lan_fixture
import pytest

from nova_vcloud.virt_docker.vif import dumps

MANY = 20_000 if os.environ.get('NOVA_VCLOUD_SECURITY') == 'long' else 4_000
#: Bytes that Python may hold at once. 4,000 links in pyroute2's form: 60 MiB.
MEMORY = 8 << 20
FLOODS = {
    'links': 'link add l{n} type ifb',
    'veths': 'link add v{n} type veth peer name w{n}',
    'addresses of another link': 'addr add 10.{a}.{b}.1/32 dev lo',
    'addresses': 'addr add 10.{a}.{b}.1/32 dev eth0',
    'IPv6 addresses': 'addr add fd01::{a:x}:{b:x}/128 dev eth0 nodad',
    'routes': 'route add 10.{a}.{b}.0/24 dev eth0 proto static',
    'IPv6 routes': 'route add fd01:{a:x}:{b:x}::/48 dev eth0 proto static',
}


@pytest.fixture(params=FLOODS)
def flooded(lan, server, request) -> Iterator[tuple[str, object]]:
    """Return what there is much of, and the NIC of the server."""
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    many = {'veths': MANY // 8, 'IPv6 addresses': 4_000}.get(
        request.param, MANY)  # those take the kernel long
    flood(lan.prefix + server, [FLOODS[request.param].format(
        n=n, a=100 + n // 250, b=n % 250) for n in range(many)])
    return request.param, nic


def flood(netns: str, lines: list[str]) -> None:
    subprocess.run(['ip', '-n', netns, '-batch', '-'], check=True,
                   input='\n'.join(lines), text=True)


def held(call) -> tuple[object, int]:
    """Return a call's result and the most that it held at once, in bytes."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        result = call()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f'{time.monotonic() - began:.2f} s, {most >> 10} KiB')
    return result, most


def test_a_server_full_of_them_costs_what_its_nics_do(lan, server, flooded):
    _what, nic = flooded
    network = lan.network
    found, most = held(lambda: network.counters(server))
    assert [each['port_id'] for each in found] == [nic.port_id]
    assert most < MEMORY
    for call in (lambda: network.set_carrier(server, False),
                 lambda: network.set_carrier(server, True),
                 lambda: network.plug(server, (nic,)),
                 lambda: network.destroy(server)):
        assert held(call)[1] < MEMORY


@pytest.mark.parametrize('name', ['addresses', 'IPv6 addresses', 'routes',
                                  'IPv6 routes'])
def test_its_own_are_repaired_among_a_flood(lan, server, name):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    namespace = lan.prefix + server
    flood(namespace, [FLOODS[name].format(a=100 + n // 250, b=n % 250)
                      for n in range(2 * dumps.MOST)])
    for lost in ('addr flush dev eth0 to 10.77.0.0/16',
                 '-6 addr flush dev eth0 to fd00:77::/64',
                 'route flush default', '-6 route flush default'):
        lan_fixture.ip(*lost.split(), netns=namespace)
    lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)
    for family in ('-4', '-6'):
        assert json.loads(lan_fixture.ip(
            family, '-j', 'route', 'show', 'default', netns=namespace))


def test_names_that_are_taken_keep_no_port_out(lan, server):
    first, second = lan.nic(), lan.nic(name='eth1', routes=())
    lan.network.plug(server, (first,))
    flood(lan.prefix + server, [
        f'link add eth{n} type ifb' for n in range(1, 50)])
    lan.network.plug(server, (first, second))
    assert {each['port_id']: each['name']
            for each in lan.network.counters(server)} == {
                first.port_id: 'eth0', second.port_id: 'eth50'}
