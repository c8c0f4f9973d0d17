# SPDX-License-Identifier: Apache-2.0
"""What is said of how a host is set up, without the host."""

import pathlib

import pytest

from nova_vcloud import host_checks
from nova_vcloud.virt_docker import server_labels

ROOT = pathlib.Path(__file__).resolve().parents[3]
LEAST = host_checks.Bound('fs.some', 100, 'one takes all')
ONLY = host_checks.Bound('fs.other', 0, 'each has less', exact=True)


@pytest.mark.parametrize(('bound', 'found', 'fine'), [
    (LEAST, 100, True), (LEAST, 101, True), (LEAST, 99, False),
    (LEAST, None, True), (ONLY, 0, True), (ONLY, 1, False)])
def test_a_sysctl(bound, found, fine):
    check = host_checks.sysctl(bound, found)
    assert (not check.problem) is fine
    if not fine:
        assert str(check) == (
            f'{bound.name} is {found}: {bound.why}; set {bound.name} = '
            f'{bound.value} in /etc/sysctl.d')


@pytest.mark.parametrize(('options', 'fine'), [
    (['name=seccomp,profile=default'], True),
    (['name=apparmor', 'name=seccomp,profile=builtin'], True),
    (['name=seccomp,profile=/etc/docker/own.json'], True),
    (['name=seccomp,profile=unconfined'], False),
    (['name=apparmor'], False), ([], False)])
def test_seccomp(options, fine):
    first, *_ = host_checks.security(options, False, False)
    assert (not first.problem) is fine
    assert first.name == 'seccomp profile'


@pytest.mark.parametrize(('options', 'on', 'said'), [
    ([], (False, False), {}),
    ([], (True, True), {'apparmor': False, 'selinux': False}),
    (['name=apparmor'], (True, False), {'apparmor': True}),
    (['name=selinux'], (True, True), {'apparmor': False, 'selinux': True})])
def test_a_security_module_that_the_kernel_has_is_to_be_used(
        options, on, said):
    _seccomp, _users, *found = host_checks.security(options, *on)
    assert {check.name: not check.problem for check in found} == said


@pytest.mark.parametrize(('options', 'fine'), [
    (['name=userns'], True), (['name=seccomp,profile=default'], False)])
def test_user_namespaces(options, fine):
    _seccomp, check, *_ = host_checks.security(options, False, False)
    assert (not check.problem) is fine
    assert fine or 'userns-remap' in check.fix


def test_what_is_of_root_matters_where_servers_are_root():
    of_root, mapped = ({bound.name for bound in host_checks.bounds(on)}
                       for on in (False, True))
    assert of_root - mapped == {'fs.inotify.max_user_instances',
                                'fs.inotify.max_user_watches'}
    assert mapped - of_root == {'kernel.keys.maxkeys'}


def test_servers_with_a_health_check_are_named():
    found = list(host_checks.health_checks([
        {'Names': ['/nova-1'], 'Status': 'Up 3 seconds'},
        {'Names': ['/nova-2'], 'Status': 'Up 1 second (health: starting)'},
        {'Names': ['/nova-3'], 'Status': 'Up 5 minutes (healthy)'},
        {'Names': ['/nova-4'], 'Status': 'Up 5 minutes (unhealthy)'},
        {'Names': ['/nova-5'], 'Status': 'Up 5 minutes (Paused)'}]))
    assert [check.name.split()[-1] for check in found] == [
        'nova-2', 'nova-3', 'nova-4']
    assert all(check.problem and check.fix for check in found)


def test_a_host_is_read(tmp_path):
    """What is too low, or not there, or as it should be."""
    for name, text in {
            'fs/inotify/max_user_instances': '128\n',
            'kernel/pid_max': '4194304\n', 'fs/aio-max-nr': '16777217\n',
            # Of a host with 24 GiB, if systemd does not raise it.
            'fs/file-max': '2466165\n',
            'net/bridge/bridge-nf-call-iptables': '1\n',
            'net/bridge/bridge-nf-call-ip6tables': '0\n'}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = {check.name: bool(check.problem) for check in host_checks.read(
        {'SecurityOptions': None}, [], str(tmp_path))}
    assert {name: found[name] for name in (
        'fs.inotify.max_user_instances', 'kernel.pid_max', 'fs.aio-max-nr',
        'fs.file-max', 'fs.pipe-user-pages-soft',
        'net.bridge.bridge-nf-call-iptables',
        'net.bridge.bridge-nf-call-ip6tables', 'seccomp profile')} == {
            'fs.inotify.max_user_instances': True, 'kernel.pid_max': False,
            'fs.aio-max-nr': False, 'fs.file-max': True,
            'fs.pipe-user-pages-soft': False,
            'net.bridge.bridge-nf-call-iptables': True,
            'net.bridge.bridge-nf-call-ip6tables': False,
            'seccomp profile': True}


def test_the_example_is_what_is_checked():
    text = (ROOT / 'etc/nova-vcloud/sysctl.example').read_text()
    assert [line for line in text.splitlines()
            if not line.startswith('#')] == [
                bound.line for bound in (
                    *host_checks.BOUNDS, *host_checks.MAPPED_BOUNDS)]


def test_the_label_is_that_of_servers():
    assert host_checks.SERVER_LABEL == server_labels.UUID
