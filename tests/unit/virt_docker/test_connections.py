# SPDX-License-Identifier: Apache-2.0
"""What os-brick is told of the host."""

from nova_vcloud.virt_docker.volumes import connections


def test_a_share_brings_no_programs_to_the_host():
    known = connections.Connections('127.0.0.1', 'compute1', '/mnt/base')
    made = known._connector({'driver_volume_type': 'nfs',
                             'data': {'export': 'server:/share'}})
    assert made._remotefsclient._mount_options == 'nosuid,nodev,noexec'
    assert made._remotefsclient._mount_base == '/mnt/base'
