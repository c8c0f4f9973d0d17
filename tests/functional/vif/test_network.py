# SPDX-License-Identifier: Apache-2.0
"""The network of servers in a real kernel, without containers."""

from collections.abc import Callable
from concurrent import futures
import contextlib
import dataclasses
import ipaddress
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import uuid

import lan as lan_fixture
from nova import exception
import pytest

ID = 'c0' * 32


# Plugging

def test_answers_the_first_packet(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)


def test_has_what_was_planned_and_nothing_else(lan, server):
    nic = lan.nic(addresses=('10.77.3.3/16', '10.77.3.4/16', 'fd00:77::3/64'))
    lan.network.plug(server, (nic,))
    state = lan.state(server)
    lo, eth0 = state['addresses']
    assert lo['operstate'] == 'UNKNOWN'
    assert eth0['ifname'] == 'eth0'
    assert eth0['address'] == nic.mac
    assert eth0['mtu'] == 1450
    found = [f'{a["local"]}/{a["prefixlen"]}' for a in eth0['addr_info']
             if a['scope'] == 'global']
    assert found == list(nic.addresses)
    assert not [a for a in eth0['addr_info'] if a.get('tentative')]
    assert state['routes'] == [
        '10.77.0.0/16 dev eth0 proto kernel scope link src 10.77.3.3 ',
        '192.0.2.0/24 via 10.77.0.9 dev eth0 proto static ',
        'default via 10.77.0.1 dev eth0 proto static ']
    assert ('default via fd00:77::1 dev eth0 proto static metric 1024 '
            'pref medium') in state['routes6']
    tap, = (link for link in state['links'][lan.name]
            if link['ifname'] == nic.tap)
    assert tap['master'] == lan_fixture.BRIDGE
    assert tap['mtu'] == 1450
    assert tap['ifalias'] == f'nova:{server}:{nic.port_id}'
    assert tap['address'] == 'fe' + nic.mac[2:]


def test_second_plug_changes_nothing(lan, server):
    nics = (lan.nic(), lan.nic(name='eth1', routes=()))
    lan.network.plug(server, nics)
    lan_fixture.wait_until(lambda: all(
        local_addresses_done(name) for name in (lan.name,
                                                lan.prefix + server)))
    before = lan.state(server)
    with Monitor(lan.name) as fabric, \
            Monitor(lan.prefix + server) as inside:
        lan.network.plug(server, nics)
    assert (fabric.events(), inside.events()) == ([], [])
    assert lan.state(server) == before


def local_addresses_done(netns):
    """Tell whether the kernel is done with those it gives links itself."""
    found = json.loads(lan_fixture.ip('-6', '-j', 'addr', netns=netns))
    return all(any(a['scope'] == 'link' and not a.get('tentative')
                   for a in link['addr_info'])
               for link in found if link['ifname'] != 'lo')


class Monitor:
    """What the kernel tells of changes in a namespace."""

    def __init__(self, netns: str) -> None:
        self._process = subprocess.Popen(
            ['ip', '-n', netns, 'monitor', 'link', 'address', 'route'],
            stdout=subprocess.PIPE, text=True)
        self._output = ''

    def __enter__(self):
        lan_fixture.wait_until(self._listens)
        time.sleep(0.2)  # it says nothing when it is ready
        return self

    def _listens(self):
        with contextlib.suppress(FileNotFoundError):  # just closed
            return any(str(fd.readlink()).startswith('socket:') for fd in
                       pathlib.Path(f'/proc/{self._process.pid}/fd').iterdir())
        return False

    def __exit__(self, *args):
        time.sleep(0.2)
        self._process.terminate()
        self._output, _ = self._process.communicate()

    def events(self):
        return self._output.splitlines()


def test_monitor_sees_changes(lan, server):
    with Monitor(lan.name) as fabric:
        lan.network.plug(server, (lan.nic(),))
    assert fabric.events()


