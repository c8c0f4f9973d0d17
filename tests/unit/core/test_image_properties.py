# SPDX-License-Identifier: Apache-2.0
"""What an image may say of its servers, and what it is told when it cannot."""

import pytest

from nova_vcloud import exception
from nova_vcloud.image import image_properties


@pytest.mark.parametrize(('name', 'text'), [
    ('os_shutdown_timeout', '0'), ('os_shutdown_timeout', '999999999'),
    ('os_command_line', "/sbin/init --say 'two words'"),
    ('os_admin_user', 'ubuntu'), ('hw_cpu_policy', 'dedicated'),
    ('hw_architecture', 'x86_64'), ('os_distro', 'SUSE Linux'),
    ('os_admin_user', ''), ('description', 'two\nlines')])
def test_what_can_be_passes(name, text):
    image_properties.check({name: text})


@pytest.mark.parametrize(('name', 'text'), [
    ('os_shutdown_timeout', '-1'), ('os_shutdown_timeout', '-5'),
    ('os_shutdown_timeout', 'soon'), ('os_shutdown_timeout', '1e9'),
    ('os_shutdown_timeout', '1_0'), ('os_shutdown_timeout', '٣'),
    ('os_shutdown_timeout', '5\n'), ('os_shutdown_timeout', '9' * 200),
    ('os_command_line', "sh -c 'open"), ('os_command_line', ' '),
    ('os_command_line', '/init\n2026-01-01 CRITICAL forged'),
    ('os_command_line', '/init\0'), ('os_admin_user', 'root\nroot'),
    ('os_admin_user', 'Root'), ('os_admin_user', '-x'),
    ('os_admin_user', 'a:b'), ('hw_cpu_policy', 'mine'),
    ('hw_architecture', 'x86\n2026-01-01 ERROR forged'),
    ('architecture', 'a b'), ('os_type', 'linux\x1b[2J'),
    ('os_distro', 'debian\r\nERROR')])
def test_what_cannot_be_is_refused_by_name_in_one_line(name, text):
    with pytest.raises(exception.InvalidRequest,
                       match=f'^image property {name}=') as caught:
        image_properties.check({name: text})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200
