# SPDX-License-Identifier: Apache-2.0
"""Which CPUs guests get, on machines of any make."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import exception
from nova_vcloud.qos.cpu import pinning
from nova_vcloud.qos.cpu import topology


def machine(nodes=2, cores=4, threads=2, offline=frozenset(), memory=None):
    """Return a machine numbered as Linux does: siblings come late."""
    total = nodes * cores
    cpus = {}
    for core in range(total):
        siblings = frozenset(core + total * t for t in range(threads))
        for cpu in siblings - offline:
            cpus[cpu] = topology.Cpu(siblings - offline, core // cores)
    return topology.Topology(
        dict(sorted(cpus.items())),
        frozenset(range(nodes) if memory is None else memory))


@st.composite
def machines(draw):
    """Any machine, some CPUs kept from servers or offline.

    Some nodes have no memory, and one may have nothing else.
    """
    nodes, cores, threads = (draw(st.integers(1, 4)), draw(st.integers(1, 6)),
                             draw(st.sampled_from([1, 2, 4])))
    every = range(nodes * cores * threads)
    offline = frozenset(draw(st.sets(st.sampled_from(every),
                                     max_size=len(every) - 1)))
    memory = draw(st.sets(st.integers(0, nodes), min_size=1))
    made = machine(nodes, cores, threads, offline, memory)
    # CPUs that are offline may be named in the options all the same.
    return made, frozenset(draw(st.sets(st.sampled_from(every))))


POLICIES = st.sampled_from(['prefer', 'require'])


def nodes_of(made, cpus):
    return {made.cpus[cpu].node for cpu in cpus}


def check_memory(made, found):
    """Memory of the CPUs' own nodes, if these have any; never of none."""
    assert found.mems
    assert found.mems <= made.memory
    own = nodes_of(made, found.cpus)
    assert found.mems <= own or not own & made.memory


@given(machines(), st.integers(1, 30), POLICIES)
def test_dedicated_cpus_are_free_ones_of_few_nodes(given_machine, count,
                                                   policy):
    made, named = given_machine
    free = named & made.cpus.keys()
    sizes = {node: sum(made.cpus[c].node == node for c in free)
             for node in nodes_of(made, free)}
    fits = any(size >= count for size in sizes.values())
    try:
        found = pinning.dedicated(made, named, count, policy)
    except exception.NoCpusLeft:
        assert len(free) < count or (policy == 'require' and not fits)
        return
    assert len(found.cpus) == count
    assert found.cpus <= free
    check_memory(made, found)
    nodes = nodes_of(made, found.cpus)
    assert fits == (len(nodes) == 1)
    # No smaller number of nodes would have been enough.
    largest = sorted(sizes.values(), reverse=True)[:len(nodes) - 1]
    assert sum(largest) < count


def split(made, cpus):
    """Return how many cores a guest shares with others, now or later."""
    return sum(not core <= cpus
               for core in {made.cpus[cpu].core for cpu in cpus})


@st.composite
def small_machines(draw):
    """Two threads a core; few enough CPUs to try every choice."""
    nodes, cores = draw(st.sampled_from([(1, 4), (2, 2), (3, 2), (2, 3)]))
    made = machine(nodes, cores, 2)
    free = draw(st.sets(st.sampled_from(list(made.cpus)), min_size=1))
    return made, frozenset(free)


@given(small_machines(), st.integers(1, 6))
def test_no_choice_on_one_node_splits_fewer_cores(given_machine, count):
    made, free = given_machine
    every = [frozenset(some) for some in itertools.combinations(free, count)
             if len(nodes_of(made, some)) == 1]
    if not every:
        return
    found = pinning.dedicated(made, free, count, 'require').cpus
    assert split(made, found) == min(split(made, some) for some in every)


