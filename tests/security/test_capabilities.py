# SPDX-License-Identifier: Apache-2.0
"""What root of a server may, by default and by its flavor."""

from __future__ import annotations

from collections.abc import Iterator
import os
import pathlib
import shutil
import struct
import subprocess
import sys

import computehost
import lan as lan_fixture
import pytest

from nova_vcloud import host_checks
from nova_vcloud.conf import docker as docker_conf
from nova_vcloud.virt_docker.guest import container_spec

#: linux/capability.h
BITS = {name: bit for bit, name in enumerate((
    'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID '
    'SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW '
    'IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT '
    'SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD '
    'LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP').split())}
#: Of a file: NET_RAW, permitted and effective (linux/capability.h, v2).
FILE_NET_RAW = struct.pack('<5I', 0x02000001, 1 << BITS['NET_RAW'], 0, 0, 0)
#: Sends an echo request by a socket that needs no capability (icmp(7)).
PING = '''
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM,
                   socket.IPPROTO_ICMP) as out:
    out.settimeout(10)
    out.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), (sys.argv[1], 0))
    print(out.recv(100)[0])
'''


@pytest.fixture
def host(dockerd, lan, tmp_path) -> Iterator[computehost.ComputeHost]:
    """A host whose capabilities are as they are by default."""
    found = computehost.ComputeHost(
        dockerd, lan, tmp_path / 'records',
        capabilities=tuple(docker_conf.CAPABILITIES),
        allowed_capabilities=tuple(docker_conf.ALLOWED_CAPABILITIES))
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)


def spawn(host, **specs):
    instance = host.instance(**specs)
    host.spawn(instance, host.ports())
    return instance


def status(host, instance) -> dict[str, str]:
    pid = host.container(instance)['State']['Pid']
    lines = pathlib.Path(f'/proc/{pid}/status').read_text().splitlines()
    return dict(line.split(':\t', 1) for line in lines if ':\t' in line)


def names(mask: str) -> set[str]:
    return {name for name, bit in BITS.items() if int(mask, 16) >> bit & 1}


def test_a_server_has_what_it_needs_and_is_confined(host):
    found = status(host, spawn(host))
    for kind in ('CapEff', 'CapPrm', 'CapBnd'):
        assert names(found[kind]) == set(docker_conf.CAPABILITIES)
        assert int(found[kind], 16) >> len(BITS) == 0
    assert names(found['CapAmb']) == set()
    assert (found['Seccomp'], found['NoNewPrivs']) == ('2', '1')


def test_the_engine_has_its_seccomp_profile(host):
    checks = host_checks.read(host.dockerd.engine.info(), [])
    found, = (check for check in checks if check.name == 'seccomp profile')
    assert found.found in ('default', 'builtin')
    assert not found.problem


def test_no_raw_sockets_and_no_devices(host):
    instance = spawn(host)
    for attack in ('arping -c 1 -w 1 -I eth0 192.0.2.1',
                   'mknod /tmp/disk b 7 0'):
        assert 'not permitted' in host.inside(instance, f'{attack} 2>&1')


def test_a_flavor_has_them_back(host):
    found = status(host, spawn(host, vcloud__capabilities='NET_RAW,MKNOD'))
    assert names(found['CapEff']) == {
        *docker_conf.CAPABILITIES, 'NET_RAW', 'MKNOD'}


def test_ping_needs_no_capability(host):
    instance = spawn(host)
    done = subprocess.run(
        ['ip', 'netns', 'exec', host.lan.prefix + instance.uuid,
         sys.executable, '-c', PING, lan_fixture.GATEWAY],
        capture_output=True, text=True, check=False)
    assert done.stdout == '0\n', done.stderr  # an echo reply


@pytest.mark.parametrize('user', ['0', '65534'])
def test_a_program_with_capabilities_in_its_file_runs_without(host, user):
    """As Debian's ping: else execve(2) refuses it, to root as well."""
    instance = spawn(host)
    pid = host.container(instance)['State']['Pid']
    program = f'/proc/{pid}/root/bin/busybox.capped'
    shutil.copy(f'/proc/{pid}/root/bin/busybox', program)
    os.setxattr(program, 'security.capability', FILE_NET_RAW)
    said = host.dockerd.docker(
        'exec', '--user', user, container_spec.container_name(instance.uuid),
        '/bin/busybox.capped', 'grep', 'CapEff', '/proc/self/status').stdout
    assert 'NET_RAW' not in names(said.split()[1])
    assert 'nosuid' in host.inside(
        instance, 'grep " / " /proc/mounts').split()[3].split(',')


def test_set_user_id_programs_gain_nothing_by_default_only(host):
    for specs, nosuid in (({}, True), (
            {'vcloud__no_new_privileges': 'false'}, False)):
        instance = spawn(host, **specs)
        mounted = host.inside(instance, 'grep " / " /proc/mounts')
        assert ('nosuid' in mounted.split()[3].split(',')) is nosuid
