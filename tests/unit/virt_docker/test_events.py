# SPDX-License-Identifier: Apache-2.0
"""Engine actions to lifecycle transitions, without an engine."""

from hypothesis import given
from hypothesis import strategies as st

from nova_vcloud.virt_docker.guest import events

A, B = 'server-a', 'server-b'


def test_a_stop_is_told_only_after_the_delay():
    tracker = events.Tracker(1.0)
    assert tracker.handle(A, 'die', 10.0) == []
    assert tracker.due(10.9) == []
    assert tracker.wait(10.25) == 0.75
    assert tracker.due(11.0) == [A]
    assert tracker.due(12.0) == []
    assert tracker.wait(12.0) is None


def test_a_restart_is_a_start_and_no_stop():
    tracker = events.Tracker(1.0)
    assert tracker.handle(A, 'start', 1.0) == [events.STARTED]
    tracker.handle(A, 'die', 2.0)
    assert tracker.handle(A, 'start', 2.5) == [events.STARTED]
    assert tracker.due(9.0) == []


def test_a_start_after_a_told_stop_is_told():
    tracker = events.Tracker(1.0)
    tracker.handle(A, 'die', 2.0)
    assert tracker.due(3.0) == [A]
    assert tracker.handle(A, 'start', 4.0) == [events.STARTED]


def test_pause_and_unpause_are_told_at_once():
    tracker = events.Tracker(1.0)
    assert tracker.handle(A, 'pause', 1.0) == [events.PAUSED]
    assert tracker.handle(A, 'unpause', 1.0) == [events.RESUMED]


def test_other_actions_are_not_news():
    tracker = events.Tracker(1.0)
    for action in ('create', 'kill', 'oom', 'exec_start: sh', '', 'destroy'):
        assert tracker.handle(A, action, 1.0) == []
    assert tracker.wait(1.0) is None


def test_a_removed_container_has_no_stop_left_to_tell():
    tracker = events.Tracker(1.0)
    tracker.handle(A, 'die', 1.0)
    tracker.handle(A, 'destroy', 1.1)
    assert tracker.due(9.0) == []


def test_resync_finds_what_the_gap_hid():
    tracker = events.Tracker(1.0)
    tracker.resync({A}, 0.0)
    assert tracker.resync({B}, 5.0) == [B]
    assert tracker.due(5.5) == []
    assert tracker.due(6.0) == [A]


def test_resync_cancels_the_stop_of_a_server_that_runs_again():
    tracker = events.Tracker(1.0)
    tracker.resync({A}, 0.0)
    tracker.handle(A, 'die', 1.0)
    tracker.resync({A}, 1.5)
    assert tracker.due(9.0) == []


ACTIONS = st.lists(st.tuples(
    st.sampled_from([A, B]),
    st.sampled_from(['start', 'die', 'pause', 'unpause', 'oom'])))


@given(ACTIONS)
def test_who_died_last_is_told_once_and_who_runs_never(actions):
    tracker = events.Tracker(1.0)
    for uuid, action in actions:
        tracker.handle(uuid, action, 0.0)
    last = {uuid: action for uuid, action in actions
            if action in ('start', 'die')}
    told = tracker.due(1.0)
    assert sorted(told) == sorted(u for u, a in last.items() if a == 'die')


def test_a_flood_is_told_now_and_then_with_its_number():
    throttle = events.Throttle(60.0)
    assert throttle.take(A, 10.0) == 1
    assert [throttle.take(A, 10.0 + n / 10) for n in range(100)] == [0] * 100
    assert throttle.take(B, 20.0) == 1
    assert throttle.take(A, 70.0) == 101
    assert throttle.take(A, 130.0) == 1
    throttle.forget(A)
    assert throttle.take(A, 131.0) == 1
