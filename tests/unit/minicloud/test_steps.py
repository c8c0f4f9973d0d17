# SPDX-License-Identifier: Apache-2.0
"""Steps run in their order, side by side where they may."""

import threading

import pytest

from mini import errors
from mini import steps


@pytest.fixture
def run(tmp_path):
    said = []

    def work(*plan):
        steps.Runner(list(plan), said.append, tmp_path / 'log').run()
        return said

    work.said = said
    return work


def test_a_step_begins_after_those_it_needs(run):
    order = []
    run(
        steps.Step('c', lambda: order.append('c'), ('a', 'b')),
        steps.Step('a', lambda: order.append('a')),
        steps.Step('b', lambda: order.append('b'), ('a',)),
    )

    assert order == ['a', 'b', 'c']


def test_independent_steps_run_at_once(run):
    meeting = threading.Barrier(2, timeout=10)

    run(
        steps.Step('a', lambda: meeting.wait() and None),
        steps.Step('b', lambda: meeting.wait() and None),
    )


def test_each_step_has_a_line_with_seconds_and_remark(run):
    (line,) = run(steps.Step('one', lambda: 'there already'))

    assert 'one' in line
    assert line.count(' s') == 2
    assert line.endswith('there already')


def test_after_a_failure_nothing_new_begins(run):
    begun = []

    def fail():
        raise errors.MinicloudError('broken')

    with pytest.raises(errors.MinicloudError, match='broken'):
        run(
            steps.Step('bad', fail),
            steps.Step('next', lambda: begun.append('next'), ('bad',)),
        )
    assert not begun
    assert run.said[0].endswith('FAILED')


def test_a_running_step_is_awaited_after_a_failure(run):
    go_on = threading.Event()
    ended = []

    def fail():
        go_on.set()
        raise errors.MinicloudError('broken')

    def slow():
        go_on.wait(10)
        ended.append('slow')

    with pytest.raises(errors.MinicloudError):
        run(steps.Step('slow', slow), steps.Step('bad', fail))
    assert ended == ['slow']


def test_an_unexpected_error_is_told_with_its_step_and_trace(run):
    with pytest.raises(errors.MinicloudError) as caught:
        run(steps.Step('divide', lambda: str(1 // 0)))

    report = caught.value.report()
    assert 'divide: ZeroDivisionError' in report
    assert 'Traceback' in report


@pytest.mark.parametrize(
    'plan',
    [
        [('a', ('b',))],
        [('a', ('b',)), ('b', ('a',))],
        [('a', ()), ('a', ())],
    ],
)
def test_a_plan_that_cannot_end_is_refused(plan):
    with pytest.raises(ValueError, match='steps'):
        steps.check([steps.Step(n, lambda: None, after) for n, after in plan])
