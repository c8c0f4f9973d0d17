# SPDX-License-Identifier: Apache-2.0
"""Load is measured between two looks, of the CPUs for servers."""

import time

import pytest

from nova_vcloud.virt_docker.host import load

STAT = '''cpu  1 1 1 1 1 1 1 1 1 1
cpu0 {0} 0 0 {1} 0 0 0 0 {0} 0
cpu1 900000 0 0 0 0 0 0 0 0 0
cpu10 {0} 0 0 {1} 0 0 0 0 0 0
intr 1 2 3
'''


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    return now


@pytest.fixture
def meter(tmp_path, clock):
    (tmp_path / 'stat').write_text(STAT.format(1000, 1000))
    return load.Meter({0, 10}, str(tmp_path))


def test_the_share_of_busy_ticks(meter, tmp_path, clock):
    (tmp_path / 'stat').write_text(STAT.format(1300, 1100))
    clock[0] += 10
    found = meter.look(3, 0.25)
    assert (found.cpu, found.memory, found.servers) == (0.75, 0.25, 3)


def test_too_short_a_window_says_what_was(meter, tmp_path, clock):
    clock[0] += 1
    assert meter.look(0, 0.5) is None
    (tmp_path / 'stat').write_text(STAT.format(1300, 1100))
    clock[0] += 10
    first = meter.look(3, 0.25)
    clock[0] += 1
    assert meter.look(9, 0.9) == first


def test_of_this_machine():
    assert load.Meter({0})._read()[2] > 0
