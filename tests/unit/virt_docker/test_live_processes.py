# SPDX-License-Identifier: Apache-2.0
"""Of which processes limits are set, whatever a server does meanwhile."""

import os
import pathlib
import subprocess

import pytest

from nova_vcloud import privsep
from nova_vcloud.virt_docker.guest import etc_files
from nova_vcloud.virt_docker.guest import live_processes
from nova_vcloud.virt_docker.guest import server_files
from nova_vcloud.virt_docker.rootfs import freezer

ID = 'c' * 64
LIMITS = {'shm': 1 << 20, 'nofile': (10, 20), 'known': [(0, 0)]}
# systemd names groups after units, a server as it likes.
ODD = f'0::/docker-{ID}.scope/'.encode() + b'\xff\xfe\n'


@pytest.fixture(autouse=True)
def here(monkeypatch):
    for context in (privsep.volume, privsep.disk):
        monkeypatch.setattr(context, 'client_mode', False)


@pytest.fixture
def processes(monkeypatch):
    """Have this process be of a container, and others be found in it.

    Yields what is found, and the processes whose limits were set.
    """
    found, done = [], []
    monkeypatch.setattr(live_processes, '_resize', lambda *_args: None)
    monkeypatch.setattr(live_processes, '_processes',
                        lambda *_args: iter(found))
    monkeypatch.setattr(live_processes, '_set_files',
                        lambda pid, *_args: done.append(pid))
    return found, done


def test_a_number_that_another_process_has_by_now(processes, monkeypatch):
    """A process of a server ended after its number was read."""
    found, done = processes
    real = server_files.Process.groups
    mine = os.stat(f'/proc/{os.getpid()}').st_ino

    def groups(process):
        return f'0::/{ID}\n' if os.fstat(process.fd).st_ino == mine \
            else real(process)

    monkeypatch.setattr(server_files.Process, 'groups', groups)
    ended = subprocess.Popen(['true'])
    ended.wait()
    found += [1, ended.pid, os.getpid()]
    live_processes.apply(os.getpid(), ID, **LIMITS)
    assert done == [os.getpid()]


def test_a_first_process_that_is_another(processes):
    found, done = processes
    found.append(1)
    live_processes.apply(1, ID, **LIMITS)
    assert not done


@pytest.fixture
def odd_name(monkeypatch, tmp_path):
    """Have a process's control group be one with a name of odd bytes."""
    file = tmp_path / 'cgroup'
    file.write_bytes(ODD)
    real_open, real_read = os.open, pathlib.Path.read_text

    def opened(path, flags, *args, **kwargs):
        return real_open(file, flags) if path == 'cgroup' else real_open(
            path, flags, *args, **kwargs)

    def read_text(path, *args, **kwargs):
        if path.name == 'cgroup' and path.parent.parent.name == 'proc':
            path = file
        return real_read(path, *args, **kwargs)

    monkeypatch.setattr(os, 'open', opened)
    monkeypatch.setattr(pathlib.Path, 'read_text', read_text)


@pytest.mark.usefixtures('odd_name')
def test_control_groups_with_odd_names(processes, tmp_path):
    found, done = processes
    found.append(os.getpid())
    live_processes.apply(os.getpid(), ID, **LIMITS)
    assert done == [os.getpid()]
    with etc_files._etc(os.getpid(), ID) as folder:
        assert folder is None  # the host's own
    assert freezer.still_moment(ID, os.getpid(), str(tmp_path)) is None