BREAKAGES = {
    'IPv4 address lost': 'addr del {v4} dev eth0',
    'IPv6 address lost': '-6 addr del {v6} dev eth0',
    'address of somebody else': 'addr add 10.77.200.1/16 dev eth0',
    'default route lost': 'route del default',
    'IPv6 default route lost': '-6 route del default',
    'host route lost': 'route del 192.0.2.0/24',
    'stale route': 'route add 203.0.113.0/24 via 10.77.0.9 proto static',
    'MTU': 'link set eth0 mtu 1400',
    'MAC': 'link set eth0 address fa:16:3e:00:00:01',
    'link down': 'link set eth0 down',
    'link deleted': 'link del eth0',
    'tap: off the bridge': 'link set {tap} nomaster',
    'tap: MTU': 'link set {tap} mtu 1400',
    'tap: down': 'link set {tap} down',
    'tap: no alias': 'link set {tap} alias ""',
    'tap: deleted': 'link del {tap}',
}


@pytest.mark.parametrize('breakage', BREAKAGES)
def test_second_plug_repairs(lan, server, breakage):
    nic, other = lan.nic(), lan.nic(name='eth1', routes=())
    lan.network.plug(server, (nic, other))
    before = comparable(settled(lan, server))
    words = BREAKAGES[breakage].format(
        v4=nic.addresses[0], v6=nic.addresses[1], tap=nic.tap).split()
    words = ['' if word == '""' else word for word in words]
    (lan.ip if breakage.startswith('tap') else
     lambda *args: lan.server_ip(server, *args))(*words)
    assert comparable(lan.state(server)) != before
    lan.network.plug(server, (nic, other))
    lan_fixture.wait_until(
        lambda: comparable(lan.state(server)) == before)
    assert lan.pings_all(nic, other)


def settled(lan, server):
    """Return the state once the kernel has seen to every carrier.

    It makes the routes to subnets of IPv6 after that, in a worker.
    """
    def whole(state):
        carriers = all(link['operstate'] in ('UP', 'UNKNOWN')
                       for links in state['links'].values() for link in links)
        subnets = {
            f'{ipaddress.ip_interface(given).network} dev {link["ifname"]} '
            for link in state['addresses'] for a in link['addr_info']
            if a['family'] == 'inet6' and a['scope'] == 'global'
            for given in (f'{a["local"]}/{a["prefixlen"]}',)}
        return carriers and all(
            any(route.startswith(subnet) for route in state['routes6'])
            for subnet in subnets)

    return lan_fixture.wait_until(
        lambda: whole(state := lan.state(server)) and state)


def comparable(state):
    """Drop what changes when a link is made anew or addresses re-added."""
    links = {
        place: sorted((link['ifname'], link['mtu'], link['address'],
                       link.get('master'), link.get('ifalias'),
                       tuple(link['flags']), link['operstate'])
                      for link in found)
        for place, found in state['links'].items()}
    nodad = {
        (link['ifname'], a['local'], a['prefixlen'], a.get('nodad'))
        for link in state['addresses'] for a in link['addr_info']
        if a['scope'] == 'global'}
    return (links, nodad, state['routes'],
            # Of an IPv6 address that was re-added, the subnet's route may
            # stand behind another.
            state['routes6'])


def test_several_nics(lan, server):
    first = lan.nic()
    second = lan.nic(name='eth1', mtu=1300, addresses=('10.78.0.5/16',),
                     routes=(('198.51.100.0/24', '10.78.0.1'),))
    lan.network.plug(server, (first, second))
    assert lan.pings_all(first, second)
    names = [link['ifname'] for link in lan.state(server)['addresses']]
    assert names == ['lo', 'eth0', 'eth1']
    assert 'default via 10.77.0.1 dev eth0' in lan.server_ip(server, 'route')


def test_an_address_is_answered_by_its_own_nic(lan, server):
    nics = (lan.nic(), lan.nic(name='eth1', routes=()))
    lan.network.plug(server, nics)
    for nic in (*nics, *nics):
        address = nic.addresses[0]
        lan.ip('neigh', 'flush', address[:-3])
        assert lan.pings(address)
        assert lan.neighbour(address) == nic.mac


