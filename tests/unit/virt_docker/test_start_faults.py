# SPDX-License-Identifier: Apache-2.0
"""Whose fault it is that a container is not created or started."""

import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker.guest import start_faults

OCI = ('failed to create task for container: failed to create shim task: OCI '
       'runtime create failed: runc create failed: unable to start container '
       'process: ')
OLD = ('OCI runtime create failed: container_linux.go:380: starting container '
       'process caused: ')
MERGED = '/var/lib/docker/overlay2/4753ac67/merged'


@pytest.mark.parametrize(('text', 'said'), [
    ('No command specified', 'CMD or ENTRYPOINT'),
    ('no command specified', 'CMD or ENTRYPOINT'),
    ('unable to find user web: no matching entries in passwd file',
     'user web, which its /etc/passwd does not have'),
    ('unable to find group a b: no matching entries in group file',
     'group a b, which its /etc/group'),
    (f'unable to find user me: read {MERGED}/etc/passwd: is a directory',
     'unknown: /etc/passwd: is a directory'),
    (f'unable to find user 0: read {MERGED}: is a directory',
     'cannot be read: is a directory'),
    (f'lstat {MERGED}/{"x" * 256}: file name too long', 'too long: /xxx'),
    (OCI + 'error during container init: environment variable name can\'t be '
     'empty: "=b": unknown', 'not valid: "=b"'),
    ('uids and gids must be in range 0-2147483647', 'not in 0-2147483647'),
    (OCI + 'exec: "/nope": stat /nope: no such file or directory: unknown',
     'no program "/nope"'),
    (OLD + 'exec: "nope": executable file not found in $PATH: unknown',
     'no program "nope"'),
    (OCI + 'exec: "": executable file not found in $PATH: unknown',
     'no program ""'),
    (OCI + 'exec: "/etc": is a directory: unknown: permission denied',
     'cannot be executed: is a directory'),
    (OCI + 'exec: "/x": permission denied: unknown',
     '"/x", which the image is to start with, cannot be executed: perm'),
    (OCI + 'exec: "/x": stat /x: too many levels of symbolic links: unknown',
     'cannot be executed: too many levels of symbolic links'),
    (OCI + 'exec: "/x/y": stat /x/y: not a directory: unknown',
     'cannot be executed: not a directory'),
    (OCI + 'exec: "/x/y": stat /x/y: permission denied: unknown',
     '"/x/y", which the image is to start with, cannot be executed: perm'),
    (OCI + 'error during container init: chdir to cwd ("/w") set in '
     'config.json failed: permission denied: unknown',
     '/w, cannot be entered: permission denied'),
    ('Cannot mkdir: /w is not a directory', '/w, is not a directory'),
    (("the working directory 'rel/x' is invalid, it needs to be an absolute "
     'path'), 'rel/x, is not an absolute path'),
    (f'evalSymlinksInScope: too many links in {MERGED}/w', 'circle: /w'),
    ('invalid environment variable: =c', 'valid: =c'),
    ('invalid signal: SIGNOPE', 'unknown: SIGNOPE'),
    ('Interval in Healthcheck cannot be less than 1ms', 'health check'),
    ('Minimum memory limit allowed is 6MB', 'memory of the flavor'),
])
def test_every_host_would_say_so(text, said):
    found = start_faults.reason(text)
    assert said in found
    assert MERGED not in found
    assert 'unknown: unknown' not in found


@pytest.mark.parametrize('text', [
    'error creating overlay mount to /x/merged: no such file or directory',
    'mkdir /x/merged: no space left on device',
    ('failed to create shim task: OCI runtime create failed: '
    'nova-vcloud-runtime: container 1 has no network namespace in /run/x'),
    ('OCI runtime create failed: unable to retrieve OCI runtime error (open '
    'log.json: no such file or directory): exec: "nova-vcloud-runtime": '
    'executable file not found in $PATH: <nil>: unknown'),
    OCI + 'exec: "/sbin/docker-init": stat /sbin/docker-init: no such file '
    'or directory: unknown',
    OCI + 'unable to apply cgroup configuration: mkdir /sys/fs/cgroup/x: no '
    'such file or directory: unknown',
    'Unknown runtime specified nova-vcloud',
    'cannot start a stopped process: unknown', ''])
def test_another_host_may_do_better(text):
    assert start_faults.reason(text) == ''


def test_an_engine_that_is_away_is_never_the_images_fault():
    with pytest.raises(exception.EngineUnavailable), start_faults.explained():
        raise exception.EngineUnavailable('no command specified')
