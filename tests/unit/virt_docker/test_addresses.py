# SPDX-License-Identifier: Apache-2.0
"""What Nova says of a server's ports becomes NICs."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from nova import exception
from nova.network import model
import pytest

from nova_vcloud.virt_docker.vif import addresses

PORT = 'b4854f3d-1111-4222-8333-444455556666'


def subnet(cidr='10.77.0.0/24', gateway='10.77.0.1', ips=('10.77.0.5',),
           routes=(), dns=()):
    return model.Subnet(
        cidr=cidr, gateway=model.IP(address=gateway) if gateway else None,
        ips=[model.FixedIP(address=ip) for ip in ips],
        routes=[model.Route(cidr=to, gateway=model.IP(address=via))
                for to, via in routes],
        dns=[model.IP(address=ip) for ip in dns])


def subnet6(**values):
    return subnet(**{'cidr': 'fd00:77::/64', 'gateway': 'fd00:77::1',
                     'ips': ('fd00:77::5',), **values})


def vif(*subnets, port=PORT, mtu=1450, kind='tap', **values):
    values = {
        'details': {'bridge_name': 'br-physnet1',
                    'physical_network': 'physnet1'},
        'address': 'FA:16:3E:00:00:05', **values}
    return model.VIF(
        id=port, type=kind, devname='tap' + port[:11],
        network=model.Network(id='net', subnets=list(subnets), mtu=mtu),
        **values)


def plan(*vifs):
    # As it comes out of the database, where JSON was.
    return addresses.plan(model.NetworkInfo.hydrate(
        model.NetworkInfo(vifs).json()))


def test_one_port():
    nic, = plan(vif(subnet(dns=('10.77.0.2', '10.77.0.3')),
                    subnet6(dns=('10.77.0.2', 'fd00:77::2'))))
    assert nic == addresses.Nic(
        port_id=PORT, mac='fa:16:3e:00:00:05', tap='tapb4854f3d-11',
        name='eth0', mtu=1450, bridge='br-physnet1', vlan=None,
        physical_network='physnet1',
        addresses=('10.77.0.5/24', 'fd00:77::5/64'),
        routes=(('0.0.0.0/0', '10.77.0.1'), ('::/0', 'fd00:77::1')),
        dns=('10.77.0.2', '10.77.0.3', 'fd00:77::2'), up=True)


def test_no_ports():
    assert plan() == ()


def test_port_without_addresses():
    nic, = plan(vif())
    assert (nic.addresses, nic.routes, nic.dns) == ((), (), ())


def test_first_gateway_of_a_family_is_the_way_out():
    first, second, third = plan(
        vif(subnet(gateway=None)),
        vif(subnet(cidr='10.78.0.0/24', gateway='10.78.0.1',
                   ips=('10.78.0.5',))),
        vif(subnet(cidr='10.79.0.0/24', gateway='10.79.0.1',
                   ips=('10.79.0.5',)), subnet6()))
    assert first.routes == ()
    assert second.routes == (('0.0.0.0/0', '10.78.0.1'),)
    assert third.routes == (('::/0', 'fd00:77::1'),)
    assert [nic.name for nic in (first, second, third)] == [
        'eth0', 'eth1', 'eth2']


def test_two_subnets_of_a_family_have_one_default_route():
    nic, = plan(vif(subnet(), subnet(cidr='10.78.0.0/16',
                                     gateway='10.78.0.1',
                                     ips=('10.78.0.5', '10.78.0.6'))))
    assert nic.routes == (('0.0.0.0/0', '10.77.0.1'),)
    assert nic.addresses == ('10.77.0.5/24', '10.78.0.5/16', '10.78.0.6/16')


def test_host_routes():
    nic, = plan(vif(subnet(routes=(
        ('192.0.2.0/24', '10.77.0.9'), ('198.51.100.7/32', '0.0.0.0'),
        ('203.0.113.9/24', '10.77.0.9')))))
    assert nic.routes == (
        ('0.0.0.0/0', '10.77.0.1'), ('192.0.2.0/24', '10.77.0.9'),
        ('198.51.100.7/32', None), ('203.0.113.0/24', '10.77.0.9'))


def test_default_route_may_be_a_host_route():
    with_gateway, = plan(vif(subnet(routes=(('0.0.0.0/0', '10.77.0.9'),))))
    assert with_gateway.routes == (('0.0.0.0/0', '10.77.0.1'),)
    without, = plan(vif(subnet(gateway=None,
                               routes=(('0.0.0.0/0', '10.77.0.9'),))))
    assert without.routes == (('0.0.0.0/0', '10.77.0.9'),)


def test_a_destination_has_one_route():
    first, second = plan(
        vif(subnet(routes=(('192.0.2.0/24', '10.77.0.8'),
                           ('192.0.2.0/24', '10.77.0.9')))),
        vif(subnet(cidr='10.78.0.0/24', gateway=None, ips=('10.78.0.5',),
                   routes=(('192.0.2.0/24', '10.78.0.9'),))))
    assert first.routes[1:] == (('192.0.2.0/24', '10.77.0.8'),)
    assert second.routes == ()


def test_gateway_that_is_the_server_itself():
    nic, = plan(vif(subnet(ips=('10.77.0.1',),
                           routes=(('192.0.2.0/24', '10.77.0.1'),))))
    assert nic.routes == ()


def test_vlan_and_physical_network():
    nic, = plan(vif(subnet(), details={
        'bridge_name': 'br-x', 'vlan': '101', 'physical_network': 'p2'}))
    assert (nic.bridge, nic.vlan, nic.physical_network) == ('br-x', 101, 'p2')


def test_vlan_zero_is_one():
    nic, = plan(vif(subnet(), details={'bridge_name': 'br-x', 'vlan': 0}))
    assert nic.vlan == 0


@pytest.mark.parametrize(('given_', 'mtu'), [(None, 1500), (9000, 9000)])
def test_mtu(given_, mtu):
    nic, = plan(vif(subnet(), mtu=given_))
    assert nic.mtu == mtu


@pytest.mark.parametrize(('values', 'reason'), [
    ({'kind': 'binding_failed'}, 'Neutron could not bind it'),
    ({'kind': 'unbound'}, 'Neutron could not bind it'),
    ({'kind': 'bridge'}, r'kind of connection \(bridge\)'),
    ({'kind': 'ovs'}, r'kind of connection \(ovs\)'),
    ({'kind': None}, r'kind of connection \(None\)'),
    ({'details': {}}, 'names no bridge'),
])
def test_what_cannot_be_plugged_is_told(values, reason):
    with pytest.raises(exception.VirtualInterfacePlugException,
                       match=f'Port {PORT} cannot be plugged: .*{reason}'):
        plan(vif(subnet(), **values))


def test_a_nic_can_not_be_changed():
    nic, = plan(vif(subnet()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        nic.mtu = 9000


SUBNETS = st.sampled_from([
    subnet(), subnet(gateway=None), subnet6(), subnet6(gateway='fe80::1'),
    subnet(cidr='10.78.0.0/16', gateway='10.78.0.1', ips=('10.78.0.5',),
           routes=(('0.0.0.0/0', '10.78.0.9'), ('192.0.2.0/24', '0.0.0.0'))),
    subnet(ips=()), subnet(ips=('10.77.0.1',))])


@given(st.lists(st.lists(SUBNETS, max_size=4), max_size=4))
def test_holds_for_any_ports(ports):
    nics = plan(*(vif(*subnets) for subnets in ports))
    destinations = [cidr for nic in nics for cidr, _via in nic.routes]
    assert len(set(destinations)) == len(destinations)
    for nic in nics:
        assert len(set(nic.addresses)) == len(nic.addresses)
        own = {a.partition('/')[0] for a in nic.addresses}
        assert not own & {via for _cidr, via in nic.routes}
