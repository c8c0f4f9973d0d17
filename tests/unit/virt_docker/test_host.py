# SPDX-License-Identifier: Apache-2.0
"""What the host must have, and what it offers Placement."""

import os

import pytest

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker.host import host

LINKS = '/run/nova-vcloud/netns'
PARENT = '/machine'


def engine_info(**changes):
    """Return the answer of an engine that is set up as documented."""
    return {
        'ServerVersion': '20.10.24+dfsg1', 'Driver': 'overlay2',
        'LiveRestoreEnabled': True, 'CgroupDriver': 'cgroupfs',
        'SecurityOptions': ['name=seccomp,profile=default'],
        'Runtimes': {'runc': {'path': 'runc'},
                     'nova-vcloud': {'path': '/usr/bin/nova-vcloud-runtime',
                                     'runtimeArgs': ['--links', LINKS]}},
        **changes}


def test_a_host_set_up_as_documented_has_no_problem():
    assert host.check(engine_info(), 'nova-vcloud', LINKS, PARENT) == []
    assert host.check(engine_info(CgroupDriver='systemd'), 'nova-vcloud',
                      LINKS, 'machine.slice') == []


@pytest.mark.parametrize(('changes', 'words'), [
    ({'ServerVersion': '19.03.15'}, ['19.03.15', '20.10']),
    ({'Driver': 'vfs'}, ['vfs', 'storage-driver', 'overlay2']),
    ({'LiveRestoreEnabled': False}, ['"live-restore": true']),
    ({'Runtimes': {'runc': {'path': 'runc'}}},
     ['nova-vcloud', '"runtimes"', LINKS, 'daemon.json']),
    ({'Runtimes': {'nova-vcloud': {'path': 'x', 'runtimeArgs':
                                   ['--links', '/elsewhere']}}},
     ['/elsewhere', 'runtime_links_path', LINKS]),
    ({'CgroupDriver': 'systemd'}, ['cgroup_parent', PARENT, 'machine.slice']),
])
def test_each_lack_is_named_with_its_cure(changes, words):
    problems = host.check(engine_info(**changes), 'nova-vcloud', LINKS,
                          PARENT)
    assert len(problems) == 1
    for word in words:
        assert word in problems[0]


@pytest.mark.parametrize(('text', 'version'), [
    ('20.10.24+dfsg1', (20, 10, 24)),
    ('26.1.5', (26, 1, 5)),
    ('28.0.0-rc.1', (28, 0, 0)),
])
def test_engine_versions_are_compared_as_numbers(text, version):
    assert host.version_of({'ServerVersion': text}) == version


def test_an_engine_that_never_answers_stops_the_start(tmp_path):
    socket = tmp_path / 'docker.sock'
    quiet = host.Host(Engine(f'unix://{socket}'), 'compute1', 'nova-vcloud',
                      LINKS, PARENT)
    with pytest.raises(exception.HostNotReady, match=r'docker\.sock.*url'):
        quiet.wait_ready(0)


def test_inventory_never_reserves_more_than_there_is():
    facts = host.Facts(vcpus=2, memory_mb=4096, memory_used_mb=100,
                       disk_gb=0, disk_used_gb=0, engine_version=(20, 10, 24),
                       architecture='x86_64', containers=0, root='/')
    cpus = host.cpus(None, None, 'prefer')
    ratios = {'VCPU': 4.0, 'MEMORY_MB': 1.0, 'DISK_GB': 1.0}
    reserved = {'VCPU': 0, 'MEMORY_MB': 9999, 'DISK_GB': 1}
    found = host.inventory(facts, cpus, ratios, reserved)
    assert set(found) == {'VCPU', 'MEMORY_MB'}  # Placement refuses total 0
    assert found['MEMORY_MB']['reserved'] == 4096
    count = os.cpu_count()
    assert found['VCPU'] == {
        'total': count, 'reserved': 0, 'min_unit': 1, 'max_unit': count,
        'step_size': 1, 'allocation_ratio': 4.0}


def test_dedicated_cpus_are_a_class_of_their_own():
    facts = host.Facts(vcpus=2, memory_mb=4096, memory_used_mb=100,
                       disk_gb=0, disk_used_gb=0, engine_version=(20, 10, 24),
                       architecture='x86_64', containers=0, root='/')
    found = host.inventory(
        facts, host.cpus('0', '1', 'prefer'),
        {'VCPU': 4.0, 'MEMORY_MB': 1.0, 'DISK_GB': 1.0},
        {'VCPU': 0, 'PCPU': 0, 'MEMORY_MB': 0, 'DISK_GB': 0})
    assert (found['VCPU']['total'], found['PCPU']['total']) == (1, 1)
    assert found['PCPU']['allocation_ratio'] == 1.0


@pytest.mark.parametrize(('shared', 'dedicated', 'words'), [
    ('0,4095', None, 'cpu_shared_set names CPUs 4095'),
    (None, '4095', 'cpu_dedicated_set names CPUs 4095'),
    ('0', '0', 'CPUs 0 are both')])
def test_cpus_that_are_not_there_stop_the_start(shared, dedicated, words):
    with pytest.raises(exception.HostNotReady, match=words):
        host.cpus(shared, dedicated, 'prefer')


def test_without_options_servers_share_all_cpus():
    found = host.cpus(None, None, 'prefer')
    assert found.shared == frozenset(found.topology.cpus)
    assert found.dedicated == frozenset()
    assert host.cpus(None, '0', 'prefer').shared == frozenset()


def test_traits_of_the_cpus_replace_those_of_others(tmp_path):
    path = tmp_path / 'cpuinfo'
    path.write_text('processor\t: 0\nflags\t\t: fpu pni pclmulqdq sse4_1 '
                    'avx2 avx512_vnni sha_ni svm\nbugs\t: sse4_2\n')
    assert host.with_cpu_traits(
        {'CUSTOM_GOLD', 'COMPUTE_NODE', 'HW_CPU_X86_AVX512F',
         'HW_CPU_X86_AVX2'}, str(path)) == {
        'CUSTOM_GOLD', 'COMPUTE_NODE', 'HW_CPU_X86_SSE3',
        'HW_CPU_X86_CLMUL', 'HW_CPU_X86_SSE41', 'HW_CPU_X86_AVX2',
        'HW_CPU_X86_AVX512VNNI', 'HW_CPU_X86_SHA'}
