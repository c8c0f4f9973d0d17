# SPDX-License-Identifier: Apache-2.0
"""``nova-vcloud-receive``: takes servers' data from other hosts, by ssh.

The ssh server runs it for the key of the other hosts, with the lowest of
privileges; nova-compute unpacks. Only the standard library is imported: the
server that moves is down meanwhile.
"""

import argparse
import contextlib
import fcntl
import hashlib
import io
import os
import re
import shlex
import shutil
import sys
from typing import BinaryIO
from typing import NoReturn

VERSION = 'nova-vcloud-receive 1'
CHUNK = 1 << 20
MAX_PAPERS = 1 << 20
PAPERS = 'papers.json'
#: Of what is left when a server has arrived.
RESERVE = 64 << 20

_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_NAME = re.compile(r'[a-z][a-z0-9.-]{0,40}')


class Refused(Exception):
    """What was asked for is not done; says why."""


class _Parser(argparse.ArgumentParser):
    """One that does not end the process."""

    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def parser() -> argparse.ArgumentParser:
    """Return the parser of what other hosts ask for."""
    words = _Parser(prog='nova-vcloud-receive', description=__doc__)
    verbs = words.add_subparsers(dest='verb', required=True)
    verb = verbs.add_parser(
        'begin', help='make room for a server; its papers are a line on '
                      'standard input, whose end is waited for')
    verb.add_argument('server')
    verb.add_argument('bytes', type=int)
    verb = verbs.add_parser('put', help='store what comes on standard input')
    verb.add_argument('server')
    verb.add_argument('name')
    verb = verbs.add_parser('drop', help='remove what there is of a server')
    verb.add_argument('server')
    return words


def folder(spool: str, server: str) -> str:
    """Return the directory of a server's data.

    :raises Refused: not the UUID of a server
    """
    if not _UUID.fullmatch(server):
        raise Refused(f'{server!r} is not the UUID of a server')
    return os.path.join(spool, server)


def begin(spool: str, server: str, size: int, papers: BinaryIO) -> str:
    """Make a directory for a server, with nothing but its papers.

    :param size: bytes that are to come
    :param papers: what nova-compute wants to know of it
    :raises Refused: there is no room for them
    """
    free = shutil.disk_usage(spool).free
    if size + RESERVE > free:
        raise Refused(f'{spool} has room for {free >> 20} MiB, the server '
                      f'has {size >> 20} MiB')
    drop(spool, server)
    os.mkdir(folder(spool, server), mode=0o700)
    line = papers.readline(MAX_PAPERS)
    put(spool, server, PAPERS, io.BytesIO(line.rstrip(b'\n')))
    return VERSION


def put(spool: str, server: str, name: str, source: BinaryIO) -> str:
    """Store a file; return '<sha256 in hex> <bytes>'.

    It has its name when it is whole.

    :raises Refused: the name is none of ours
    """
    if not _NAME.fullmatch(name):
        raise Refused(f'{name!r} is not the name of a file')
    path = os.path.join(folder(spool, server), name)
    digest, size = hashlib.sha256(), 0
    with contextlib.suppress(OSError):  # no pipe, or more than one may have
        fcntl.fcntl(source.fileno(), fcntl.F_SETPIPE_SZ, CHUNK)
    with open(f'{path}.part', 'xb', buffering=0) as f:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[f.write(view):]
            size += len(chunk)
    os.replace(f'{path}.part', path)
    return f'{digest.hexdigest()} {size}'


def drop(spool: str, server: str) -> str:
    """Remove what there is of a server; nothing is fine."""
    shutil.rmtree(folder(spool, server), ignore_errors=True)
    return ''


def run(spool: str, words: list[str], source: BinaryIO) -> str:
    """Do what another host asks for; return what it is told.

    :raises Refused: with the reason
    """
    try:
        asked = parser().parse_args(words)
        if asked.verb == 'begin':
            return begin(spool, asked.server, asked.bytes, source)
        if asked.verb == 'put':
            return put(spool, asked.server, asked.name, source)
        return drop(spool, asked.server)
    except OSError as e:
        raise Refused(f'{e.filename or spool}: {e.strerror}') from e


def main(arguments: list[str] | None = None) -> int:
    """Run; what the ssh client asked for counts, then the arguments."""
    words = argparse.ArgumentParser(
        prog='nova-vcloud-receive', description=__doc__)
    words.add_argument('--spool', default='/var/lib/nova/vcloud-moves',
                       help='[vcloud_migration] spool_path')
    options, rest = words.parse_known_args(arguments)
    asked = os.environ.get('SSH_ORIGINAL_COMMAND')
    if asked is not None:
        # Its first word is the command that a key without one would run.
        rest = shlex.split(asked)[1:]
    try:
        said = run(options.spool, rest, sys.stdin.buffer)
    except Refused as e:
        print(e, file=sys.stderr)
        return 1
    print(said, flush=True)
    # The connection carries the data too: it stays until it is given up.
    while sys.stdin.buffer.read(CHUNK):
        pass
    return 0


if __name__ == '__main__':
    sys.exit(main())
