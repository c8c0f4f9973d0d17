# SPDX-License-Identifier: Apache-2.0
"""UsageWeigher and EcuWeigher: which of the hosts that can be it is."""

import time

import pytest

USAGE = 'nova_vcloud.filters.weighers.UsageWeigher'
ECU = 'nova_vcloud.filters.weighers.EcuWeigher'
POLICY = 'vcloud:policy'


def only(cloud, weigher):
    cloud.scheduling(weighers=[weigher], nova_weighers=False)


def load(cpu, memory=0.1, servers=0, age=0):
    """Return stats of a host that measured its load some seconds ago."""
    return {'load_cpu': str(cpu), 'load_memory': str(memory),
            'load_servers': str(servers),
            'load_time': format(time.time() - age, '.0f')}


def test_equals_take_turns(cloud):
    only(cloud, USAGE)
    flavor = cloud.flavor(memory_mb=64)
    hosts = [cloud.boot(flavor).host for _ in range(5)]
    assert sorted(hosts[:3]) == cloud.hosts
    assert hosts[3:] == hosts[:2]


def test_the_least_used_host_is_next(cloud):
    only(cloud, USAGE)
    cloud.aggregate('pool', cloud.hosts, **{POLICY: 'performance'})
    big = cloud.flavor(memory_mb=4096)
    for host in ('host1', 'host3'):
        assert cloud.boot(big, host=host).host == host
    small = cloud.flavor(memory_mb=512)
    assert {cloud.boot(small).host for _ in range(2)} == {'host2'}


def test_progressive_fills_one_host_before_the_next(cloud):
    only(cloud, USAGE)
    cloud.aggregate('pool', cloud.hosts, **{POLICY: 'progressive'})
    flavor = cloud.flavor(memory_mb=3000)  # two of them fit
    hosts = [cloud.boot(flavor).host for _ in range(5)]
    assert hosts[0] == hosts[1]
    assert hosts[2] == hosts[3]
    assert set(hosts) == set(cloud.hosts)


def test_a_host_of_progressive_stays_the_one_after_a_small_server(cloud):
    only(cloud, USAGE)
    cloud.aggregate('pool', cloud.hosts, **{POLICY: 'progressive'})
    flavor = cloud.flavor(memory_mb=64)
    assert len({cloud.boot(flavor).host for _ in range(2)}) == 1


def test_what_is_measured_goes_before_what_is_claimed(cloud):
    only(cloud, USAGE)
    cloud.tell('host1', stats=load(0.9))
    cloud.tell('host2', stats=load(0.05, servers=1))
    cloud.tell('host3', stats=load(0.2, memory=0.8))
    assert cloud.boot(cloud.flavor(memory_mb=4096),
                      host='host2').host == 'host2'
    cloud.tell('host2', stats=load(0.05, servers=1))
    assert cloud.boot(cloud.flavor(memory_mb=64)).host == 'host2'


def test_servers_since_the_measurement_count(cloud):
    only(cloud, USAGE)
    for host in cloud.hosts:
        cloud.tell(host, stats=load(0.1))
    flavor = cloud.flavor(vcpus=2)
    assert sorted(cloud.boot(flavor).host for _ in range(3)) == cloud.hosts


def test_an_old_measurement_does_not_count(cloud):
    only(cloud, USAGE)
    cloud.tell('host1', stats=load(0.9, age=3600))
    for host in ('host2', 'host3'):
        cloud.boot(cloud.flavor(memory_mb=4096), host=host)
    assert cloud.boot(cloud.flavor(memory_mb=64)).host == 'host1'


@pytest.mark.parametrize('texts', [
    ('', 'much', 'nan'), ('-3', 'inf', '1e999')])
def test_a_load_that_is_none_does_no_harm(cloud, texts):
    only(cloud, USAGE)
    for host, text in zip(cloud.hosts, texts, strict=True):
        cloud.tell(host, stats=dict.fromkeys(load(0), text))
    first, second = [cloud.boot().host for _ in range(2)]
    assert first != second


def test_the_least_used_ecu_are_next(cloud):
    only(cloud, ECU)
    for host, used in zip(cloud.hosts, ('15', '5', '10'), strict=True):
        cloud.tell(host, ecu=20, stats={
            'ecu_per_core': '4', 'ecu_total': '20', 'ecu_used': used})
    assert cloud.boot(cloud.flavor(
        resources__CUSTOM_ECU='2')).host == 'host2'


@pytest.mark.parametrize('texts', [('', 'much'), ('nan', '-3'), ('0', 'inf')])
def test_ecu_that_are_none_do_no_harm(cloud, texts):
    only(cloud, ECU)
    for host, text in zip(('host1', 'host3'), texts, strict=True):
        cloud.tell(host, ecu=20, stats={
            'ecu_per_core': '4', 'ecu_total': text, 'ecu_used': text})
    cloud.tell('host2', ecu=20, stats={
        'ecu_per_core': '4', 'ecu_total': '20', 'ecu_used': '5'})
    assert cloud.boot(cloud.flavor(
        resources__CUSTOM_ECU='2')).host == 'host2'


@pytest.mark.parametrize(('weigher', 'option'), [
    (USAGE, 'usage_weight_multiplier'), (ECU, 'ecu_weight_multiplier')])
def test_an_aggregate_turns_a_weigher_round(cloud, weigher, option):
    only(cloud, weigher)
    for host, used in zip(cloud.hosts, ('5', '15', '5'), strict=True):
        cloud.tell(host, ecu=20, stats={
            'ecu_per_core': '4', 'ecu_total': '20', 'ecu_used': used})
    cloud.boot(cloud.flavor(memory_mb=4096), host='host2')
    cloud.aggregate('pool', cloud.hosts, **{option: '-1.0'})
    assert cloud.boot(cloud.flavor(
        memory_mb=64, resources__CUSTOM_ECU='2')).host == 'host2'
