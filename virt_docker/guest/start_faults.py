# SPDX-License-Identifier: Apache-2.0
"""Which of the engine's refusals every host would repeat, in a tenant's words.

The table is of what Docker 20.10 and 26.1 and runc 1.0 to 1.1 say when a
container is created or started. What is not in it may be the host's fault:
Nova then tries another one.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import re

from nova_vcloud import exception

#: What runc says before it names a program inside the container. A runtime or
#: an init that the host lacks is told of without it, or is excluded below.
_STARTING = (r'(?:unable to start container process|'
             r'starting container process caused): ')
#: A system call and its path may come before what it says.
_PROGRAM = (_STARTING + r'exec: "(?!/sbin/docker-init")(?P<what>[^"]*)": '
            r'(?:\w+ [^:]+: )?')
#: The engine names files by their place on the host.
_INSIDE = r'\S*/merged(?P<what>/\S*?)'

#: (the engine's words, ours); {what} and {why} are groups of the first
FAULTS = tuple((re.compile(pattern, re.IGNORECASE), text)
               for pattern, text in (
    (r'^no command specified',
     ('the image does not say which program to start (CMD or ENTRYPOINT), '
     'nor does its property vcloud_command')),
    ((r'unable to find (?P<kind>user|group) (?P<what>.+?): '
     r'no matching entries in (?P<why>\w+) file'),
     ('the image is to run as {kind} {what}, which its /etc/{why} does not '
     'have')),
    (r'unable to find (?P<kind>user|group) .+?: (?:read|open) ' + _INSIDE
     + r': (?P<why>.*)',
     'the {kind} that the image is to run as is unknown: {what}: {why}'),
    # Its /etc/passwd, or /etc/group, leads to the root.
    ((r'unable to find (?P<kind>user|group) .+?: (?:read|open) \S*/merged: '
     r'(?P<why>.*)'),
     ('the {kind} that the image is to run as is unknown: what should be '
     '/etc/passwd or /etc/group cannot be read: {why}')),
    (r'^\w+ ' + _INSIDE + r': (?P<why>file name too long)',
     'a path that the image names is too long: {what}'),
    (r'uids and gids must be in range (?P<why>\S+)',
     ('the number of the user or group that the image is to run as is not in '
     '{why}')),
    (_PROGRAM + r'(?:no such file or directory|executable file not found)',
     'the image has no program "{what}", which it is to start with'),
    (_PROGRAM + r'(?P<why>permission denied|is a directory|not a directory|'
     r'exec format error|file name too long|'
     r'too many levels of symbolic links)',
     ('the program "{what}", which the image is to start with, cannot be '
     'executed: {why}')),
    (_STARTING + r'.*chdir to cwd \("(?P<what>[^"]*)"\) set in config\.json '
     r'failed: (?P<why>[^:]*)',
     'the working directory of the image, {what}, cannot be entered: {why}'),
    (r'^cannot mkdir: (?P<what>.*) is not a directory',
     'the working directory of the image, {what}, is not a directory'),
    (r"the working directory '(?P<what>.*)' is invalid",
     'the working directory of the image, {what}, is not an absolute path'),
    (r'evalSymlinksInScope: too many links in ' + _INSIDE + '$',
     'links in the image lead round in a circle: {what}'),
    (r'invalid environment variable:? (?P<what>.*)',
     'an environment variable of the image is not valid: {what}'),
    ((r"environment variable name can't (?:contain null|be empty)[^:]*: "
     r'(?P<what>.*)'),
     'an environment variable of the image is not valid: {what}'),
    (r'invalid signal: (?P<what>.*)',
     'the stop signal of the image is unknown: {what}'),
    (r'^(?P<what>.* in Healthcheck cannot be .*)',
     'the health check of the image is not valid: {what}'),
    (r'minimum memory limit allowed is (?P<what>.*)',
     'the memory of the flavor is less than a container can have, {what}'),
    (r'unable to set memory limit to (?P<what>\d+)',
     'the memory of the flavor, {what} bytes, is too little to start in'),
))


def reason(text: str) -> str:
    """Return what is wrong with image or flavor; '' when it may be the host.

    :param text: the engine's words
    """
    for pattern, ours in FAULTS:
        found = pattern.search(text.strip())
        if found:
            return ours.format_map({
                key: value.removesuffix(': unknown')
                for key, value in found.groupdict().items()})
    return ''


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say it of a container that is created or started.

    :raises InvalidRequest: around the engine's words
    """
    try:
        yield
    except exception.EngineUnavailable:
        raise
    except exception.EngineError as e:
        ours = reason(str(e))
        if not ours:
            raise
        raise exception.InvalidRequest(ours) from e
