# SPDX-License-Identifier: Apache-2.0
"""Reads archives that another host has sent, of which nothing is believed."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import signal
import subprocess
from typing import IO
from typing import cast

from nova_vcloud import exception
from nova_vcloud import privsep
from nova_vcloud import regular_files
from nova_vcloud.transfer import spool
from nova_vcloud.virt_docker.rootfs import confine

_CHUNK = 1 << 20


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a file of a spool.

    :raises MoveFailed: there is no such file there, but something else
    """
    try:
        with spool.open_file(path) as source:
            yield source
    except (FileNotFoundError, spool.Refused) as e:
        raise exception.MoveFailed(str(e)) from e


def extract(source: IO[bytes], folder: str, options: list[str], member: str,
            most: int | None = None, namespace: int | None = None) -> None:
    """Unpack a member of an archive, and what is below it.

    :param source: a file, which is read from its start, or a pipe
    :param folder: outside of which nothing can be reached
    :param most: bytes of the largest file
    :param namespace: user namespace by which its owners are translated
    :raises MoveFailed: with tar's words
    """
    if source.seekable():
        os.lseek(source.fileno(), 0, os.SEEK_SET)
    # What comes by standard input is never decompressed by it.
    done = subprocess.run(
        confine.words(folder, ['tar', '--extract', '--file', '-',
                               '--numeric-owner', *options, '--', member],
                      most, namespace),
        stdin=source, capture_output=True, check=False,
        pass_fds=() if namespace is None else (namespace,))
    if done.returncode == -signal.SIGXFSZ:
        raise exception.MoveFailed(f'tar: {member} has more than {most} bytes')
    if done.returncode:
        lines = done.stderr.decode(errors='replace').strip().splitlines()
        reason = (lines or ['no reason given'])[0]
        raise exception.MoveFailed(f'tar: {reason.removeprefix("tar: ")}')


def members(source: IO[bytes], pattern: str, most: int, *options: str
            ) -> Iterator[bytes]:
    """Yield bytes of members of an archive, one after the other.

    Their names are not used for anything.

    :param most: bytes; what is beyond is left out
    """
    os.lseek(source.fileno(), 0, os.SEEK_SET)
    words = ['tar', '--extract', '--to-stdout', '--file', '-', '--wildcards',
             '--no-wildcards-match-slash', *options, '--', pattern]
    with subprocess.Popen(words, stdin=source, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as tar:
        out = cast('IO[bytes]', tar.stdout)
        while most and (chunk := out.read(min(_CHUNK, most))):
            most -= len(chunk)
            yield chunk
        tar.kill()


@privsep.disk.entrypoint
def unpack_file(path: str, folder: str, name: str, most: int) -> None:
    """Unpack one regular file; it gets the owner of the directory.

    :param path: the archive, in a spool
    :param folder: nobody else works in it
    :param most: bytes that the file may have
    :raises MoveFailed: the archive has something else
    """
    if most <= 0:  # which means no bound to what unpacks it
        raise exception.MoveFailed(
            f'{name} has come, and the flavor allows no such disk')
    with opened(path) as source:
        extract(source, folder, ['--no-same-owner', '--sparse'], name, most)
    # A link to a file of this host would be that file.
    try:
        file = regular_files.open_to_read(os.path.join(folder, name))
    except OSError as e:
        raise exception.MoveFailed(f'{name} has come as no file') from e
    with file:
        status, owner = os.fstat(file.fileno()), os.stat(folder)
        if status.st_nlink != 1:
            raise exception.MoveFailed(f'{name} has come as no file')
        if status.st_size > most:
            raise exception.MoveFailed(
                f'{name} has {status.st_size} bytes, and the flavor allows '
                f'{most}')
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)


@privsep.disk.entrypoint
def remove(folder: str) -> None:
    """Remove the directory of :func:`unpack_file`; absent is fine."""
    # Not shutil: an archive may have directories that are nested deeper than
    # Python can call.
    subprocess.run(['rm', '-rf', '--one-file-system', '--', folder],
                   check=False, capture_output=True)
