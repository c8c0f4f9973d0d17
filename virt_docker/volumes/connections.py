# SPDX-License-Identifier: Apache-2.0
"""Storage that a host is connected to, by OpenStack's own library for it."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
from typing import Any

import os_brick
from os_brick import exception as brick_exception
from os_brick.initiator import connector
from oslo_concurrency import processutils

from nova_vcloud import exception

HELPER = ''  # os-brick's own privsep daemon does what root must
#: How a share is mounted: it has files with volumes, and no programs.
SHARE_OPTIONS = 'nosuid,nodev,noexec'


def in_process() -> None:
    """Let os-brick work in this process: it is root, so needs no daemon."""
    for context in (os_brick.privileged.default,
                    os_brick.privileged.brick_privsep_hide_output):
        context.set_client_mode(False)


class Connections:
    """Connections of this host to volumes.

    :param address: by which storage reaches this host
    :param host: nova-compute's host name
    :param nfs_base: folder of the mounts of NFS shares
    :param multipath: whether volumes with several paths use them all
    """

    def __init__(self, address: str, host: str, nfs_base: str,
                 multipath: bool = False) -> None:
        self._address = address
        self._host = host
        self._nfs_base = nfs_base
        self._multipath = multipath

    def properties(self) -> dict[str, Any]:
        """Return what Cinder must know of this host."""
        with _errors():
            return dict(connector.get_connector_properties(
                HELPER, self._address, self._multipath,
                enforce_multipath=self._multipath, host=self._host))

    def connect(self, connection: Mapping[str, Any]) -> str:
        """Return the path of a volume's file or block device here.

        :param connection: Nova's connection_info
        :raises VolumeError: with the reason
        """
        data = connection['data']
        if data.get('format') not in (None, 'raw'):
            raise exception.VolumeError(
                f'the volume is a file of format {data["format"]}; only raw '
                'ones can be used')
        with _errors():
            found = self._connector(connection).connect_volume(dict(data))
        path = (found or {}).get('path')
        if not isinstance(path, str | bytes):
            raise exception.VolumeError('the volume has no path on this host')
        if not os.path.isabs(path):
            # It would be an option of a program, or a file of who knows where.
            raise exception.VolumeError(
                f'the volume has the path {os.fsdecode(path)!r} on this '
                'host, which is not absolute')
        return os.fsdecode(path)

    def disconnect(self, connection: Mapping[str, Any], path: str) -> None:
        """Give up a connection; none is fine.

        :param path: what :meth:`connect` returned
        :raises VolumeError: with the reason
        """
        with _errors():
            self._connector(connection).disconnect_volume(
                dict(connection['data']), {'path': path})

    def extend(self, connection: Mapping[str, Any]) -> None:
        """Learn the new size of a volume that is a block device.

        :raises VolumeError: with the reason
        """
        with _errors():
            self._connector(connection).extend_volume(
                dict(connection['data']))

    def _connector(self, connection: Mapping[str, Any]) -> Any:
        return connector.InitiatorConnector.factory(
            connection['driver_volume_type'], HELPER,
            use_multipath=self._multipath, conn=dict(connection),
            nfs_mount_point_base=self._nfs_base,
            nfs_mount_options=SHARE_OPTIONS, do_local_attach=True)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (brick_exception.BrickException, ValueError, KeyError, OSError,
            NotImplementedError, processutils.ProcessExecutionError) as e:
        raise exception.VolumeError(
            f'the storage could not be reached: {e}') from e