def test_plug_of_one_more_port_takes_a_free_name(lan, server):
    nics = [lan.nic(), lan.nic(routes=()), lan.nic(routes=())]
    for nic in nics:
        lan.network.plug(server, (nic,))
    found = {link['address']: link['ifname']
             for link in lan.state(server)['addresses']}
    assert [found[nic.mac] for nic in nics] == ['eth0', 'eth1', 'eth2']
    assert lan.pings_all(*nics)
    lan.network.unplug(server, nics[1:2])
    assert lan.pings_all(nics[0], nics[2])
    assert not lan.pings(nics[1].addresses[0])
    lan.network.plug(server, nics[1:2])
    assert lan.pings_all(*nics)


def test_new_addresses_of_a_port_replace_the_old(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    moved = dataclasses.replace(nic, addresses=('10.77.99.1/16',),
                                routes=(('0.0.0.0/0', '10.77.0.9'),))
    lan.network.plug(server, (moved,))
    assert lan.pings_all(moved)
    assert not lan.pings(nic.addresses[0])
    assert not lan.pings(nic.addresses[1])
    assert 'default via 10.77.0.9' in lan.server_ip(server, 'route')


def test_gateway_outside_of_the_subnet(lan, server):
    nic = lan.nic(addresses=('10.77.50.1/32', 'fd00:77::50/128'))
    lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)


def test_ipv6_gateway_may_be_link_local(lan, server):
    nic = lan.nic(routes=(('::/0', 'fe80::1'),))
    lan.network.plug(server, (nic,))
    assert ('default via fe80::1 dev eth0'
            in lan.server_ip(server, '-6', 'route'))


def test_server_without_nics_has_its_namespace(lan, server):
    lan.network.plug(server, ())
    assert server in lan.network.namespaces()
    assert 'UP' in lan.server_ip(server, 'link', 'show', 'lo')


def test_servers_get_no_addresses_from_advertisements(lan, server):
    lan.network.plug(server, (lan.nic(),))
    for key in ('accept_ra', 'autoconf'):
        value = subprocess.check_output(
            ['ip', 'netns', 'exec', lan.prefix + server, 'cat',
             f'/proc/sys/net/ipv6/conf/eth0/{key}'])
        assert value == b'0\n'


def test_twenty_at_once(lan):
    servers = {str(uuid.uuid4()): (lan.nic(), lan.nic(name='eth1', routes=()))
               for _ in range(20)}
    with futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda item: lan.network.plug(*item), servers.items()))
        assert servers.keys() <= lan.network.namespaces()
        assert all(pool.map(lambda nics: lan.pings_all(*nics),
                            servers.values()))
        list(pool.map(lan.network.destroy, servers))
    assert not servers.keys() & lan.network.namespaces()


def test_only_names_of_servers_count(lan, server):
    lan.network.plug(server, ())
    lan_fixture.ip('netns', 'add', f'{lan.prefix}not-a-server')
    try:
        assert lan.network.namespaces() == {server}
    finally:
        lan_fixture.ip('netns', 'del', f'{lan.prefix}not-a-server')


def test_fabric_may_be_the_hosts_own(lan, server, links_path):
    nic = lan.nic()
    run_in(lan.name, f'''
        from nova_vcloud import privsep
        from nova_vcloud.virt_docker.vif.addresses import Nic
        from nova_vcloud.virt_docker.vif.network import Network
        privsep.in_process()
        network = Network({str(links_path)!r}, '', {lan.prefix!r})
        network.plug({server!r}, ({nic!r},))
        assert network.counters({server!r})[0]['mac'] == {nic.mac!r}
        ''')
    assert lan.pings_all(nic)


