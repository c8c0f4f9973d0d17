# SPDX-License-Identifier: Apache-2.0
"""What is read from the lines that tempest prints, and told about them."""

import pytest

from mini import verdicts

API = 'tempest.api.compute.'
OUTPUT = f"""\
{{0}} {API}servers.test_x.X.test_a [1.500000s] ... ok
{{1}} {API}servers.test_x.X.test_b [2.25s] ... FAILED

Captured traceback:
~~~~~~~~~~~~~~~~~~~
    Traceback (most recent call last):

      File "x.py", line 1, in test_b ... ok
{{1}} {API}servers.test_x.X.test_c ... SKIPPED: Rescue not available.
{{0}} setUpClass ({API}volumes.test_v.V) ... SKIPPED: needs cinder
{{0}} tearDownClass (tempest.scenario.test_s.S) [0.000000s] ... FAILED
{{0}} {API}volumes.test_w.W.test_d ... SKIPPED: needs cinder
 - Passed: 1
"""


@pytest.fixture
def found():
    lines = map(verdicts.parse, OUTPUT.splitlines())
    return [one for one in lines if one is not None]


def test_each_test_and_each_class_is_told_once(found):
    assert found == [
        verdicts.Verdict(f'{API}servers.test_x.X.test_a', 'ok', 1.5),
        verdicts.Verdict(f'{API}servers.test_x.X.test_b', 'FAILED', 2.25),
        verdicts.Verdict(
            f'{API}servers.test_x.X.test_c',
            'SKIPPED',
            reason='Rescue not available.',
        ),
        verdicts.Verdict(
            f'{API}volumes.test_v.V', 'SKIPPED', reason='needs cinder'
        ),
        verdicts.Verdict('tempest.scenario.test_s.S', 'FAILED'),
        verdicts.Verdict(
            f'{API}volumes.test_w.W.test_d', 'SKIPPED', reason='needs cinder'
        ),
    ]


def test_a_reason_is_the_same_in_every_run():
    line = "{0} a.B.c ... SKIPPED: Found shared networks: [{'id': 'c52b'}]"

    assert verdicts.parse(line).reason == 'Found shared networks'


def test_a_class_that_fails_to_set_up_is_a_failure(found):
    assert [one.test for one in verdicts.failures(found)] == [
        f'{API}servers.test_x.X.test_b',
        'tempest.scenario.test_s.S',
    ]


def test_skips_stand_under_their_reason_the_commonest_first(found):
    assert list(verdicts.skips(found).items()) == [
        (
            'needs cinder',
            [f'{API}volumes.test_v.V', f'{API}volumes.test_w.W.test_d'],
        ),
        ('Rescue not available.', [f'{API}servers.test_x.X.test_c']),
    ]


def test_the_report_counts_and_names(found):
    text = verdicts.report(found, seconds=90)

    assert text.startswith('1 passed, 2 failed, 3 skipped in 1.5 min\n')
    assert '* FAILED tempest.scenario.test_s.S\n' in text
    assert '\n2 skipped: needs cinder\n\n* volumes.test_v.V\n' in text
    assert text.endswith('Rescue not available.\n\n* '
                         'servers.test_x.X.test_c\n')
