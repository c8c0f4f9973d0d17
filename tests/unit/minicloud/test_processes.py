# SPDX-License-Identifier: Apache-2.0
"""Finding and ending real processes by the mark in their environment."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from mini import processes

STUBBORN = (
    'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);'
    'print("ready", flush=True); time.sleep(60)'
)
READY = 'import time; print("ready", flush=True); time.sleep(60)'


@pytest.fixture
def start():
    """Start Python code with a mark; whatever is left ends with the test."""
    started = []

    def work(code, **marks):
        env = {**os.environ, **marks}
        child = subprocess.Popen(
            [sys.executable, '-c', code], env=env, stdout=subprocess.PIPE
        )
        started.append(child)
        child.stdout.readline()
        return child

    yield work
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def test_only_processes_with_the_mark_of_this_home_are_members(
    start, tmp_path
):
    ours = start(
        READY,
        MINICLOUD_MEMBER=str(tmp_path),
        MINICLOUD_SERVICE='glance',
    )
    start(READY, MINICLOUD_MEMBER=f'{tmp_path}2')
    # What an operator has in his shell is no mark.
    start(READY, MINICLOUD_HOME=str(tmp_path))

    found = list(processes.members(tmp_path))

    assert [(p.pid, p.service) for p in found] == [(ours.pid, 'glance')]


def test_the_mark_survives_a_change_of_title(start, tmp_path):
    code = 'import setproctitle; setproctitle.setproctitle("x" * 500);' + READY
    child = start(code, MINICLOUD_MEMBER=str(tmp_path), SPT_NOENV='1')

    assert [p.pid for p in processes.members(tmp_path)] == [child.pid]


def test_end_is_gentle_first(start, tmp_path):
    child = start(READY, MINICLOUD_MEMBER=str(tmp_path))

    assert processes.end(processes.members(tmp_path)) == []
    assert child.wait() == -signal.SIGTERM


def test_end_kills_what_ignores_it(start, tmp_path):
    child = start(STUBBORN, MINICLOUD_MEMBER=str(tmp_path))

    assert processes.end(processes.members(tmp_path), grace=0.2) == []
    assert child.wait() == -signal.SIGKILL


def test_a_reused_pid_is_another_process(start, tmp_path):
    child = start(READY, MINICLOUD_MEMBER=str(tmp_path))
    (found,) = processes.members(tmp_path)
    earlier = processes.Process(child.pid, '-', 'python', found.start - 1)

    assert processes.alive(found)
    assert not processes.alive(earlier)
    processes.end([earlier], grace=0)
    assert child.poll() is None


def test_a_zombie_is_not_alive(start, tmp_path):
    child = start(READY, MINICLOUD_MEMBER=str(tmp_path))
    (found,) = processes.members(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not processes.alive(found)
    assert list(processes.members(tmp_path)) == []


def test_memory_of_a_process_and_of_one_that_is_gone(start):
    child = start(READY)

    assert processes.pss_bytes(child.pid) > 1 << 20
    child.kill()
    child.wait()
    assert processes.pss_bytes(child.pid) == 0


@pytest.mark.parametrize(('home', 'found'), [
    ('/srv/cloud', ['sshd-compute2']), ('/srv', []), ('/srv/other', [])])
def test_an_ssh_server_is_known_by_its_title(tmp_path, home, found):
    """It writes the title over its environment."""
    entry = tmp_path / '77'
    entry.mkdir()
    title = ('sshd: /usr/sbin/sshd -D -e -f /srv/cloud/etc/ssh/compute2.conf '
             '[listener] 0 of 10-100 startups')
    (entry / 'cmdline').write_text(title)
    (entry / 'environ').write_text(title[30:])
    (entry / 'stat').write_text(f'77 (sshd) S {" ".join("1" * 30)}')
    (entry / 'exe').symlink_to('/usr/sbin/sshd')
    members = processes.members(pathlib.Path(home), tmp_path)
    assert [member.service for member in members] == found
