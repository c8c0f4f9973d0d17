# SPDX-License-Identifier: Apache-2.0
"""A container stands still for a moment, and goes on."""

import pathlib
import time
import types

import dockerd as dockerd_fixture
import pytest

from nova_vcloud.virt_docker.rootfs import freezer

#: Makes processes all the time, which a freezer must not miss.
BUSY = 'while :; do (:) & (:) & wait; done'


@pytest.fixture
def busy(dockerd):
    """The description of a container that is never at rest."""
    name = 'freezer-test'
    dockerd.docker('run', '--detach', '--network=none', '--runtime=runc',
                   '--name', name, dockerd_fixture.IMAGE, 'sh', '-c', BUSY)
    yield dockerd.engine.container(name)
    dockerd.engine.remove(name)


def work(pid: int) -> list[str]:
    """Return what of the first process changes as it works.

    Page faults and time, with those of its children: minflt to cstime of
    proc(5). Not its state: frozen, it may yet be on its way to sleep.
    """
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return stat.rpartition(')')[2].split()[7:15]


def test_nothing_moves_at_that_moment_and_all_goes_on(busy, monkeypatch):
    pid, seen = busy['State']['Pid'], []

    def look() -> float:
        before = work(pid)
        time.sleep(0.3)
        seen.append((before, work(pid)))
        return 7.0
    monkeypatch.setattr(freezer, 'time', types.SimpleNamespace(
        time=look, monotonic=time.monotonic, sleep=time.sleep))
    assert freezer.still_moment(busy['Id'], pid) == 7.0
    [(before, after)] = seen
    assert before == after
    time.sleep(0.3)
    assert work(pid) != after


def test_it_can_be_had_again_and_again(busy):
    for _ in range(50):
        before = time.time()
        found = freezer.still_moment(busy['Id'], busy['State']['Pid'])
        assert before <= found <= time.time()


def test_who_is_in_no_such_container_is_not_frozen(busy):
    assert freezer.still_moment(busy['Id'], 1) is None
    assert freezer.still_moment('f' * 64, busy['State']['Pid']) is None


def test_a_process_that_is_gone_or_a_host_without_freezer(busy, tmp_path):
    pid = busy['State']['Pid']
    assert freezer.still_moment(busy['Id'], 1 << 30) is None
    assert freezer.still_moment(busy['Id'], pid, str(tmp_path)) is None
