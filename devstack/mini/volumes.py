# SPDX-License-Identifier: Apache-2.0
"""Cinder of the mini cloud, and the share on which its volumes are.

The kernels that a mini cloud meets often have no NFS, iSCSI or NVMe. All its
hosts are on one machine, so a directory that is bound where an NFS share
would be mounted does what the share would: Cinder and os-brick find it there
and mount nothing.
"""

import functools
import hashlib
import pathlib
import subprocess

from mini import config
from mini import identity
from mini import leftovers
from mini import readiness
from mini import settings
from mini import supervision

DAEMONS = ('cinder-scheduler', 'cinder-volume')


def mount_points(cloud: settings.Cloud) -> list[pathlib.Path]:
    """Return where Cinder and each host look for the share."""
    share = config.SHARE.encode()
    name = hashlib.md5(share, usedforsecurity=False).hexdigest()
    bases = [cloud.data / 'cinder' / 'mnt']
    bases += [host.nfs for host in cloud.hosts]
    return [base / name for base in bases]


def mount_share(cloud: settings.Cloud) -> None:
    """Bind the directory with the volumes to where it is looked for."""
    share = cloud.data / 'cinder' / 'share'
    share.mkdir(parents=True, exist_ok=True)
    table = pathlib.Path('/proc/self/mountinfo').read_text()
    for point in mount_points(cloud):
        point.mkdir(parents=True, exist_ok=True)
        if not leftovers.mounts_under(table, point):
            subprocess.run(['mount', '--bind', share, point], check=True)


def ready(cloud: settings.Cloud, control: supervision.Supervision) -> None:
    """Wait until Cinder's services say that they are up, and have a backend.

    :raises MinicloudError: with the log of one that does not.
    """
    for name in DAEMONS:
        readiness.await_with_log(
            cloud, control, name, functools.partial(_reports, cloud, name)
        )
    readiness.await_with_log(
        cloud, control, DAEMONS[0], lambda: _has_backend(cloud)
    )


def _reports(cloud: settings.Cloud, name: str) -> bool:
    api = identity.connect(cloud).block_storage
    return any(
        service.binary == name and service.state == 'up'
        for service in api.services()
    )


def _has_backend(cloud: settings.Cloud) -> bool:
    """Tell whether the scheduler knows where volumes can be made."""
    return any(identity.connect(cloud).block_storage.backend_pools())
