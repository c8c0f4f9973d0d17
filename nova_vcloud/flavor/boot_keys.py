# SPDX-License-Identifier: Apache-2.0
"""How a server is started and what it may: flavor and image, read purely.

What is said of its start by the image property ``vcloud_NAME`` the extra
spec ``vcloud:NAME`` of the flavor says again, and goes before it. What it
may is the flavor's alone: those are made by administrators.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import re
import shlex

from nova_vcloud import exception
from nova_vcloud.flavor import flavor_keys

#: Names of extra specs and image properties, without what is before.
STARTS = ('command', 'entrypoint', 'environment', 'init', 'stop_signal')
PRIVILEGES = ('capabilities', 'devices', 'no_new_privileges')
#: Characters that Nova keeps of an image's property.
_KEPT = 255


@dataclasses.dataclass(frozen=True)
class Boot:
    """What is asked for. None and () are: it is not said.

    :ivar command: words that the first process is given
    :ivar entrypoint: words before them; () is none
    :ivar environment: of the first process, as NAME=value
    :ivar init: what the first process is: 'image' or 'tini', the engine's own,
        which starts that of the image; or 'systemd', which is the image's own
        and has control groups of its own
    """

    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[str, ...] = ()
    init: str = 'image'
    stop_signal: str | None = None
    no_new_privileges: bool | None = None
    capabilities: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def parse(specs: Mapping[str, str], properties: Mapping[str, str]) -> Boot:
    """Return what a flavor and an image ask for.

    :param specs: the flavor's extra specs
    :param properties: the image's
    :raises InvalidRequest: a value that cannot be; the text names it
    """
    for name in PRIVILEGES:
        if f'vcloud_{name}' in properties:
            raise exception.InvalidRequest(
                f'image property vcloud_{name}: an image cannot ask for '
                f'that, only a flavor (vcloud:{name})')
    found = {name: _text(name, specs, properties)
             for name in (*STARTS, *PRIVILEGES)}
    flag = found['no_new_privileges']
    return Boot(
        command=_words(found['command']),
        entrypoint=_words(found['entrypoint']),
        environment=_words(found['environment']) or (),
        init=found['init'] or 'image',
        stop_signal=found['stop_signal'],
        no_new_privileges=flag if flag is None else flag == 'true',
        capabilities=_list(found['capabilities']),
        devices=_list(found['devices']))


def check(boot: Boot, capabilities: Collection[str],
          devices: Collection[str]) -> None:
    """Refuse what the operator of the host does not allow.

    :param capabilities: that a flavor may ask for
    :param devices: paths of those that a flavor may ask for
    :raises InvalidRequest: with the key and the option that has the list
    """
    for name, wanted, allowed in (
            ('capabilities', boot.capabilities, capabilities),
            ('devices', boot.devices, devices)):
        for each in wanted:
            if each not in allowed:
                raise exception.InvalidRequest(
                    f'vcloud:{name}: {each} is not in [docker] '
                    f'allowed_{name} of this host')


def _text(name: str, specs: Mapping[str, str],
          properties: Mapping[str, str]) -> str | None:
    """Return what is said of something, if it can be."""
    key, text = f'vcloud:{name}', specs.get(f'vcloud:{name}')
    if text is None and name in STARTS:
        key, text = f'image property vcloud_{name}', properties.get(
            f'vcloud_{name}')
        if text is not None and len(text.encode()) >= _KEPT:
            raise exception.InvalidRequest(
                f'{key}: Nova does not keep more than {_KEPT - 1} bytes')
    if text is not None:
        spec = flavor_keys.KEYS[f'vcloud:{name}']
        if not (text in spec.choices if spec.choices
                else re.fullmatch(spec.pattern or '', text)):
            raise exception.InvalidRequest(
                f'{key}={text}: not as it should be: {spec.description}')
    return text


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(shlex.split(text))


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(','))) if text else ()
