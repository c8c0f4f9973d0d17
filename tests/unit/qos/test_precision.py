# SPDX-License-Identifier: Apache-2.0
"""What is said of how exactly a limit is held."""

import pytest

from nova_vcloud.qos import limits
from nova_vcloud.qos import precision


@pytest.mark.parametrize(('value', 'milliseconds', 'held'), [
    (7, 100, 10), (11, 100, 10), (19, 100, 10), (20, 100, 20),
    (39, 100, 30), (200, 100, 200), (39, 20, 50), (137, 20, 100)])
def test_requests_are_whole_in_each_slice(value, milliseconds, held):
    assert precision.held_iops(value, milliseconds) == held


def test_the_slice_is_the_kernels_where_it_says(tmp_path):
    folder = tmp_path / 'dev/block/8:0/queue'
    folder.mkdir(parents=True)
    key = limits.Key('io', 'read_iops', '8:0')
    assert precision.told(key, 39, str(tmp_path)) == '30, at most 6% more'
    (folder / 'throttle_sample_time').write_text('20\n')
    assert precision.told(key, 139, str(tmp_path)) == '100, at most 6% more'


@pytest.mark.parametrize(('name', 'value', 'said'), [
    ('cpu.quota', 33_300, '±4%'), ('cpu.quota', 2000, '±12%'),
    ('cpu.quota', limits.UNLIMITED, ''), ('memory.max', 1 << 30, ''),
    ('io.8:0.write_bps', 1000, '')])
def test_what_is_said(name, value, said):
    assert precision.told(limits.Key.parse(name), value) == said
