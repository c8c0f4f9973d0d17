# SPDX-License-Identifier: Apache-2.0
"""What is read of how a server's image wants it to be run."""

from nova import objects
import pytest

from nova_vcloud.virt_docker import startup


def server(**image):
    return objects.Instance(uuid='00000000-0000-4000-8000-000000000001',
                            system_metadata=image)


@pytest.mark.parametrize(('image', 'seconds'), [
    ({}, 60), ({'image_os_shutdown_timeout': '5'}, 5),
    ({'image_os_shutdown_timeout': 'soon'}, 60)])
def test_the_time_to_end_is_the_images_or_novas(image, seconds):
    assert startup.stop_timeout(server(**image), 60) == seconds


def test_properties_are_of_the_servers_own_image():
    instance = server(image_vcloud_init='tini', boot_roles='member')
    assert startup.properties(instance, True) == {'vcloud_init': 'tini'}
    assert startup.properties(instance, False) == {}