def run_in(netns: str, script: str) -> str:
    """Run Python in a namespace, so that a mistake stays in it."""
    done = subprocess.run(
        # Not ip netns exec, whose mounts nobody else sees.
        ['nsenter', f'--net=/run/netns/{netns}',
         sys.executable, '-W', 'ignore', '-c',
         textwrap.dedent(script)], capture_output=True, text=True,
        check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Failing

def test_missing_bridge_leaves_nothing(lan, server):
    nics = (lan.nic(), lan.nic(name='eth1', bridge='br-none'))
    with pytest.raises(exception.VirtualInterfacePlugException,
                       match=r'bridge br-none does not exist on host .*'
                             r'\[ml2_vcloud\] bridge_mappings'):
        lan.network.plug(server, nics)
    assert not lan.network.namespaces()
    assert nics[0].tap not in lan.ip('link')


def test_failed_plug_leaves_what_was_there(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    more = (lan.nic(routes=()), lan.nic(bridge='br-none'))
    with pytest.raises(exception.VirtualInterfacePlugException):
        lan.network.plug(server, (nic, *more))
    assert lan.pings_all(nic)
    assert more[0].tap not in lan.ip('link')


def test_what_the_kernel_refuses_is_told(lan, server):
    with pytest.raises(exception.VirtualInterfacePlugException,
                       match='kernel refused'):
        lan.network.plug(server, (lan.nic(mtu=10),))
    assert not lan.network.namespaces()


def test_a_bridge_of_the_taps_name_stays(lan, server):
    nic = lan.nic()
    lan.ip('link', 'add', nic.tap, 'type', 'bridge')
    try:
        with pytest.raises(exception.VirtualInterfacePlugException,
                           match='is not a veth'):
            lan.network.plug(server, (nic,))
        assert nic.tap in lan.ip('link')
    finally:
        lan.ip('link', 'del', nic.tap)


def test_vlan_without_uplink_is_refused(lan, server):
    with pytest.raises(exception.VirtualInterfacePlugException,
                       match=r'VLAN 101 .*physnet1 .*\[vcloud_net\] uplinks'):
        lan.network.plug(server, (lan.nic(vlan=101),))
    assert not lan.network.namespaces()


@pytest.fixture
def trunk(lan, links_path):
    """What plugs servers of a host with an uplink; its bridges go, too."""
    lan.ip('link', 'add', 'uplink0', 'type', 'veth', 'peer', 'wire0')
    lan.ip('link', 'set', 'uplink0', 'up')
    yield lan_fixture.Network(str(links_path), lan.name, lan.prefix,
                              {'physnet1': 'uplink0'})
    for each in json.loads(lan.ip('-j', 'link')):
        if each['ifname'].startswith('vb'):
            lan.ip('link', 'del', each['ifname'])
    lan.ip('link', 'del', 'uplink0')


def test_vlan_of_an_uplink_that_is_down_is_refused(lan, server, trunk):
    lan.ip('link', 'set', 'uplink0', 'down')
    with pytest.raises(exception.VirtualInterfacePlugException,
                       match='interface uplink0 of physical network physnet1 '
                             'is down'):
        trunk.plug(server, (lan.nic(vlan=101),))
    assert not lan.network.namespaces()


def test_vlan(lan, server, trunk):
    """Either the kernel knows VLANs, or it is said that it does not."""
    nic = lan.nic(vlan=101, addresses=('198.51.100.9/24',), routes=())
    has_vlans = subprocess.run(
        ['ip', '-n', lan.name, 'link', 'add', 'link', 'wire0', 'name',
         'wire0.101', 'type', 'vlan', 'id', '101'], check=False,
        stderr=subprocess.DEVNULL).returncode == 0
    if not has_vlans:
        with pytest.raises(exception.VirtualInterfacePlugException,
                           match='8021q'):
            trunk.plug(server, (nic,))
        assert not lan.network.namespaces()
        return
    trunk.plug(server, (nic,))
    assert 'VLAN 101 on uplink0' in lan.ip('-d', 'link')
    # The other end of the wire, with tags.
    lan.ip('link', 'set', 'wire0', 'up')
    lan.ip('addr', 'add', '198.51.100.1/24', 'dev', 'wire0.101')
    lan.ip('link', 'set', 'wire0.101', 'up')
    assert lan.pings_all(nic)
    # Its link-local address would be there once it has a carrier.
    bridge, = (each for each in json.loads(lan.ip('-j', 'addr'))
               if each['ifname'].startswith('vb'))
    assert 'LOWER_UP' in bridge['flags']
    assert bridge['addr_info'] == []  # the host is not in there


# The state of the link

def test_a_stopped_server_does_not_answer(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    before = lan.state(server)
    lan.network.set_carrier(server, False)
    assert not any(lan.pings(a) for a in nic.addresses)
    down = lan.state(server)
    assert addresses(down) == addresses(before)
    assert [r.removesuffix('linkdown ') for r in down['routes']] == \
        before['routes']
    lan.network.set_carrier(server, True)
    assert lan.pings_all(nic)
    after = lan.state(server)
    assert (after['routes'], after['routes6']) == (
        before['routes'], before['routes6'])


def addresses(state):
    return [(link['ifname'], a['local'], a['prefixlen'])
            for link in state['addresses'] for a in link['addr_info']
            if a['scope'] == 'global']


def test_plugged_for_a_stopped_server(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,), up=False)
    assert not lan.pings(nic.addresses[0])
    lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)
    lan.network.plug(server, (nic,), up=False)
    assert not lan.pings(nic.addresses[0])


def test_carrier_of_no_server_is_fine(lan):
    lan.network.set_carrier(str(uuid.uuid4()), True)


@pytest.mark.parametrize('way', ['plug', 'carrier', 'announce'])
def test_neighbours_learn_where_it_is_now(lan, server, way):
    nic = lan.nic()
    lan.network.plug(server, (nic,), up=way == 'announce')
    for address in nic.addresses:
        lan_fixture.wait_until(
            lambda a=address: lan.neighbour(a) in (None, nic.mac))
        lan.remember(address, 'fa:16:3e:00:00:01')
    if way == 'plug':
        lan.network.plug(server, (nic,))
    elif way == 'carrier':
        lan.network.set_carrier(server, True)
    else:
        lan.network.announce(server, (nic,))
    for address in nic.addresses:
        lan_fixture.wait_until(
            lambda a=address: lan.neighbour(a) == nic.mac)


# Removing

def test_unplug_twice(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    lan.network.unplug(server, (nic,))
    assert nic.tap not in lan.ip('link')
    lan.network.unplug(server, (nic,))
    assert server in lan.network.namespaces()


def test_unplug_leaves_the_tap_of_another_server(lan, server):
    nic, other = lan.nic(), str(uuid.uuid4())
    lan.network.plug(other, (nic,))
    lan.network.unplug(server, (nic,))
    assert lan.pings_all(nic)
    lan.network.destroy(other)


def test_port_that_moved_to_another_server_of_the_host(lan, server):
    nic, old = lan.nic(), str(uuid.uuid4())
    lan.network.plug(old, (nic,))
    lan.network.plug(server, (nic,))
    assert lan.pings_all(nic)
    lan.network.destroy(old)
    assert lan.pings_all(nic)


def only_a_file(lan, server, nic):
    pathlib.Path('/run/netns', lan.prefix + server).touch()


def namespace_without_nic(lan, server, nic):
    lan_fixture.ip('netns', 'add', lan.prefix + server)


def tap_without_namespace(lan, server, nic):
    lan.network.plug(server, (nic,))
    holder = subprocess.Popen(['ip', 'netns', 'exec', lan.prefix + server,
                               'sleep', '1000'])
    inside = pathlib.Path('/run/netns', lan.prefix + server).stat().st_ino
    lan_fixture.wait_until(lambda: pathlib.Path(
        f'/proc/{holder.pid}/ns/net').stat().st_ino == inside)
    lan_fixture.ip('netns', 'del', lan.prefix + server)
    assert nic.tap in lan.ip('link')
    return holder


def tap_without_alias(lan, server, nic):
    lan.network.plug(server, (nic,))
    lan.ip('link', 'set', nic.tap, 'alias', '')


def namespace_gone(lan, server, nic):
    lan.network.plug(server, (nic,))
    lan_fixture.ip('netns', 'del', lan.prefix + server)


def nothing(lan, server, nic):
    pass


STATES: list[Callable] = [only_a_file, namespace_without_nic,
                          tap_without_namespace, tap_without_alias,
                          namespace_gone, nothing]


@pytest.mark.parametrize('state', STATES)
def test_destroy_of_half_a_server(lan, server, state):
    nic = lan.nic()
    holder = state(lan, server, nic)
    try:
        lan.network.destroy(server)
        assert nic.tap not in lan.ip('link')
        assert not pathlib.Path('/run/netns', lan.prefix + server).exists()
        lan.network.destroy(server)
    finally:
        end(holder)


@pytest.mark.parametrize('state', STATES)
def test_plug_of_half_a_server(lan, server, state):
    nic = lan.nic()
    holder = state(lan, server, nic)
    try:
        lan.network.plug(server, (nic,))
        assert lan.pings_all(nic)
    finally:
        end(holder)


def end(holder):
    if holder:
        os.kill(holder.pid, signal.SIGTERM)
        holder.wait()


def test_destroy_without_fabric(lan, links_path):
    server = str(uuid.uuid4())
    with lan_fixture.private(str(links_path)) as other:
        other.network.plug(server, (other.nic(),))
    other.network.destroy(server)
    assert not other.network.namespaces()


def test_destroy_leaves_others(lan, server):
    nic, other = lan.nic(), str(uuid.uuid4())
    lan.network.plug(server, (nic,))
    lan.network.plug(other, (lan.nic(),))
    lan.network.destroy(other)
    assert lan.pings_all(nic)


# Counters

def test_counters_are_the_servers(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    before, = lan.network.counters(server)
    subprocess.run(['ip', 'netns', 'exec', lan.name, 'ping', '-q', '-c', '20',
                    '-i', '0.01', '-s', '1000', '-n',
                    nic.addresses[0][:-3]],
                   check=True, stdout=subprocess.DEVNULL)
    # One way only: what the gateway sends, the server receives.
    frames = 100
    subprocess.run(['ip', 'netns', 'exec', lan.name, 'ping', '-q', '-b', '-c',
                    str(frames), '-i', '0.002', '-W', '0.1',
                    '10.77.255.255'],
                   check=False, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    after, = lan.network.counters(server)
    assert (after['tap'], after['mac'], after['name'], after['port_id']) == (
        nic.tap, nic.mac, 'eth0', nic.port_id)
    grown = {key: after[key] - before[key] for key in after
             if key[:3] in ('rx_', 'tx_')}
    assert grown['rx_packets'] >= 20 + frames
    assert grown['rx_bytes'] >= 20 * 1042 + frames * 98
    assert 20 <= grown['tx_packets'] < frames
    assert 20 * 1042 <= grown['tx_bytes'] < grown['rx_bytes']
    assert grown['rx_errors'] == grown['tx_drops'] == 0


def test_counters_of_no_server(lan):
    assert lan.network.counters(str(uuid.uuid4())) == []


# The mapping of containers

def test_join_and_forget(lan, server, links_path):
    link = links_path / ID
    lan.network.join(server, ID)
    assert os.readlink(link) == f'/run/netns/{lan.prefix}{server}'
    lan.network.join(server, ID)
    lan.network.forget(ID)
    lan.network.forget(ID)
    assert not os.path.lexists(link)


def test_destroy_forgets(lan, server, links_path):
    lan.network.plug(server, ())
    lan.network.join(server, ID)
    lan.network.destroy(server)
    assert os.listdir(links_path) == []


@pytest.mark.parametrize('bad', ['', '../x', 'c0', ID + '0', ID.upper()])
def test_only_ids_of_containers_are_linked(lan, server, bad):
    with pytest.raises(ValueError, match='not the id'):
        lan.network.join(server, bad)
