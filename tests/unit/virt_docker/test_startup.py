# SPDX-License-Identifier: Apache-2.0
"""What is read of how a server's image wants it to be run."""

from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import boot_checks
from nova_vcloud.virt_docker.guest import container_spec


def server(**image):
    return objects.Instance(uuid='00000000-0000-4000-8000-000000000001',
                            system_metadata=image)


@pytest.mark.parametrize(('image', 'seconds'), [
    ({}, 60), ({'image_os_shutdown_timeout': '5'}, 5),
    ({'image_os_shutdown_timeout': 'soon'}, 60)])
def test_the_time_to_end_is_the_images_or_novas(image, seconds):
    assert boot_checks.stop_timeout(server(**image), 60) == seconds


def test_properties_are_of_the_servers_own_image():
    instance = server(image_vcloud_init='tini', boot_roles='member')
    assert boot_checks.properties(instance, True) == {'vcloud_init': 'tini'}
    assert boot_checks.properties(instance, False) == {}


V2 = 'cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,relatime'
HYBRID = 'cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0'


@pytest.mark.parametrize('table', [
    '', 'tmpfs /sys/fs/cgroup tmpfs ro,nsdelegate 0 0', f'{V2} 0 0', HYBRID])
def test_systemd_is_refused_where_its_limits_would_be_its_own(
        tmp_path, table):
    path = tmp_path / 'mounts'
    path.write_text(f'proc /proc proc rw 0 0\n{table}\n')
    boot_checks.check_init({'HostConfig': {}}, str(path))
    with pytest.raises(exception.InvalidRequest, match='nsdelegate'):
        boot_checks.check_init({'HostConfig': container_spec.SYSTEMD},
                               str(path))


def test_systemd_runs_where_it_has_control_groups(tmp_path):
    path = tmp_path / 'mounts'
    path.write_text(f'{V2},nsdelegate,memory_recursiveprot 0 0\n')
    boot_checks.check_init({'HostConfig': container_spec.SYSTEMD}, str(path))
