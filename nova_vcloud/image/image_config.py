# SPDX-License-Identifier: Apache-2.0
"""The configuration of an image, written anew with what a server needs of it.

An engine keeps all of it, copies it for each list it is asked for, and acts
on parts that mean nothing for a server which is a machine: ``VOLUME`` (data
outside of the root disk), ``HEALTHCHECK`` (processes beside the server's own)
and ``ONBUILD`` are left out. Values that stay are those that were there.

The shape is that of the OCI image specification 1.1 (config.md), the fields
of ``config`` are Docker's.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import re
from typing import Any

from nova_vcloud.exception import InvalidImageArchive
from nova_vcloud.image import manifests

MAX_BYTES = 4 << 20  # of the file, as registries allow
#: Bytes of one string that a process is given: MAX_ARG_STRLEN of Linux.
MAX_STRING = (128 << 10) - 1
MAX_WORDS = 256 << 10  # bytes of all that a process is given of one kind
MAX_LABELS = 64 << 10  # bytes of all labels, which each list repeats
MAX_ITEMS = 4096  # of one list or object
MAX_HISTORY = 1 << 20  # bytes; a longer one is left out
#: Labels that are ours say what a container is; no image says that.
OUR_LABELS = 'org.openstack.nova.'

_WORD = re.compile(r'[A-Za-z0-9][A-Za-z0-9._+-]{0,63}')
_DATE = re.compile(r'[0-9T:.Z+-]{1,64}')
_PORT = re.compile(r'[0-9]{1,5}(-[0-9]{1,5})?(/[a-z]{1,8})?')
_TOP = ('architecture', 'os', 'variant', 'os.version')
_HISTORY = {'created': str, 'created_by': str, 'author': str,
            'comment': str, 'empty_layer': bool}


@dataclasses.dataclass(frozen=True)
class Config:
    """A configuration as an engine gets it.

    :ivar diff_ids: digests of its layers as they are unpacked, lowest first
    """

    data: bytes
    diff_ids: tuple[str, ...]


def rewritten(data: bytes, layers: int) -> Config:
    """Read a configuration and write what is known of it anew.

    :param layers: how many its manifest names
    :raises InvalidImageArchive: with what is wrong with it
    """
    if len(data) > MAX_BYTES:
        raise InvalidImageArchive(
            f'its configuration is larger than {MAX_BYTES} bytes')
    found = manifests.read_json(data, 'configuration')
    if not isinstance(found, dict):
        raise _wrong('', 'an object')
    diff_ids = _diff_ids(found.get('rootfs'), layers)
    written: dict[str, Any] = {
        name: _word(name, found[name]) for name in _TOP if found.get(name)}
    written.setdefault('architecture', '')
    written.setdefault('os', '')
    if isinstance(found.get('created'), str) and _DATE.fullmatch(
            found['created']):
        written['created'] = found['created']
    if found.get('author'):
        written['author'] = _string('author', found['author'], 4096)
    written['config'] = _container(found.get('config'))
    written['rootfs'] = {'type': 'layers', 'diff_ids': list(diff_ids)}
    if history := _history(found.get('history'), len(diff_ids)):
        written['history'] = history
    return Config(json.dumps(written).encode(), diff_ids)


def _wrong(name: str, what: str) -> InvalidImageArchive:
    return InvalidImageArchive(
        f'its configuration has {name} that is not {what}' if name
        else f'its configuration is not {what}')


def _large(name: str, limit: int) -> InvalidImageArchive:
    return InvalidImageArchive(
        f'its configuration has {name} of more than {limit} bytes')


def _string(name: str, value: Any, limit: int = MAX_STRING) -> str:
    if not isinstance(value, str) or '\0' in value:
        raise _wrong(name, 'a string')
    if _length(value) > limit:
        raise _large(name, limit)
    return value


def _length(value: str) -> int:
    return len(value.encode('utf-8', 'surrogatepass'))


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise _wrong(name, 'a word')
    return value


def _list(name: str, value: Any) -> list[str]:
    """Return a list of strings, each and all short enough for a process."""
    # Docker takes one string for a list of it.
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise _wrong(name, f'a list of at most {MAX_ITEMS} strings')
    words = [_string(name, each) for each in items]
    if sum(map(_length, words)) > MAX_WORDS:
        raise _large(name, MAX_WORDS)
    return words


def _labels(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise _wrong(name, f'at most {MAX_ITEMS} names with values')
    found = {_string(name, key): _string(name, each)
             for key, each in value.items()
             if not key.lower().startswith(OUR_LABELS)}
    if sum(_length(key) + _length(each)
           for key, each in found.items()) > MAX_LABELS:
        raise _large(name, MAX_LABELS)
    return found


def _ports(name: str, value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS or not all(
            map(_PORT.fullmatch, value)):
        raise _wrong(name, f'at most {MAX_ITEMS} ports')
    return {key: {} for key in value}


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, 'true or false')
    return value


_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    'User': _string, 'WorkingDir': _string, 'StopSignal': _string,
    'Env': _list, 'Entrypoint': _list, 'Cmd': _list, 'Shell': _list,
    'Labels': _labels, 'ExposedPorts': _ports, 'ArgsEscaped': _flag}
_SHORT = {'User': 512, 'WorkingDir': 4095, 'StopSignal': 64}  # bytes


def _container(found: Any) -> dict[str, Any]:
    """Return what a server is started with."""
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _wrong('config', 'an object')
    written = {name: read(name, found[name])
               for name, read in _FIELDS.items()
               if found.get(name) is not None}
    for name, limit in _SHORT.items():
        _string(name, written.get(name, ''), limit)
    return written


def _diff_ids(rootfs: Any, layers: int) -> tuple[str, ...]:
    match rootfs:
        case {'diff_ids': list(found)} if (
                len(found) == layers <= manifests.MAX_LAYERS and all(
                    isinstance(each, str) and manifests.is_digest(each)
                    for each in found)):
            return tuple(found)
    raise InvalidImageArchive(
        'its configuration does not describe the layers of its manifest: at '
        f'most {manifests.MAX_LAYERS}, each by its sha256 digest')


def _history(found: Any, layers: int) -> list[dict[str, Any]]:
    """Return how the image was made; nothing where that says nothing.

    It is for people alone: one that is too long is not worth a refusal.
    """
    if not isinstance(found, list) or len(found) > MAX_ITEMS:
        return []
    written = [_event(each) for each in found]
    if (sum(not each.get('empty_layer') for each in written) != layers
            or len(json.dumps(written)) > MAX_HISTORY):
        return []
    return written


def _event(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        return {}
    written = {name: found[name] for name, kind in _HISTORY.items()
               if isinstance(found.get(name), kind)}
    if not _DATE.fullmatch(str(written.get('created', 'Z'))):
        del written['created']
    return written
