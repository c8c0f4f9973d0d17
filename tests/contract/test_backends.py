# SPDX-License-Identifier: Apache-2.0
"""The contract of backends, without a kernel: memory and trees of files."""

import pathlib

from backend_contract import Contract
from backend_contract import Place
import pytest

from nova_vcloud.guest import Guest
from nova_vcloud.qos.backends import cgroup1
from nova_vcloud.qos.backends import cgroup2
from nova_vcloud.qos.backends import fake
from nova_vcloud.qos.backends import runtime

GUESTS = [Guest(f'{name}-server', name, f'/parent/{name}')
          for name in ('one', 'two', 'absent')]
IO_BUT_ONE = frozenset({'io.write_bps', 'io.read_iops', 'io.write_iops'})
DEVICES = {'io': '8:0', 'net': 'a-port'}


class TestFake(Contract):
    """Limits in memory."""

    @pytest.fixture
    def place(self):
        backend = fake.FakeBackend()
        backend.running = {'one', 'two'}
        return Place(backend, *GUESTS, DEVICES)


class TestRuntime(Contract):
    """Limits that wait in a file for the next start."""

    @pytest.fixture
    def place(self, tmp_path):
        backend = runtime.RuntimeBackend(
            str(tmp_path), ['cpu.burst', 'io.read_bps', 'io.write_iops'],
            cgroup1.Cgroup1(str(tmp_path)).start_lines)
        return Place(backend, GUESTS[0], GUESTS[1], None, DEVICES)


#: What a fresh cgroup has, in a kernel's words.
V1 = {'cpu.shares': '1024', 'cpu.period': '100000', 'cpu.quota': '-1',
      'cpu.burst': '0', 'cpu.cpus': '0-1', 'cpu.mems': '0',
      'pids.max': 'max', 'memory.max': '9223372036854771712',
      'memory.swap': '9223372036854771712',
      'memory.soft': '9223372036854771712'}
V2 = {'cpu.weight': '100', 'cpu.max': 'max 100000', 'cpu.max.burst': '0',
      'cpuset.cpus': '', 'cpuset.mems': '', 'io.max': ''}


def tree_v1(root: pathlib.Path) -> None:
    for kind, (controller, file) in cgroup1.FILES.items():
        for folder in ('.', 'parent', 'parent/one', 'parent/two'):
            path = root / controller / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(V1.get(kind, '') + '\n')


def tree_v2(root: pathlib.Path) -> None:
    for file in cgroup2.FILES.values():
        for folder in ('parent', 'parent/one', 'parent/two'):
            path = root / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(V2.get(file, 'max') + '\n')


def without_self_test(backend, kinds):
    """Say what the kernel would say: a tree of files keeps anything."""
    backend.__dict__['_support'] = fake.FakeBackend(kinds).support()
    return backend


class TestCgroup1Tree(Contract):
    """Files laid out as cgroup v1 has them."""

    @pytest.fixture
    def place(self, tmp_path):
        tree_v1(tmp_path)
        return Place(without_self_test(
            cgroup1.Cgroup1(str(tmp_path)), cgroup1.FILES), *GUESTS, DEVICES)


class TestCgroup2Tree(Contract):
    """Files laid out as cgroup v2 has them."""

    @pytest.fixture
    def place(self, tmp_path):
        tree_v2(tmp_path)
        # A plain io.max forgets one limit when it is given another.
        return Place(without_self_test(
            cgroup2.Cgroup2(str(tmp_path)), cgroup2.FILES), *GUESTS, DEVICES,
            IO_BUT_ONE)


def test_lines_for_a_fresh_cgroup_bring_it_to_the_limits(tmp_path):
    for version, tree in ((cgroup1.Cgroup1, tree_v1),
                          (cgroup2.Cgroup2, tree_v2)):
        root = tmp_path / version.__name__
        tree(root)
        backend = without_self_test(version(str(root)), cgroup1.FILES)
        place = Place(backend, *GUESTS, DEVICES, IO_BUT_ONE)
        wanted = place.wanted(0)
        for path, text in backend.start_lines(place.guest, wanted):
            pathlib.Path(path).write_text(text)
        assert place.holds(wanted) == []
