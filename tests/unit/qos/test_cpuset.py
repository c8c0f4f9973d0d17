# SPDX-License-Identifier: Apache-2.0
"""Which CPUs guests get, on machines of any make."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import exception
from nova_vcloud.qos import cpuset
from nova_vcloud.qos import topology


def machine(nodes=2, cores=4, threads=2, offline=frozenset()):
    """Return a machine numbered as Linux does: siblings come late."""
    total = nodes * cores
    cpus = {}
    for core in range(total):
        siblings = frozenset(core + total * t for t in range(threads))
        for cpu in siblings - offline:
            cpus[cpu] = topology.Cpu(siblings - offline, core // cores)
    return topology.Topology(dict(sorted(cpus.items())))


@st.composite
def machines(draw):
    """Any machine, some CPUs kept from servers or offline."""
    nodes, cores, threads = (draw(st.integers(1, 4)), draw(st.integers(1, 6)),
                             draw(st.sampled_from([1, 2, 4])))
    every = range(nodes * cores * threads)
    offline = frozenset(draw(st.sets(st.sampled_from(every),
                                     max_size=len(every) - 1)))
    made = machine(nodes, cores, threads, offline)
    return made, frozenset(draw(st.sets(st.sampled_from(list(made.cpus)))))


POLICIES = st.sampled_from(['prefer', 'require'])


def nodes_of(made, cpus):
    return {made.cpus[cpu].node for cpu in cpus}


@given(machines(), st.integers(1, 30), POLICIES)
def test_dedicated_cpus_are_free_ones_of_few_nodes(given_machine, count,
                                                   policy):
    made, free = given_machine
    sizes = {node: sum(made.cpus[c].node == node for c in free)
             for node in nodes_of(made, free)}
    fits = any(size >= count for size in sizes.values())
    try:
        found = cpuset.dedicated(made, free, count, policy)
    except exception.NoCpusLeft:
        assert len(free) < count or (policy == 'require' and not fits)
        return
    assert len(found.cpus) == count
    assert found.cpus <= free
    assert found.mems == nodes_of(made, found.cpus)
    assert fits == (len(found.mems) == 1)
    # No smaller number of nodes would have been enough.
    largest = sorted(sizes.values(), reverse=True)[:len(found.mems) - 1]
    assert sum(largest) < count


@given(machines(), st.integers(1, 30))
def test_cores_are_split_no_more_than_needed(given_machine, count):
    made, free = given_machine
    try:
        found = cpuset.dedicated(made, free, count, 'require').cpus
    except exception.NoCpusLeft:
        return
    cores = {made.cpus[cpu].core & free for cpu in found}
    split = [core for core in cores if core - found]
    assert len(split) <= 1 or all(len(core & found) == 1 for core in split)


@given(machines(), st.lists(st.tuples(st.integers(1, 6), st.booleans()),
                            max_size=30), POLICIES)
def test_guests_that_come_and_go_never_share(given_machine, story, policy):
    made, pool = given_machine
    guests = []
    for count, leaves in story:
        taken = frozenset().union(*guests)
        if leaves and guests:
            guests.pop(0)
            continue
        try:
            guests.append(cpuset.dedicated(made, pool - taken, count,
                                           policy).cpus)
        except exception.NoCpusLeft:
            continue
        assert not guests[-1] & taken
    assert sum(map(len, guests)) == len(frozenset().union(*guests))


@given(machines(), st.integers(1, 12), POLICIES)
def test_the_same_question_has_the_same_answer(given_machine, count, policy):
    made, free = given_machine
    answers = []
    for _ in range(2):
        try:
            answers.append(cpuset.dedicated(made, free, count, policy))
        except exception.NoCpusLeft as e:
            answers.append(str(e))
    assert answers[0] == answers[1]


def test_siblings_stay_together():
    made = machine(nodes=1, cores=4, threads=2)  # siblings: n and n + 4
    assert cpuset.dedicated(made, frozenset(range(8)), 4,
                            'prefer').cpus == {0, 4, 1, 5}


def test_an_odd_one_takes_half_a_core_that_is_split_already():
    made = machine(nodes=1, cores=4, threads=2)
    free = frozenset(range(8)) - {7}  # core 3 is half taken
    assert cpuset.dedicated(made, free, 3, 'prefer').cpus == {0, 4, 3}


def test_the_node_that_is_filled_best():
    made = machine(nodes=2, cores=4, threads=1)
    free = frozenset({0, 1, 2, 3, 4, 5})  # node 1 has two left
    assert cpuset.dedicated(made, free, 2, 'prefer').cpus == {4, 5}


def test_one_node_or_nothing():
    made = machine(nodes=2, cores=2, threads=1)
    free = frozenset({0, 2})
    with pytest.raises(exception.NoCpusLeft, match='1 of node 0, 1 of node'):
        cpuset.dedicated(made, free, 2, 'require')
    assert cpuset.dedicated(made, free, 2, 'prefer').mems == {0, 1}


def test_reserved_cpus_are_nobodys():
    # NetEase keeps CPU 0-3 for the host.
    made = machine(nodes=1, cores=8, threads=1)
    allowed = frozenset(range(4, 8))
    assert cpuset.dedicated(made, allowed, 4, 'prefer').cpus == allowed
    with pytest.raises(exception.NoCpusLeft, match='5 dedicated'):
        cpuset.dedicated(made, allowed, 5, 'prefer')


# Shared


@given(machines(), st.integers(1, 12), POLICIES,
       st.dictionaries(st.integers(0, 95), st.floats(0, 10)))
def test_bound_cpus_are_the_least_loaded_of_a_node(given_machine, count,
                                                   policy, load):
    made, pool = given_machine
    try:
        found = cpuset.shared(made, pool, count, load, bind=True,
                              node_policy=policy)
    except exception.NoCpusLeft:
        fits = any(sum(made.cpus[c].node == n for c in pool) >= count
                   for n in nodes_of(made, pool))
        assert len(pool) < count or (policy == 'require' and not fits)
        return
    assert len(found.cpus) == count
    assert found.cpus <= pool
    assert found.mems == nodes_of(made, found.cpus)
    used = sorted(load.get(c, 0) for c in found.cpus)
    here = sorted(load.get(c, 0) for c in pool
                  if made.cpus[c].node in found.mems)
    if len(found.mems) == 1:
        assert used == here[:count]


def test_least_used_first_and_siblings_last():
    made = machine(nodes=1, cores=4, threads=2)
    pool = frozenset(range(8))
    load: dict[int, float] = {}
    order = []
    for _ in range(4):
        cpu, = cpuset.shared(made, pool, 1, load, bind=True,
                             node_policy='prefer').cpus
        load[cpu] = 1.0
        order.append(cpu)
    assert order == [0, 1, 2, 3]  # four cores, before any second thread


def test_floating_guests_have_the_whole_set_and_any_memory():
    made = machine(nodes=2, cores=2, threads=1)
    found = cpuset.shared(made, frozenset({0, 1}), 1, {}, bind=False,
                          node_policy='prefer')
    assert found == cpuset.Placement(frozenset({0, 1}), frozenset({0, 1}))


def test_a_host_that_shares_nothing():
    made = machine()
    for bind in (True, False):
        with pytest.raises(exception.NoCpusLeft):
            cpuset.shared(made, frozenset(), 1, {}, bind=bind,
                          node_policy='prefer')


# Reading a machine


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace('__', '/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')


def test_a_machine_with_siblings_and_nodes(tmp_path):
    write(tmp_path, cpu__online='0-3', node__node0__cpulist='0,2',
          node__node1__cpulist='1,3', node__node2__cpulist='')
    for cpu, siblings in enumerate(('0,2', '1,3', '0,2', '1,3')):
        write(tmp_path, **{
            f'cpu__cpu{cpu}__topology__thread_siblings_list': siblings})
    found = topology.read(str(tmp_path))
    assert found.cpus[2] == topology.Cpu(frozenset({0, 2}), 0)
    assert found.nodes(frozenset({0, 1})) == {0, 1}


def test_a_machine_that_says_little(tmp_path):
    write(tmp_path, cpu__online='0,2')
    assert topology.read(str(tmp_path)).cpus == {
        0: topology.Cpu(frozenset({0}), 0),
        2: topology.Cpu(frozenset({2}), 0)}


def test_siblings_that_are_offline_are_not_there(tmp_path):
    write(tmp_path, cpu__online='0',
          cpu__cpu0__topology__thread_siblings_list='0-1')
    assert topology.read(str(tmp_path)).cpus[0].core == {0}


def test_this_machine():
    found = topology.read()
    assert found.cpus
    assert dataclasses.is_dataclass(found)
