# SPDX-License-Identifier: Apache-2.0
"""User namespaces as this host's engine has them: checks at start."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import re
from typing import Any

from nova_vcloud import idmounts
from nova_vcloud import privsep
from nova_vcloud import userns
from nova_vcloud.virt_docker import server_labels

DAEMON_JSON = '"userns-remap": "default"'
#: What an engine keeps of one map is in a directory with this name.
_MAPPED = re.compile(r'\d+\.\d+')


def check(info: Mapping[str, Any], host: str, required: bool) -> list[str]:
    """Return what must be changed before servers can run, if anything.

    :param info: ``GET /info`` of the engine
    :param host: nova-compute's host name
    :param required: whether servers must have user namespaces
    """
    root, problems = info['DockerRootDir'], []
    try:
        ids = userns.of_engine(info)
    except (LookupError, OSError) as e:
        return [(f'The engine has user namespaces, and their ids are not '
                f'known: {e}.')]
    if ids is None and required:
        problems.append(
            f'[docker] require_user_namespaces is set: add {DAEMON_JSON} to '
            'daemon.json.')
    reason = ids and _why_no_view(root, ids)
    if reason:
        problems.append(
            'Servers with user namespaces cannot be moved, nor have volumes, '
            f'here ({reason}): have Linux {idmounts.KERNEL} or newer and '
            f'{root} on ext4 or xfs, or remove "userns-remap" from '
            'daemon.json.')
    hidden = _hidden(root, host)
    if hidden:
        problems.append(
            f'It does not show {len(hidden)} servers that are in '
            f'{hidden[0]}: it had another "userns-remap" when they were '
            'made. Have it as it was, move the servers to another host, and '
            'change it then.')
    return problems


@privsep.disk.entrypoint
def _why_no_view(root: str, ids: list[list[list[int]]]) -> str:
    return idmounts.why_not(root, userns.IdMap(*ids))


@privsep.disk.entrypoint
def _hidden(root: str, host: str) -> list[str]:
    """Return directories of this host's containers under another map."""
    here = pathlib.Path(root)
    top = here.parent if _MAPPED.fullmatch(here.name) else here
    places = [top, *(each for each in top.iterdir()
                     if _MAPPED.fullmatch(each.name))]
    return [str(path.parent) for place in places if place != here
            for path in place.glob('containers/*/config.v2.json')
            if _is_ours(path, host)]


def _is_ours(path: pathlib.Path, host: str) -> bool:
    try:
        labels = json.loads(path.read_text())['Config']['Labels'] or {}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(labels.get(server_labels.HOST) == host)