@given(machines(), st.integers(1, 30))
def test_at_most_one_core_is_left_with_a_free_thread(given_machine, count):
    made, free = given_machine
    try:
        found = pinning.dedicated(made, free, count, 'require').cpus
    except exception.NoCpusLeft:
        return
    here = free & made.cpus.keys()
    cores = {made.cpus[cpu].core & here for cpu in found}
    assert sum(not core <= found for core in cores) <= 1


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
            new = pinning.dedicated(made, pool - taken, count, policy).cpus
        except exception.NoCpusLeft:
            continue
        # Who leaves can come back to the same place.
        assert pinning.dedicated(made, pool - taken, count,
                                 policy).cpus == new
        guests.append(new)
        assert not guests[-1] & taken
    assert sum(map(len, guests)) == len(frozenset().union(*guests))


@given(machines(), st.integers(1, 12), POLICIES)
def test_the_same_question_has_the_same_answer(given_machine, count, policy):
    made, free = given_machine
    answers = []
    for _ in range(2):
        try:
            answers.append(pinning.dedicated(made, free, count, policy))
        except exception.NoCpusLeft as e:
            answers.append(str(e))
    assert answers[0] == answers[1]


def test_siblings_stay_together():
    made = machine(nodes=1, cores=4, threads=2)  # siblings: n and n + 4
    assert pinning.dedicated(made, frozenset(range(8)), 4,
                             'prefer').cpus == {0, 4, 1, 5}


def test_an_odd_one_takes_half_a_core_that_is_split_already():
    made = machine(nodes=1, cores=4, threads=2)
    free = frozenset(range(8)) - {7}  # core 3 is half taken
    assert pinning.dedicated(made, free, 3, 'prefer').cpus == {0, 4, 3}


def test_the_node_that_is_filled_best():
    made = machine(nodes=2, cores=4, threads=1)
    free = frozenset({0, 1, 2, 3, 4, 5})  # node 1 has two left
    assert pinning.dedicated(made, free, 2, 'prefer').cpus == {4, 5}


def test_whole_cores_come_before_the_node_that_is_filled_best():
    made = machine(nodes=2, cores=2, threads=2)  # 0, 4; 1, 5 and 2, 6; 3, 7
    free = frozenset({0, 1, 2, 6, 3, 7})  # of node 0 two halves
    assert pinning.dedicated(made, free, 2, 'prefer').cpus == {2, 6}
    assert pinning.dedicated(made, free, 1, 'prefer').cpus == {0}


def test_several_nodes_are_as_few_as_can_be():
    made = machine(nodes=3, cores=3, threads=1)
    free = frozenset({0, 3, 4, 5, 6, 7, 8})  # one, three and three
    found = pinning.dedicated(made, free, 6, 'prefer')
    assert found.mems == {1, 2}


def test_cpus_that_went_offline_are_not_given():
    made = machine(nodes=1, cores=4, threads=1, offline=frozenset({3}))
    with pytest.raises(exception.NoCpusLeft, match='and 3 are free'):
        pinning.dedicated(made, frozenset(range(4)), 4, 'prefer')
    assert pinning.shared(made, frozenset({2, 3}), 9, {}, bind=False,
                          node_policy='prefer').cpus == {2}


def test_a_node_without_memory_borrows():
    made = machine(nodes=2, cores=2, threads=1, memory={0, 5})
    there = pinning.dedicated(made, frozenset({2, 3}), 2, 'require')
    assert there == pinning.Placement(frozenset({2, 3}), frozenset({0, 5}))
    here = pinning.dedicated(made, frozenset({0, 1}), 2, 'require')
    assert here.mems == {0}


def test_one_node_or_nothing():
    made = machine(nodes=2, cores=2, threads=1)
    free = frozenset({0, 2})
    with pytest.raises(exception.NoCpusLeft, match='1 of node 0, 1 of node'):
        pinning.dedicated(made, free, 2, 'require')
    assert pinning.dedicated(made, free, 2, 'prefer').mems == {0, 1}


