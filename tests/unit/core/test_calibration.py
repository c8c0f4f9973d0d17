# SPDX-License-Identifier: Apache-2.0
"""From what CPUs did to what a core is worth, and back from disk."""

import dataclasses
import hashlib
import json
import os
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import ecu_benchmark
from nova_vcloud import ecu_calibration
from nova_vcloud import exception
from nova_vcloud.cmd import manage_ecu

REFERENCE = ecu_benchmark.REFERENCE
COUNT = ecu_calibration.WARM_UP + ecu_calibration.ROUNDS


def cpu(speed, *disturbed):
    """Return what a CPU of so many times the reference does."""
    every = [speed] * COUNT
    every[len(every) - len(disturbed):] = disturbed
    return {part: [rate * found for found in every]
            for part, rate in REFERENCE.items()}


RESULT = ecu_calibration.summary({0: cpu(1.0), 1: cpu(0.75)})


def test_the_reference_core_is_four():
    assert ecu_calibration.summary({0: cpu(1.0)}).per_core == 4


def test_a_core_is_the_mean_of_the_cpus():
    assert RESULT.cpus == {0: 4.0, 1: 3.0}
    assert RESULT.per_core == 3.5
    assert RESULT.cpus_spread == pytest.approx(1 / 3.5, abs=1e-3)
    assert RESULT.rounds_spread == 0


@pytest.mark.parametrize('part', REFERENCE)
def test_every_part_counts_alike(part):
    rates = cpu(1.0)
    rates[part] = [2 * rate for rate in rates[part]]
    found = ecu_calibration.summary({0: rates})
    assert found.per_core == pytest.approx(4 * 2 ** (1 / len(REFERENCE)),
                                           abs=1e-3)
    assert found.parts == {**dict.fromkeys(REFERENCE, 4.0), part: 8.0}


@given(st.lists(st.floats(0.1, 1.0), max_size=ecu_calibration.ROUNDS - 1))
def test_disturbed_rounds_change_nothing_but_the_spread(disturbed):
    found = ecu_calibration.summary({0: cpu(1.0, *disturbed)})
    assert found.per_core == 4
    assert found.rounds_spread >= 0


def test_a_restless_machine_is_seen():
    found = ecu_calibration.summary({0: cpu(1.0, .5, .6, .7, .8)})
    assert found.rounds_spread > 0.2


@pytest.mark.parametrize(('cpus', 'words'), [
    ([cpu(1.0), cpu(0.99)], []),
    ([cpu(1.0, .5, .6, .7, .8, .9)], ['busy']),
    ([cpu(1.0), cpu(0.9)], ['differ'])])
def test_what_is_not_to_be_trusted_is_said(cpus, words):
    doubts = list(manage_ecu._doubts(
        ecu_calibration.summary(dict(enumerate(cpus)))))
    assert len(doubts) == len(words)
    assert all(word in line
               for word, line in zip(words, doubts, strict=True))


def test_warm_up_does_not_count():
    rates = cpu(1.0)
    for found in rates.values():
        found[0] *= 10
    assert ecu_calibration.summary({0: rates}).per_core == 4


# The benchmark


def test_the_parts_do_what_ecu_1_always_did():
    """Who changes this has made another benchmark: name it ecu-2."""
    found = {}
    for name, part in ecu_benchmark.parts().items():
        done = part()
        found[name] = hashlib.blake2b(
            b''.join(done) if isinstance(done, list) else done,
            digest_size=8).hexdigest()
    assert ecu_benchmark.NAME == 'ecu-1'
    assert found == {
        'compress': '68608b4ba9927cbf',
        'decompress': '93a19b752f1ee24f',
        'match': '91a134e323e14ec3',
        'digest': '7e649bb93aab5631',
        'sort': '37f92a532b45d850'}


def test_every_part_has_a_reference():
    assert list(ecu_benchmark.parts()) == list(REFERENCE)


def test_waiting_for_the_cpu_is_not_counted():
    """A part that sleeps and works 2 ms does 500 a second, not fewer."""
    def part():
        time.sleep(0.005)
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass

    found = ecu_benchmark.run({'a': part}, 2, 0.1, time.monotonic())
    assert len(found['a']) == 2
    for rate in found['a']:
        assert 300 < rate < 505


def test_parts_take_turns_of_equal_time():
    begun = []
    start = time.monotonic() + 0.05
    ecu_benchmark.run({'a': lambda: begun.append(('a', time.monotonic())),
                       'b': lambda: begun.append(('b', time.monotonic()))},
                      2, 0.05, start)
    order = [name for number, (name, _) in enumerate(begun)
             if not number or begun[number - 1][0] != name]
    assert order == ['a', 'b', 'a', 'b']
    assert begun[0][1] >= start
    # A busy host may let the last part begin late.
    assert begun[-1][1] < start + 0.2 + 0.5


# The result on disk


def test_a_result_comes_back_from_disk(tmp_path):
    path = str(tmp_path / 'new/ecu')  # whatever its suffix
    assert ecu_calibration.load(path) is None
    ecu_calibration.store(path, RESULT)
    assert ecu_calibration.load(path) == RESULT
    assert os.listdir(tmp_path / 'new') == ['ecu']


def test_everybody_may_read_it(tmp_path):
    ecu_calibration.store(str(tmp_path / 'ecu.json'), RESULT)
    assert (tmp_path / 'ecu.json').stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_written_leaves_the_old_one_alone(tmp_path):
    path = str(tmp_path / 'ecu.json')
    ecu_calibration.store(path, RESULT)
    with pytest.raises(TypeError):
        ecu_calibration.store(path,
                              dataclasses.replace(RESULT, model=object()))
    assert ecu_calibration.load(path) == RESULT
    assert os.listdir(tmp_path) == ['ecu.json']


def test_by_hand_wins_and_nobody_knows_without_either(tmp_path):
    path = str(tmp_path / 'ecu.json')
    assert ecu_calibration.per_core(None, path) is None
    ecu_calibration.store(path, RESULT)
    assert ecu_calibration.per_core(None, path) == 3.5
    assert ecu_calibration.per_core(2.0, path) == 2.0


GOOD = {**dataclasses.asdict(RESULT), 'cpus': {'0': 3.5}}


@pytest.mark.parametrize('content', [
    '{', '{}', '[]', 'null', '{"per_core": 3}', '{"version": "ecu-1"}',
    *(json.dumps({**GOOD, **wrong}) for wrong in (
        {'per_core': 0}, {'per_core': -1.0}, {'per_core': '3'},
        {'per_core': float('nan')}, {'per_core': float('inf')},
        {'per_core': None}, {'per_core': True}, {'cpus': []},
        {'cpus': {'x': 1}}, {'more': 1}, {'version': 'ecu-0'}))])
def test_a_damaged_file_is_named_with_the_cure(tmp_path, content):
    path = tmp_path / 'ecu.json'
    path.write_text(content)
    with pytest.raises(exception.StateError,
                       match=r'ecu\.json is not .*run .*ecu calibrate'):
        ecu_calibration.per_core(None, str(path))


def test_the_file_of_the_cases_above_is_otherwise_good(tmp_path):
    path = tmp_path / 'ecu.json'
    path.write_text(json.dumps(GOOD))
    assert ecu_calibration.per_core(None, str(path)) == 3.5
