# SPDX-License-Identifier: Apache-2.0
"""What is ours among mounts and namespaces."""

import pathlib

from mini import leftovers
from mini import network

MOUNTINFO = r"""
21 1 254:0 / / rw - ext4 /dev/vda rw
30 21 0:50 / /var/lib/mini/compute1/docker/overlay2/ab/merged rw - overlay
31 30 0:51 / /var/lib/mini/compute1/docker/overlay2/ab/merged/dev rw - tmpfs
32 21 0:52 / /var/lib/mini2/compute1/docker/overlay2/ab/merged rw - overlay
33 21 0:53 / /var/lib/mini/with\040space rw - tmpfs tmpfs rw
34 21 0:54 / /run/netns/trial-lan rw - nsfs nsfs rw
"""[1:]


def test_mounts_are_ours_only_below_our_folder_and_deepest_first():
    found = leftovers.mounts_under(MOUNTINFO, pathlib.Path('/var/lib/mini'))

    assert found == [
        '/var/lib/mini/with space',
        '/var/lib/mini/compute1/docker/overlay2/ab/merged/dev',
        '/var/lib/mini/compute1/docker/overlay2/ab/merged',
    ]


def test_namespaces_are_ours_by_name_or_by_a_host_prefix(cloud):
    uuid = '6f70656e-7374-6163-6b20-697066697665'
    present = [
        'trial-lan',
        'trial-compute1',
        'trial-compute2',
        'trial-compute10',
        f'trial-c1-{uuid}',
        f'trial-c2-{uuid}',
        f'trial-c3-{uuid}',
        f'trial2-c1-{uuid}',
        f'nova-{uuid}',
        'vcloud-lan',
    ]

    assert network.own_namespaces(cloud, present) == [
        'trial-lan',
        'trial-compute1',
        'trial-compute2',
        f'trial-c1-{uuid}',
        f'trial-c2-{uuid}',
    ]
