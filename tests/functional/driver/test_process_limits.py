# SPDX-License-Identifier: Apache-2.0
"""What processes of a server find: /dev/shm, and files they may open."""

import computehost
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import live_processes

HARD = min(524288, live_processes.most_files())
FILES = 'ulimit -Sn; ulimit -Hn'
SHM = "df -k /dev/shm | awk 'END {print $2}'"


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path)
    yield found
    for server in list(found.containers.list()):
        found.containers.destroy(server)


def shm(host, instance):
    """Return the MiB of /dev/shm."""
    return int(host.inside(instance, SHM)) >> 10


def files(host, instance):
    """Return the limits of open files of the first process."""
    line = host.inside(instance, "grep 'open files' /proc/1/limits")
    return tuple(int(word) for word in line.split()[3:5])


def test_a_server_has_what_a_machine_of_its_memory_has(host):
    instance = host.instance(memory_mb=128)
    host.spawn(instance, host.ports())
    assert shm(host, instance) == 64
    assert files(host, instance) == (1024, HARD)
    assert host.inside(instance, FILES) == f'1024\n{HARD}\n'
    other = host.instance(memory_mb=96)
    host.spawn(other, host.ports())
    assert shm(host, other) == 48


@pytest.mark.parametrize(('specs', 'properties', 'found'), [
    ({'vcloud__shm_mb': '16', 'vcloud__nofile': '100:200'}, {},
     (16, (100, 200))),
    ({}, {'image_vcloud_shm_mb': '8', 'image_vcloud_nofile': '300'},
     (8, (300, 300))),
    ({'vcloud__shm_mb': '64'}, {'image_vcloud_shm_mb': '8'},
     (64, (1024, HARD)))])
def test_flavor_and_image_say_otherwise(host, specs, properties, found):
    instance = host.instance(**specs)
    instance.system_metadata = properties
    host.spawn(instance, host.ports())
    assert (shm(host, instance), files(host, instance)) == found


@pytest.mark.parametrize('specs', [
    {'vcloud__shm_mb': '65'}, {'vcloud__shm_mb': 'much'},
    {'vcloud__nofile': '20:10'}, {'vcloud__nofile': '1048577'}])
def test_what_cannot_be_is_refused(host, specs):
    instance = host.instance(**specs)
    (key,) = specs
    with pytest.raises(exception.InvalidRequest,
                       match=key.replace('__', ':')):
        host.spawn(instance, host.ports())


def test_a_resize_is_followed_while_the_server_runs_and_stays(host):
    instance, ports = host.instance(memory_mb=64), host.ports()
    host.spawn(instance, ports)
    host.inside(instance, '(ulimit -n 77; exec sleep 1000) & '
                          'echo mine >/dev/shm/file')
    flavor = host.flavor(memory_mb=256, vcloud__nofile=f'2048:{HARD}')
    before = host.container(instance)['State']
    host.containers.resize(instance, flavor, ports)
    instance.flavor = flavor
    assert host.container(instance)['State'] == before
    assert host.inside(instance, 'cat /dev/shm/file') == 'mine\n'
    assert (shm(host, instance), files(host, instance)) == (128, (2048, HARD))
    # What a process has chosen itself stays.
    assert host.inside(
        instance, "grep -h 'open files' $(grep -l 1000 /proc/[0-9]*/cmdline |"
        ' sed s/cmdline/limits/)').split()[3:5] == ['77', '77']
    for again in (lambda: host.containers.reboot(instance, ports, 0),
                  lambda: (host.containers.stop(instance.uuid, 0),
                           host.containers.start(instance, ports))):
        again()
        assert (shm(host, instance), files(host, instance)) == (
            128, (2048, HARD))
    flavor = host.flavor(memory_mb=64, vcloud__nofile='99:100')
    host.containers.resize(instance, flavor, ports)
    assert (shm(host, instance), files(host, instance)) == (32, (99, 100))


def test_files_in_shm_are_never_lost_to_a_resize(host):
    instance, ports = host.instance(memory_mb=128), host.ports()
    host.spawn(instance, ports)
    host.inside(instance, 'head -c 40000000 /dev/zero >/dev/shm/file')
    with pytest.raises(exception.LimitNotEnforced,
                       match=r'files in /dev/shm .* more than 32 MiB'):
        host.containers.resize(instance, host.flavor(
            memory_mb=128, vcloud__shm_mb='32'), ports)
    assert shm(host, instance) == 64
    assert not host.keeper.status(instance.uuid).drift


def test_a_link_in_the_place_of_shm_leads_nowhere(host, dockerd):
    """Who has removed it has none, and is resized all the same."""
    instance, ports = host.instance(memory_mb=64), host.ports()
    host.spawn(instance, ports)
    host.inside(instance, 'mv /dev/shm /dev/old; ln -s /tmp /dev/shm')
    host.containers.resize(instance, host.flavor(memory_mb=128), ports)
    assert not host.keeper.status(instance.uuid).drift
