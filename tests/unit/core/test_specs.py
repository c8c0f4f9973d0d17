# SPDX-License-Identifier: Apache-2.0
"""What a flavor asks for."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import exception
from nova_vcloud.flavor import flavor_limits


def parse(**changes):
    """Parse a flavor of 2 vCPUs; a__b stands for the key a:b."""
    return flavor_limits.parse(2, 512, {
        key.replace('__', ':'): value for key, value in changes.items()})


def test_a_plain_flavor_asks_for_nothing_more():
    assert parse() == flavor_limits.Request(vcpus=2, memory_mb=512)


def test_novas_own_keys():
    found = parse(quota__cpu_shares='2048', quota__cpu_period='20000',
                  quota__cpu_quota='11500', hw__cpu_policy='dedicated')
    assert (found.cpu_shares, found.cpu_period, found.cpu_quota) == (
        2048, 20000, 11500)
    assert found.dedicated


@pytest.mark.parametrize('unlimited', ['0', '-1'])
def test_zero_and_minus_one_are_unlimited_as_libvirt_says(unlimited):
    found = parse(quota__cpu_quota=unlimited,
                  quota__disk_read_bytes_sec=unlimited,
                  quota__vif_inbound_average=unlimited)
    assert found.cpu_quota == 0
    assert found.disk == {'read_bytes': 0}
    assert found.vif == {'inbound_average': 0}


def test_disks_and_nics():
    found = parse(quota__disk_read_bytes_sec='1',
                  quota__disk_total_iops_sec='2',
                  quota__vif_outbound_average='3',
                  quota__vif_outbound_burst='4')
    assert found.disk == {'read_bytes': 1, 'total_iops': 2}
    assert found.vif == {'outbound_average': 3, 'outbound_burst': 4}


def test_our_own_keys():
    found = parse(vcloud__pids='100', vcloud__memory_soft_mb='256',
                  vcloud__memory_swap_mb='64', vcloud__cpu_burst='5000',
                  vcloud__cpu_placement='bind', vcloud__numa_policy='require')
    assert (found.pids, found.memory_soft_mb, found.memory_swap_mb,
            found.cpu_burst, found.bind, found.numa_policy) == (
        100, 256, 64, 5000, True, 'require')


@pytest.mark.parametrize(('own', 'found'), [
    ({}, 128), ({'vcloud:memory_swap_mb': '0'}, 0),
    ({'vcloud:memory_swap_mb': '64'}, 64)])
def test_the_flavors_swap_is_swap_unless_a_key_says(own, found):
    assert flavor_limits.parse(2, 512, own,
                               swap_mb=128).memory_swap_mb == found


def test_ecu_of_all_groups_together():
    assert parse(resources__CUSTOM_ECU='3').ecu == 3
    assert parse(resources__CUSTOM_ECU='3', resources1__CUSTOM_ECU='2',
                 resources__CUSTOM_OTHER='9').ecu == 5
    assert parse(resources__CUSTOM_ECU='0').ecu is None


def test_the_images_cpu_policy_counts_unless_the_flavor_says():
    assert flavor_limits.parse(1, 64, {}, 'dedicated').dedicated
    assert not flavor_limits.parse(1, 64, {'hw:cpu_policy': 'shared'},
                                   'dedicated').dedicated


@pytest.mark.parametrize(('changes', 'words'), [
    ({'quota__cpu_quota': 'many'}, 'quota:cpu_quota=many'),
    ({'quota__cpu_quota': '1.5'}, 'quota:cpu_quota=1.5'),
    ({'quota__cpu_quota': '999'}, 'less than 1000'),
    ({'quota__cpu_quota': '-2'}, 'quota:cpu_quota=-2'),
    ({'quota__cpu_period': '999'}, 'quota:cpu_period=999'),
    ({'quota__cpu_period': '1000001'}, 'not between 1000 and 1000000'),
    ({'quota__cpu_shares': '1'}, 'quota:cpu_shares=1'),
    ({'quota__disk_read_bytes_sec': '-5'}, 'disk_read_bytes_sec=-5'),
    ({'quota__disk_total_bytes_sec': '5', 'quota__disk_read_bytes_sec': '5'},
     'exclude each other'),
    ({'quota__vif_inbound_peak': '5'}, 'without quota:vif_inbound_average'),
    ({'quota__vif_inbound_burst': '5'}, 'without quota:vif_inbound_average'),
    ({'quota__vif_inbound_average': '9', 'quota__vif_inbound_peak': '5'},
     'more than'),
    ({'vcloud__pids': '3'}, 'vcloud:pids=3'),
    ({'vcloud__cpu_placement': 'pin'}, 'float'),
    ({'vcloud__numa_policy': ''}, 'vcloud:numa_policy='),
    ({'vcloud__memory_soft_mb': '513'}, 'more than the memory'),
    ({'vcloud__cpu_burst': '5000', 'quota__cpu_quota': '4000'},
     'more than quota:cpu_quota'),
    ({'vcloud__cpu_burst': '5000', 'quota__cpu_quota': '-1'},
     'no meaning without a quota'),
    ({'resources__CUSTOM_ECU': '2', 'quota__cpu_quota': '4000'},
     'give one of them'),
    ({'resources__CUSTOM_ECU': 'two'}, 'CUSTOM_ECU=two'),
    ({'hw__cpu_policy': 'mixed'}, 'hw:cpu_policy=mixed'),
    ({'hw__cpu_policy': 'dedicated', 'hw__cpu_thread_policy': 'isolate'},
     'isolate'),
])
def test_what_cannot_be_is_named(changes, words):
    with pytest.raises(exception.InvalidRequest) as caught:
        parse(**changes)
    assert words in str(caught.value)


KEYS = ['quota:cpu_shares', 'quota:cpu_period', 'quota:cpu_quota',
        'resources:CUSTOM_ECU', 'hw:cpu_policy', 'vcloud:pids',
        'vcloud:cpu_burst', 'vcloud:memory_soft_mb', 'vcloud:cpu_placement',
        *(f'quota:disk_{name}_sec' for name in flavor_limits.DISK),
        *(f'quota:vif_{name}' for name in flavor_limits.VIF)]


@given(st.dictionaries(st.sampled_from(KEYS), st.one_of(
    st.text(), st.integers().map(str))))
def test_any_text_gives_a_request_or_a_clear_word(found):
    text = None
    try:
        request = flavor_limits.parse(2, 512, found)
    except exception.InvalidRequest as e:
        text = str(e)
    if text is not None:
        assert any(key.rpartition('_')[0] in text or key in text
                   for key in found)
        return
    assert request.cpu_quota is None or request.cpu_quota == 0 \
        or request.cpu_quota >= 1000
    assert all(value >= 0 for value in (*request.disk.values(),
                                        *request.vif.values()))
