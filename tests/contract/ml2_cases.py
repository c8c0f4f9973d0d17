# SPDX-License-Identifier: Apache-2.0
"""The mechanism driver inside the installed Neutron's ML2 plug-in.

Run by test_ml2.py in a process of its own: Neutron and Nova both register
their options on the one CONF.
"""

import unittest

from neutron.tests.unit.plugins.ml2 import test_plugin
from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.api.definitions import provider_net
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg

from nova_vcloud.conf import ml2 as ml2_conf

MAPPINGS = ['compute1:physnet1:br-physnet1', 'rack1-*:physnet1:br-rack',
            'rack1-7:physnet1:br-own']
PROVIDER = (provider_net.NETWORK_TYPE, provider_net.PHYSICAL_NETWORK,
            provider_net.SEGMENTATION_ID)


class BindingCase(test_plugin.Ml2PluginV2TestCase):
    """Makes networks and ports, and shows how they were bound."""

    _mechanism_drivers = ('vcloud',)

    def setUp(self):
        ml2_conf.register_opts(cfg.CONF)
        cfg.CONF.set_override('bridge_mappings', MAPPINGS, 'ml2_vcloud')
        self.addCleanup(cfg.CONF.clear_override, 'bridge_mappings',
                        'ml2_vcloud')
        super().setUp()

    def bind(self, host, network_type='flat', vnic_type='normal',
             physical_network='physnet1', vlan=None):
        """Return the port as Nova sees it after binding to ``host``."""
        provider = {provider_net.NETWORK_TYPE: network_type}
        if physical_network:
            provider[provider_net.PHYSICAL_NETWORK] = physical_network
        if vlan:
            provider[provider_net.SEGMENTATION_ID] = vlan
        with self.network(as_admin=True, arg_list=PROVIDER,
                          **provider) as network, \
                self.subnet(network=network, enable_dhcp=False) as subnet, \
                self.port(subnet=subnet, is_admin=True,
                          arg_list=(portbindings.HOST_ID,
                                    portbindings.VNIC_TYPE),
                          **{portbindings.HOST_ID: host,
                             portbindings.VNIC_TYPE: vnic_type}) as port:
            return self._show('ports', port['port']['id'],
                              as_admin=True)['port']


class TestBinding(BindingCase):
    """Our driver alone."""

    def test_flat(self):
        port = self.bind('compute1')
        assert port[portbindings.VIF_TYPE] == 'tap'
        assert port['status'] == constants.PORT_STATUS_ACTIVE
        expected = {
            'bridge_name': 'br-physnet1', 'physical_network': 'physnet1',
            'port_filter': False, 'connectivity': 'l2'}
        details = port[portbindings.VIF_DETAILS]
        assert expected.items() <= details.items()
        assert 'vlan' not in details

    def test_vlan(self):
        port = self.bind('compute1', 'vlan', vlan=1007)
        assert port[portbindings.VIF_TYPE] == 'tap'
        assert port[portbindings.VIF_DETAILS]['vlan'] == 1007

    def test_host_by_pattern(self):
        port = self.bind('rack1-3')
        assert port[portbindings.VIF_DETAILS]['bridge_name'] == 'br-rack'

    def test_own_row_wins_over_pattern(self):
        port = self.bind('rack1-7')
        assert port[portbindings.VIF_DETAILS]['bridge_name'] == 'br-own'

    def test_what_we_cannot_do_is_not_bound(self):
        for case in ({'vnic_type': 'direct'},
                     {'physical_network': 'physnet2'},
                     {'network_type': 'local', 'physical_network': None}):
            port = self.bind('compute1', **case)
            assert port[portbindings.VIF_TYPE] == 'binding_failed', case

    def test_hosts_with_access_to_a_segment(self):
        driver = self.driver.mechanism_manager.mech_drivers['vcloud'].obj
        segment = {api.ID: 's', api.NETWORK_TYPE: 'flat',
                   api.PHYSICAL_NETWORK: 'physnet1',
                   api.SEGMENTATION_ID: None}
        found = driver.filter_hosts_with_segment_access(
            None, [segment], {'compute1', 'rack1-3', 'elsewhere'}, None)
        assert {'compute1', 'rack1-3'} == found


class TestBesideAnother(BindingCase):
    """Ours first, Neutron's test driver (strict about VIFs) behind it."""

    _mechanism_drivers = ('vcloud', 'test')

    def test_a_host_that_is_not_ours_is_left_to_the_next_driver(self):
        # Neutron's test driver binds this host name as ovs.
        port = self.bind('host-ovs-no_filter')
        assert port[portbindings.VIF_TYPE] == portbindings.VIF_TYPE_OVS


if __name__ == '__main__':
    unittest.main()
