# SPDX-License-Identifier: Apache-2.0
"""From rounds to what a core is worth, and back from disk."""

import dataclasses

import pytest

from nova_vcloud import calibration
from nova_vcloud import exception

RESULT = calibration.summary({0: [1.0, 1.0, *[4.0] * 9],
                              1: [9.0, 9.0, *[3.0] * 9]})


def test_the_reference_core_is_four():
    assert calibration.score(calibration.REFERENCE) == pytest.approx(4)


def test_half_the_time_is_twice_the_score():
    fast = {name: s / 2 for name, s in calibration.REFERENCE.items()}
    assert calibration.score(fast) == pytest.approx(8)


def test_every_piece_counts_alike():
    scores = {calibration.score({**calibration.REFERENCE,
                                 name: calibration.REFERENCE[name] * 2})
              for name in calibration.REFERENCE}
    assert max(scores) == pytest.approx(min(scores))


def test_warm_up_rounds_do_not_count():
    assert RESULT.cpus == {0: 4.0, 1: 3.0}
    assert RESULT.per_core == 3.5
    assert RESULT.cpus_spread == pytest.approx(1 / 3.5, abs=1e-3)


def test_a_disturbed_minority_of_rounds_changes_nothing():
    disturbed = calibration.summary(
        {0: [4.0] * 30 + [1.0] * 10})
    assert disturbed.per_core == 4.0


def test_the_work_is_the_same_each_time():
    first, second = (
        {name: piece() for name, piece in calibration.pieces().items()}
        for _ in range(2))
    assert first['deflate'] == second['deflate']
    assert first['sort'] == second['sort']
    assert first['gather'] == second['gather']
    assert [h.digest() for h in first['blake2b']] == [
        h.digest() for h in second['blake2b']]


def test_a_result_comes_back_from_disk(tmp_path):
    path = str(tmp_path / 'new/ecu.json')
    assert calibration.load(path) is None
    calibration.store(path, RESULT)
    found = calibration.load(path)
    assert found.per_core == RESULT.per_core
    assert found.measured == RESULT.measured


def test_by_hand_wins_and_nobody_knows_without_either(tmp_path):
    path = str(tmp_path / 'ecu.json')
    assert calibration.per_core(None, path) is None
    calibration.store(path, RESULT)
    assert calibration.per_core(None, path) == 3.5
    assert calibration.per_core(2.0, path) == 2.0


@pytest.mark.parametrize('content', [
    '{', '{}', '{"per_core": 3}', '[]'])
def test_a_damaged_file_is_named_with_the_cure(tmp_path, content):
    path = tmp_path / 'ecu.json'
    path.write_text(content)
    with pytest.raises(exception.StateError, match=r'ecu\.json'):
        calibration.load(str(path))


def test_a_result_of_another_benchmark_is_not_used(tmp_path):
    path = str(tmp_path / 'ecu.json')
    calibration.store(path, dataclasses.replace(RESULT, version='ecu-0'))
    with pytest.raises(exception.StateError, match='calibrate'):
        calibration.per_core(None, path)
