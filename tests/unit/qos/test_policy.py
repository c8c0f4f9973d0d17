# SPDX-License-Identifier: Apache-2.0
"""From a flavor and a host to limits."""

import dataclasses

import pytest

from nova_vcloud import exception
from nova_vcloud.flavor import flavor_limits
from nova_vcloud.qos import limits
from nova_vcloud.qos import policy
from nova_vcloud.qos.cpu import pinning

HOST = policy.Host(cpus=4, per_core=4.0, pids=4096, device='8:0',
                   disk=True)
WHERE = pinning.Placement(frozenset({0, 1, 2, 3}), frozenset({0}))
PORT = '0b6c7d8e-1111-4222-8333-944455556666'
UNLIMITED = limits.UNLIMITED


def desired(host=HOST, vcpus=1, memory_mb=512, **wishes):
    """Return the limits of a flavor by their names."""
    request = flavor_limits.Request(vcpus=vcpus, memory_mb=memory_mb, **wishes)
    found = policy.desired(request, host, WHERE, [PORT])
    return {str(key): value for key, value in found.items()}


def test_a_plain_flavor_gets_what_a_machine_of_its_size_has():
    found = desired(vcpus=2)
    assert found['cpu.quota'] == 2 * found['cpu.period'] == 200_000
    assert found['cpu.shares'] == 2048
    assert found['cpu.cpus'] == {0, 1, 2, 3}
    assert found['memory.max'] == 512 << 20
    assert found['memory.swap'] == 0
    assert found['pids.max'] == 4096
    assert found['io.8:0.read_bps'] is UNLIMITED
    assert found[f'net.{PORT}.in_average'] is UNLIMITED


def test_every_kind_is_decided_but_totals():
    kinds = {limits.Key.parse(name).kind for name in desired()}
    assert kinds == {kind for kind in limits.FIELDS if 'total' not in kind}


def test_a_disk_has_the_size_of_its_flavor_where_it_can():
    assert desired(root_gb=3)['disk.max'] == 3 << 30
    assert desired(root_gb=0)['disk.max'] is UNLIMITED
    host = dataclasses.replace(HOST, disk=False)
    assert 'disk.max' not in desired(host, root_gb=3)


def test_a_quota_is_of_each_vcpu():
    found = desired(vcpus=2, cpu_quota=57_499, cpu_burst=1000)
    assert found['cpu.quota'] == 2 * 57_499
    assert found['cpu.burst'] == 2000


def test_an_unlimited_quota_is_none():
    assert desired(cpu_quota=0)['cpu.quota'] is UNLIMITED


@pytest.mark.parametrize('per_core', [4.0, 2.5, 1.0])
def test_an_ecu_is_the_same_work_on_every_host(per_core):
    host = dataclasses.replace(HOST, per_core=per_core)
    found = desired(host, ecu=1)
    work = found['cpu.quota'] / found['cpu.period'] * per_core
    assert work == pytest.approx(1, rel=1e-4)
    assert found['cpu.shares'] == round(1024 / per_core)


def test_a_vcpu_is_no_faster_than_a_core():
    slow = dataclasses.replace(HOST, per_core=2.5)
    with pytest.raises(exception.InvalidRequest, match=r'a core.* gives 2\.5'):
        desired(slow, ecu=4)
    assert desired(slow, ecu=4, vcpus=2)['cpu.quota'] == 160_000


def test_ecu_on_a_host_that_nobody_measured_is_refused():
    with pytest.raises(exception.InvalidRequest, match='calibrate'):
        desired(dataclasses.replace(HOST, per_core=None), ecu=1)


def test_less_than_the_kernel_counts_is_refused():
    fast = dataclasses.replace(HOST, per_core=50.0)
    with pytest.raises(exception.InvalidRequest, match='longer period'):
        desired(fast, ecu=1, cpu_period=20_000)


def test_more_than_the_host_is_refused():
    with pytest.raises(exception.InvalidRequest, match=r'5 CPUs.* has 4'):
        desired(cpu_quota=500_000)


def test_a_burst_above_the_quota_is_refused():
    with pytest.raises(exception.InvalidRequest, match=r'cpu\.burst'):
        desired(ecu=1, cpu_burst=30_000)


def test_disks_in_bytes_and_nics_in_bytes():
    found = desired(disk={'read_bytes': 5, 'write_iops': 0},
                    vif={'inbound_average': 1250, 'inbound_burst': 64})
    assert found['io.8:0.read_bps'] == 5
    assert found['io.8:0.write_iops'] is UNLIMITED
    assert found[f'net.{PORT}.in_average'] == 1_250_000  # 10 Mbit/s
    assert found[f'net.{PORT}.in_burst'] == 65_536


def test_a_sum_of_reads_and_writes_is_refused_or_halved():
    wish = {'disk': {'total_bytes': 1000}}
    with pytest.raises(exception.InvalidRequest, match='split_disk_totals'):
        desired(**wish)
    found = desired(dataclasses.replace(HOST, split_totals=True), **wish)
    assert found['io.8:0.read_bps'] == found['io.8:0.write_bps'] == 500


def test_memory_and_processes():
    found = desired(memory_soft_mb=100, memory_swap_mb=3, pids=50)
    assert found['memory.soft'] == 100 << 20
    assert found['memory.swap'] == 3 << 20
    assert found['pids.max'] == 50
