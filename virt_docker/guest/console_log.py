# SPDX-License-Identifier: Apache-2.0
"""The end of a server's console, as the engine's json-file log has it.

The engine stops at the first line that is damaged, as one is when a host has
lost power, and tells of none of the later ones. Here what cannot be read is
left out.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import os

from nova_vcloud import privsep

#: Of each file; [docker] log_max_size_kib is far less.
_MAX_SIZE = 16 << 20  # bytes
#: How each line of the engine begins.
_BEGIN = b'{"log":'


def tail(path: str, limit: int) -> bytes | None:
    """Return the last bytes that a server has written to its console.

    :param path: of the log, as the engine tells it; rotated ones are beside
    :param limit: bytes
    :returns: None when there is no log that can be read here
    """
    found = _read(path)
    if found is None:
        return None
    text, size = [], 0
    for lines in found:
        said = b''.join(_messages(lines))
        text.append(said)
        size += len(said)
        if size >= limit:
            break
    return b''.join(reversed(text))[-limit:] if limit else b''


@privsep.disk.entrypoint
def _read(path: str) -> list[bytes] | None:
    """Return a log and those before it, the newest first."""
    found, size, number = [], 0, 0
    while size < _MAX_SIZE:
        name = f'{path}.{number}' if number else path
        try:
            with open(name, 'rb') as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_SIZE))
                found.append(file.read(_MAX_SIZE))
        except FileNotFoundError:
            break
        size += len(found[-1])
        number += 1
    return found if number else None


def _messages(lines: bytes) -> Iterator[bytes]:
    """Yield what each line of a log says, but those that cannot be read."""
    for line in lines.split(b'\n'):
        # A torn line has no end: the next one is behind it.
        begin = line.rfind(_BEGIN)
        while begin >= 0:
            try:
                said = json.loads(line[begin:])['log']
                yield said.encode(errors='surrogatepass')
                break
            except (ValueError, KeyError, AttributeError):
                begin = line.rfind(_BEGIN, 0, begin)
