# SPDX-License-Identifier: Apache-2.0
"""What a new server finds in its files: names, keys, files, config drive.

The engine unpacks them before anything of the guest runs.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from collections.abc import Iterator
import io
import posixpath
import tarfile
from typing import Any

from nova import objects
from nova.api.metadata import base as metadata
from nova.virt import configdrive

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import hosts_file
from nova_vcloud.virt_docker.vif import addresses

CLOUD = '/var/lib/cloud'
AUTHORIZED_KEYS = '/root/.ssh/authorized_keys'
#: Where cloud-init looks for a config drive that is no disk (seed_dir of its
#: DataSourceConfigDrive).
CONFIG_DRIVE = '/var/lib/cloud/seed/config_drive'
#: Where cloud-init keeps what belongs to one server, by its UUID.
INSTANCES = '/var/lib/cloud/instances'

PRIVATE = 0o700
Entry = tuple[str, bytes | None, int]  # path, content of a file, mode


def instance_folder(uuid: str) -> str:
    """Return the folder of a server's own user data."""
    return f'{INSTANCES}/{uuid}'


def archive(instance: objects.Instance, network_info: Any,
            injected: Iterable[tuple[str, bytes]] = (),
            admin_password: str | None = None) -> bytes:
    """Return a tar of what a new server finds.

    :param network_info: Nova's network model
    :param injected: (path, content) of the files a user has sent
    :raises InvalidRequest: a path that is not of a file
    """
    entries = [*_names(instance, network_info), *_keys(instance)]
    if configdrive.required_by(instance):
        entries += _config_drive(instance, network_info, injected,
                                 admin_password)
    entries += _user_data(instance)
    entries += _injected(injected)
    return tar(entries)


def _names(instance: objects.Instance, network_info: Any) -> Iterator[Entry]:
    for path, text in hosts_file.files(instance.hostname,
                                       addresses.plan(network_info or ())):
        yield path, text.encode(), 0o644


def _keys(instance: objects.Instance) -> Iterator[Entry]:
    if instance.key_data:
        yield posixpath.dirname(AUTHORIZED_KEYS), None, PRIVATE
        yield (AUTHORIZED_KEYS, instance.key_data.strip().encode() + b'\n',
               0o600)


def user_data(instance: objects.Instance) -> bytes:
    """Return the user data, b'' for none; the API has checked its form."""
    return base64.b64decode(instance.user_data or '')


def _user_data(instance: objects.Instance) -> Iterator[Entry]:
    data = user_data(instance)
    if data:
        folder = instance_folder(instance.uuid)
        for above in (CLOUD, INSTANCES, folder):
            yield above, None, 0o755
        # It may hold a password.
        yield f'{folder}/user-data.txt', data, 0o600


def _injected(files: Iterable[tuple[str, bytes]]) -> Iterator[Entry]:
    for path, content in files:
        whole = posixpath.normpath('/' + path)
        if whole == '/' or path.endswith('/') or '\0' in path:
            raise exception.InvalidRequest(
                f'{path!r} is not the path of a file')
        yield whole, content, 0o644


def _config_drive(instance: objects.Instance, network_info: Any,
                  injected: Iterable[tuple[str, bytes]],
                  admin_password: str | None) -> Iterator[Entry]:
    """Yield what would be on the disk, as Nova makes it for any driver."""
    extra = {'admin_pass': admin_password} if admin_password else {}
    found = metadata.InstanceMetadata(
        instance, content=list(injected), extra_md=extra,
        network_info=network_info)
    files = dict(found.metadata_for_config_drive())
    for above in (CLOUD, posixpath.dirname(CONFIG_DRIVE)):
        yield above, None, 0o755
    folders = {posixpath.dirname(path) for path in files}
    folders |= {above for folder in folders for above in _above(folder)}
    # It may hold a password.
    for folder in sorted({'', *folders}):
        yield posixpath.join(CONFIG_DRIVE, folder), None, PRIVATE
    for path, content in files.items():
        yield (posixpath.join(CONFIG_DRIVE, path),
               content.encode() if isinstance(content, str) else content,
               0o600)


def _above(folder: str) -> Iterator[str]:
    while folder := posixpath.dirname(folder):
        yield folder


def tar(entries: Iterable[Entry]) -> bytes:
    """Return a tar of what is root's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as packed:
        for path, content, mode in entries:
            member = tarfile.TarInfo(path.strip('/'))
            member.mode = mode
            if content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            packed.addfile(member, io.BytesIO(content or b''))
    return out.getvalue()