def test_reserved_cpus_are_nobodys():
    # NetEase keeps CPU 0-3 for the host.
    made = machine(nodes=1, cores=8, threads=1)
    allowed = frozenset(range(4, 8))
    assert pinning.dedicated(made, allowed, 4, 'prefer').cpus == allowed
    with pytest.raises(exception.NoCpusLeft, match='5 dedicated'):
        pinning.dedicated(made, allowed, 5, 'prefer')


# Shared


@st.composite
def loaded_machines(draw):
    """A machine, its CPUs for servers and how many are bound to each."""
    made, named = draw(machines())
    size = max(made.cpus) + 1
    return made, named, dict(enumerate(draw(st.lists(
        st.integers(0, 3), min_size=size, max_size=size))))


@given(loaded_machines(), st.integers(1, 12), POLICIES)
def test_bound_cpus_are_the_least_loaded_of_a_node(given_machine, count,
                                                   policy):
    made, named, load = given_machine
    pool = named & made.cpus.keys()
    try:
        found = pinning.shared(made, named, count, load, bind=True,
                               node_policy=policy)
    except exception.NoCpusLeft:
        fits = any(sum(made.cpus[c].node == n for c in pool) >= count
                   for n in nodes_of(made, pool))
        assert len(pool) < count or (policy == 'require' and not fits)
        return
    assert len(found.cpus) == count
    assert found.cpus <= pool
    check_memory(made, found)

    def least(nodes):
        return sorted(load.get(c, 0) for c in pool
                      if made.cpus[c].node in nodes)[:count]

    nodes = nodes_of(made, pool)
    one = [least({node}) for node in nodes]
    fitting = [loads for loads in one if len(loads) == count]
    used = sorted(load.get(c, 0) for c in found.cpus)
    if fitting:
        assert len(nodes_of(made, found.cpus)) == 1
        assert sum(used) == min(map(sum, fitting))
    else:
        assert used == least(nodes)


def test_least_used_first_and_siblings_last():
    made = machine(nodes=1, cores=4, threads=2)
    pool = frozenset(range(8))
    load: dict[int, float] = {}
    order = []
    for _ in range(4):
        cpu, = pinning.shared(made, pool, 1, load, bind=True,
                              node_policy='prefer').cpus
        load[cpu] = 1.0
        order.append(cpu)
    assert order == [0, 1, 2, 3]  # four cores, before any second thread


def test_an_idle_thread_of_a_busy_core_comes_before_a_busy_thread():
    made = machine(nodes=1, cores=2, threads=2)  # siblings: n and n + 2
    load = {0: 3.0, 1: 1.0, 3: 1.0}
    assert pinning.shared(made, frozenset(range(4)), 1, load, bind=True,
                          node_policy='prefer').cpus == {2}


def test_the_node_of_least_load():
    made = machine(nodes=2, cores=2, threads=1)
    load = {0: 1.0, 2: 0.5}
    assert pinning.shared(made, frozenset(range(4)), 2, load, bind=True,
                          node_policy='prefer').cpus == {2, 3}


def test_two_vcpus_get_two_cores():
    made = topology.Topology(  # siblings are neighbours, as on some machines
        {cpu: topology.Cpu(frozenset({cpu // 2 * 2, cpu // 2 * 2 + 1}), 0)
         for cpu in range(8)}, frozenset({0}))
    for count, cpus in ((2, {0, 2}), (4, {0, 2, 4, 6}), (5, {0, 1, 2, 4, 6})):
        assert pinning.shared(made, frozenset(range(8)), count, {}, bind=True,
                              node_policy='prefer').cpus == cpus


def test_floating_guests_have_the_whole_set_and_any_memory():
    made = machine(nodes=2, cores=2, threads=1)
    found = pinning.shared(made, frozenset({0, 1}), 1, {}, bind=False,
                           node_policy='prefer')
    assert found == pinning.Placement(frozenset({0, 1}), frozenset({0, 1}))


def test_a_host_that_shares_nothing():
    made = machine()
    for bind in (True, False):
        with pytest.raises(exception.NoCpusLeft):
            pinning.shared(made, frozenset(), 1, {}, bind=bind,
                           node_policy='prefer')
