# SPDX-License-Identifier: Apache-2.0
"""EcuFilter: a server is where cores are as fast as it asks for."""

import pytest

ECU_FILTER = 'nova_vcloud.filters.ecu_filter.EcuFilter'
SLOW = {'ecu_per_core': '2.5'}
FAST = {'ecu_per_core': '5'}


@pytest.fixture(autouse=True)
def filters(cloud):
    cloud.scheduling([ECU_FILTER])


def test_a_vcpu_of_four_ecu_is_not_on_cores_of_two_and_a_half(cloud):
    cloud.tell('host1', ecu=25, stats=SLOW)
    cloud.tell('host2', ecu=50, stats=FAST)
    flavor = cloud.flavor(resources__CUSTOM_ECU='4')
    servers = [cloud.boot(flavor) for _ in range(2)]
    assert {server.host for server in servers} == {'host2'}
    for server in servers:
        assert server.why('EcuFilter', 'host1', server.uuid).endswith(
            'needs 4 ECU a core, has 2.5')


def test_two_vcpus_of_four_ecu_fit_there(cloud):
    cloud.tell('host1', ecu=25, stats=SLOW)
    flavor = cloud.flavor(vcpus=2, resources__CUSTOM_ECU='4')
    server = cloud.boot(flavor)
    assert (server.host, server.said) == ('host1', ())


def test_only_slow_hosts_are_no_hosts(cloud):
    for host in cloud.hosts:
        cloud.tell(host, ecu=25, stats=SLOW)
    server = cloud.boot(cloud.flavor(resources__CUSTOM_ECU='4'))
    assert server.refused
    for host in cloud.hosts:
        assert server.why('EcuFilter', host, 'needs 4', 'has 2.5')


def test_a_server_without_ecu_may_be_anywhere(cloud):
    cloud.tell('host1', ecu=25, stats=SLOW)
    assert cloud.boot(host='host1').host == 'host1'


def test_a_numbered_group_of_resources_counts_as_well(cloud):
    cloud.tell('host1', ecu=25, stats=SLOW)
    server = cloud.boot(cloud.flavor(resources1__CUSTOM_ECU='4'))
    assert server.refused
    assert server.why('EcuFilter', 'host1', 'needs 4', 'has 2.5')


@pytest.mark.parametrize(('word', 'host'), [
    ('pass', 'host1'), ('reject', None)])
def test_a_host_without_figures(cloud, word, host):
    cloud.flags('vcloud_scheduler', unknown_ecu=word)
    cloud.tell('host1', ecu=25)
    server = cloud.boot(cloud.flavor(resources__CUSTOM_ECU='4'))
    assert server.host == host
    assert bool(server.why('EcuFilter', 'host1', 'unknown_ecu')) is (
        word == 'reject')


def test_an_aggregate_tells_for_hosts_that_do_not(cloud):
    cloud.tell('host1', ecu=25)
    cloud.tell('host2', ecu=25)
    cloud.aggregate('old', ['host1'], ecu_per_core='2.5')
    cloud.aggregate('new', ['host2'], ecu_per_core='6')
    server = cloud.boot(cloud.flavor(resources__CUSTOM_ECU='4'))
    assert server.host == 'host2'
    assert server.why('EcuFilter', 'host1', 'needs 4', 'has 2.5')


def test_a_host_is_believed_before_its_aggregate(cloud):
    cloud.tell('host1', ecu=25, stats=SLOW)
    cloud.aggregate('new', ['host1'], ecu_per_core='6')
    assert cloud.boot(cloud.flavor(resources__CUSTOM_ECU='4')).refused


@pytest.mark.parametrize(('ratio', 'host'), [('1.0', None), ('1.5', 'host1')])
def test_an_aggregate_says_how_much_may_be_sold(cloud, ratio, host):
    cloud.tell('host1', ecu=100, stats={
        **FAST, 'ecu_total': '10', 'ecu_used': '8'})
    cloud.aggregate('sold', ['host1'], ecu_allocation_ratio=ratio)
    server = cloud.boot(cloud.flavor(resources__CUSTOM_ECU='4'))
    assert server.host == host
    assert bool(server.why('EcuFilter', 'host1', 'needs 4 ECU', 'has 2',
                           'ecu_allocation_ratio')) is (host is None)


@pytest.mark.parametrize('texts', [
    ('', 'fast', 'nan'), ('inf', '-1', '0'), ('1e999', '{}', '1,5')])
def test_figures_that_are_none_are_unknown(cloud, texts):
    for host, text in zip(cloud.hosts, texts, strict=True):
        cloud.tell(host, ecu=25, stats=dict.fromkeys(
            ['ecu_per_core', 'ecu_total', 'ecu_used', 'numa_node_cpus'],
            text))
        cloud.aggregate(f'of {host}', [host], ecu_per_core=text or ' ',
                        ecu_allocation_ratio=text or ' ')
    flavor = cloud.flavor(resources__CUSTOM_ECU='4')
    assert cloud.boot(flavor).host
    cloud.flags('vcloud_scheduler', unknown_ecu='reject')
    server = cloud.boot(flavor)
    assert server.refused
    for host in cloud.hosts:
        assert server.why('EcuFilter', host, 'unknown')


def test_cpus_of_one_numa_node(cloud):
    cloud.tell('host1', ecu=25, stats={**FAST, 'numa_node_cpus': '2,2'})
    cloud.tell('host2', ecu=25, stats={**FAST, 'numa_node_cpus': '4'})
    server = cloud.boot(cloud.flavor(
        vcpus=3, resources__CUSTOM_ECU='3', vcloud__cpu_placement='bind',
        vcloud__numa_policy='require'))
    assert server.host == 'host2'
    assert server.why('EcuFilter', 'host1', 'needs 3 CPUs', 'has 2')


def test_placement_counts_what_is_claimed(cloud):
    cloud.tell('host1', ecu=10, stats=FAST)
    flavor = cloud.flavor(resources__CUSTOM_ECU='4')
    assert [cloud.boot(flavor).host for _ in range(3)] == [
        'host1', 'host1', None]
