# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say of a server's CPUs."""

from nova_vcloud.virt_docker.guest import diagnostics

CONTAINER = {'State': {'Paused': False, 'StartedAt': '2026-01-02T03:04:05Z'},
             'HostConfig': {'Memory': 64 << 20}}
STATS = {'cpu_stats': {'cpu_usage': {'total_usage': 7}}}


def test_cpus_are_the_flavors_and_their_time_is_one_sum():
    found = diagnostics.full(CONTAINER, STATS, (), {}, False, 2)
    assert found.num_cpus == 2
    assert [(cpu.id, cpu.time) for cpu in found.cpu_details] == [(None, 7)]
