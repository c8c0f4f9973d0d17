# SPDX-License-Identifier: Apache-2.0
"""What the host must have, and what it offers Placement."""

import pytest

from nova_vcloud import exception
from nova_vcloud.engine import Engine
from nova_vcloud.virt_docker import host

LINKS = '/run/nova-vcloud/netns'


def engine_info(**changes):
    """Return the answer of an engine that is set up as documented."""
    return {
        'ServerVersion': '20.10.24+dfsg1', 'Driver': 'overlay2',
        'LiveRestoreEnabled': True,
        'Runtimes': {'runc': {'path': 'runc'},
                     'nova-vcloud': {'path': '/usr/bin/nova-vcloud-runtime',
                                     'runtimeArgs': ['--links', LINKS]}},
        **changes}


def test_a_host_set_up_as_documented_has_no_problem():
    assert host.check(engine_info(), 'nova-vcloud', LINKS) == []


@pytest.mark.parametrize(('changes', 'words'), [
    ({'ServerVersion': '19.03.15'}, ['19.03.15', '20.10']),
    ({'Driver': 'vfs'}, ['vfs', 'storage-driver', 'overlay2']),
    ({'LiveRestoreEnabled': False}, ['"live-restore": true']),
    ({'Runtimes': {'runc': {'path': 'runc'}}},
     ['nova-vcloud', '"runtimes"', LINKS, 'daemon.json']),
    ({'Runtimes': {'nova-vcloud': {'path': 'x', 'runtimeArgs':
                                   ['--links', '/elsewhere']}}},
     ['/elsewhere', 'runtime_links_path', LINKS]),
])
def test_each_lack_is_named_with_its_cure(changes, words):
    problems = host.check(engine_info(**changes), 'nova-vcloud', LINKS)
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
                      LINKS)
    with pytest.raises(exception.HostNotReady, match=r'docker\.sock.*url'):
        quiet.wait_ready(0)


def test_inventory_never_reserves_more_than_there_is():
    facts = host.Facts(vcpus=2, memory_mb=4096, memory_used_mb=100,
                       disk_gb=0, disk_used_gb=0, engine_version=(20, 10, 24),
                       architecture='x86_64', containers=0)
    ratios = {'VCPU': 4.0, 'MEMORY_MB': 1.0, 'DISK_GB': 1.0}
    reserved = {'VCPU': 0, 'MEMORY_MB': 9999, 'DISK_GB': 1}
    found = host.inventory(facts, ratios, reserved)
    assert set(found) == {'VCPU', 'MEMORY_MB'}  # Placement refuses total 0
    assert found['MEMORY_MB']['reserved'] == 4096
    assert found['VCPU'] == {
        'total': 2, 'reserved': 0, 'min_unit': 1, 'max_unit': 2,
        'step_size': 1, 'allocation_ratio': 4.0}
