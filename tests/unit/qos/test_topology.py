# SPDX-License-Identifier: Apache-2.0
"""Reading the CPUs of machines of any make."""

import os
import pathlib
import re

from nova_vcloud.qos import limits
from nova_vcloud.qos.cpu import topology


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace('__', '/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')


def test_a_machine_with_siblings_and_nodes(tmp_path):
    write(tmp_path, cpu__online='0-3', node__node0__cpulist='0,2',
          node__node1__cpulist='1,3', node__node2__cpulist='',
          node__has_memory='0-2')
    for cpu, siblings in enumerate(('0,2', '1,3', '0,2', '1,3')):
        write(tmp_path, **{
            f'cpu__cpu{cpu}__topology__thread_siblings_list': siblings})
    found = topology.read(str(tmp_path))
    assert found.cpus[2] == topology.Cpu(frozenset({0, 2}), 0)
    assert found.memory == {0, 1, 2}


def test_a_machine_that_says_little(tmp_path):
    write(tmp_path, cpu__online='0,2')
    assert topology.read(str(tmp_path)) == topology.Topology({
        0: topology.Cpu(frozenset({0}), 0),
        2: topology.Cpu(frozenset({2}), 0)}, frozenset({0}))


def test_siblings_that_are_offline_are_not_there(tmp_path):
    write(tmp_path, cpu__online='0',
          cpu__cpu0__topology__thread_siblings_list='0-1')
    assert topology.read(str(tmp_path)).cpus[0].core == {0}


def test_a_node_without_memory_is_known(tmp_path):
    write(tmp_path, cpu__online='0-1', node__node0__cpulist='0',
          node__node1__cpulist='1', node__has_memory='0')
    found = topology.read(str(tmp_path))
    assert found.memory_of(frozenset({0})) == {0}
    assert found.memory_of(frozenset({0, 1})) == {0}
    assert found.memory_of(frozenset({1})) == {0}


def test_other_files_beside_nodes_are_no_nodes(tmp_path):
    write(tmp_path, cpu__online='0', node__possible='0-7',
          node__node3__cpulist='0', node__has_memory='3')
    found = topology.read(str(tmp_path))
    assert found.cpus[0].node == 3


def test_this_machine():
    """The kernel has CPUs for us, and memory: it runs this."""
    found = topology.read()
    assert os.sched_getaffinity(0) <= found.cpus.keys()
    for cpu, what in found.cpus.items():
        assert cpu in what.core
        assert all(found.cpus[other].core == what.core
                   for other in what.core)
    # What a cpuset may take from is what the root of all cpusets has.
    status = pathlib.Path('/proc/self/status').read_text()
    allowed = re.search(r'Mems_allowed_list:\s*(\S+)', status)[1]
    assert limits.parse_set(allowed) <= found.memory
