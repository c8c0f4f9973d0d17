# SPDX-License-Identifier: Apache-2.0
"""The language of limits: what can be said, and what cannot."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import exception
from nova_vcloud.qos import limits
from nova_vcloud.qos.limits import KEEP
from nova_vcloud.qos.limits import UNLIMITED
from nova_vcloud.qos.limits import Key
from nova_vcloud.qos.limits import Limits

SETS = ('cpu.cpus', 'cpu.mems')
KINDS = sorted(limits.FIELDS)
#: A peak or burst has a meaning only beside an average.
ALONE = [kind for kind in KINDS if not kind.startswith('net.')
         or kind.endswith('_average')]
EXAMPLES = {'io': '254:0', 'net': 'ab-1'}
DEVICES = {
    'io': st.builds('{}:{}'.format, st.integers(0, 4095),
                    st.integers(0, 2**20 - 1)),
    'net': st.uuids().map(str)}


def key(kind: str, device: str = '') -> Key:
    resource, _, field = kind.partition('.')
    return Key(resource, field, device or EXAMPLES.get(resource, ''))


@st.composite
def keys(draw) -> Key:
    kind = draw(st.sampled_from(KINDS))
    return key(kind, draw(DEVICES.get(kind.partition('.')[0], st.just(''))))


def values(kind: str):
    field = limits.FIELDS[kind]
    number = st.integers(field.minimum, field.maximum)
    return st.one_of(st.just(UNLIMITED), st.frozensets(
        number, min_size=1, max_size=20) if kind in SETS else number)


@st.composite
def any_limits(draw) -> Limits:
    found = draw(st.lists(keys(), max_size=8))
    return Limits({k: draw(values(k.kind)) for k in found})


# Keys


@given(keys())
def test_a_key_is_what_it_is_written_as(found):
    assert Key.parse(str(found)) == found


@given(st.text(max_size=20))
def test_any_text_is_a_key_or_refused(text):
    try:
        found = Key.parse(text)
    except exception.InvalidLimit:
        return
    assert str(found) == text


@given(keys(), keys())
def test_two_keys_are_never_written_alike(one, other):
    assert (str(one) == str(other)) is (one == other)


@pytest.mark.parametrize('text', [
    '', 'cpu', 'cpu.', '.quota', 'cpu.speed', 'cpu.0.quota', 'io.read_bps',
    'io.sda.read_bps', 'io.8.read_bps', 'io.8:0.1:1.read_bps',
    'io.08:0.read_bps', 'io.٣:0.read_bps', 'io.8:0.read_bps\n',
    'net.in_average', 'net.a/b.in_average', 'net.é.in_average',
    'net.a b.in_average'])
def test_what_is_no_key(text):
    with pytest.raises(exception.InvalidLimit):
        Key.parse(text)


# Values


@given(st.sampled_from(KINDS).flatmap(
    lambda kind: st.tuples(st.just(kind), values(kind))))
def test_a_value_is_what_it_is_written_as(pair):
    kind, value = pair
    assert limits.parse_value(key(kind), limits.to_text(value)) == value


@pytest.mark.parametrize('kind', KINDS)
def test_ranges_include_their_ends_and_no_more(kind):
    field = limits.FIELDS[kind]
    for number in (field.minimum, field.maximum):
        value = frozenset({number}) if kind in SETS else number
        assert limits.parse_value(key(kind), str(number)) == value
        Limits({key(kind): value}).only(ALONE).check()
    for number in (field.minimum - 1, field.maximum + 1):
        with pytest.raises(exception.InvalidLimit, match=kind.rpartition(
                '.')[2]):
            limits.parse_value(key(kind), str(number))
        with pytest.raises(exception.InvalidLimit, match='between'):
            Limits({key(kind): frozenset({number}) if kind in SETS
                    else number}).check()


@pytest.mark.parametrize('text', [
    '', ' ', 'x', '1e5', '1.5', '0x10', '1_000_0', '+50000', '٣٣٣٣٣', '-',
    '50000 µs', 'none', 'unlimited!', '--1'])
def test_what_is_no_number(text):
    with pytest.raises(exception.InvalidLimit, match=r'cpu\.quota'):
        limits.parse_value(key('cpu.quota'), text)


@pytest.mark.parametrize('text', [
    '', ',', '0,', '0-', '-1', '5-3', '0--3', '1-2-3', 'a', '٣', '1_0',
    '8192', '0-99999999999999'])
def test_what_is_no_set(text):
    with pytest.raises(exception.InvalidLimit, match=r'cpu\.cpus'):
        limits.parse_value(key('cpu.cpus'), text)


@pytest.mark.parametrize(('text', 'value'), [
    ('unlimited', UNLIMITED), (' Unlimited ', UNLIMITED), ('keep', KEEP),
    (' 50000\n', 50_000)])
def test_words_and_spaces(text, value):
    assert limits.parse_value(key('cpu.quota'), text) == value


@pytest.mark.parametrize(('kind', 'value', 'reason'), [
    ('cpu.quota', True, 'not a number'), ('cpu.quota', '5', 'not a number'),
    ('cpu.quota', 50_000.0, 'not a number'), ('cpu.quota', None, 'number'),
    ('cpu.quota', frozenset({1}), 'not a number'),
    ('cpu.cpus', 1, 'not a set'), ('cpu.cpus', frozenset(), 'empty'),
    ('cpu.cpus', frozenset({'0'}), 'not a number'),
    ('cpu.cpus', frozenset({True}), 'not a number'),
    ('cpu.cpus', {0}, 'not a set')])
def test_values_of_another_type_are_refused(kind, value, reason):
    with pytest.raises(exception.InvalidLimit, match=reason):
        Limits({key(kind): value}).check()


# Sets


@given(st.frozensets(st.integers(0, 300), min_size=1))
def test_a_set_is_what_it_is_written_as(numbers):
    text = limits.format_set(numbers)
    assert limits.parse_set(text) == numbers
    # The kernel writes no two runs where one would do.
    runs = [tuple(map(int, run.split('-'))) for run in text.split(',')]
    assert all(one[-1] + 1 < other[0]
               for one, other in itertools.pairwise(runs))


# Limits


@given(any_limits())
def test_a_document_holds_everything(found):
    assert Limits.from_doc(json.loads(json.dumps(found.to_doc()))) == found


@given(any_limits(), any_limits())
def test_one_over_another(one, other):
    both = one.over(other)
    assert set(both) == set(one) | set(other)
    assert all(both[k] == one.get(k, other.get(k)) for k in both)


@given(any_limits(), st.sets(st.sampled_from(KINDS)))
def test_a_part_and_the_rest_are_the_whole(found, kinds):
    rest = found.only(set(KINDS) - kinds)
    assert found.only(kinds).over(rest) == found
    assert all(k.kind not in kinds for k in rest)


@given(any_limits())
def test_equal_ones_are_the_same_in_a_set(found):
    again = Limits(dict(reversed(list(found.items()))))
    assert len({found, again}) == 1


def test_keep_is_as_good_as_not_named():
    assert Limits({key('cpu.quota'): KEEP}) == Limits()
    assert Limits().value('cpu.quota') is KEEP


def test_devices_are_told_apart():
    found = Limits.from_doc({'io.8:16.read_bps': 2, 'io.8:0.read_bps': 1,
                             'net.a.in_average': 3, 'cpu.quota': 5000})
    assert found.devices('io') == ('8:0', '8:16')
    assert found.devices('net') == ('a',)
    assert found.devices('cpu') == ('',)
    assert found.value('io.read_bps', '8:16') == 2
    assert found.value('io.write_bps', '8:16') is KEEP


MIB = 2**20


@pytest.mark.parametrize(('doc', 'reason'), [
    ({'cpu.burst': 2001, 'cpu.quota': 2000}, 'burst 2001 is more'),
    ({'cpu.burst': 1, 'cpu.quota': 'unlimited'}, 'no meaning'),
    ({'memory.soft': 9 * MIB, 'memory.max': 8 * MIB}, 'soft'),
    ({'memory.swap': 0, 'memory.max': 'unlimited'}, 'no meaning'),
    ({'io.8:0.total_bps': 5, 'io.8:0.read_bps': 5}, 'exclude'),
    ({'io.8:0.total_iops': 5, 'io.8:0.write_iops': 5}, 'exclude'),
    ({'net.a.in_average': 5, 'net.a.in_peak': 4}, 'more than'),
    ({'net.a.out_peak': 4}, 'without net.out_average'),
    ({'net.a.in_burst': 4, 'net.b.in_average': 5}, 'without'),
    ({'net.a.in_burst': 4, 'net.a.in_average': 'unlimited'}, 'without')])
def test_limits_at_odds_are_refused(doc, reason):
    with pytest.raises(exception.InvalidLimit, match=reason):
        Limits.from_doc(doc).check()


@pytest.mark.parametrize('doc', [
    {}, {'cpu.burst': 2000, 'cpu.quota': 2000},
    {'cpu.burst': 0, 'cpu.quota': 'unlimited'}, {'cpu.burst': 5},
    {'memory.soft': 8 * MIB, 'memory.max': 8 * MIB},
    {'memory.swap': 'unlimited', 'memory.max': 'unlimited'},
    {'memory.swap': 5, 'memory.max': 8 * MIB},
    {'io.8:0.total_bps': 5, 'io.8:16.read_bps': 5, 'io.8:0.read_iops': 5},
    {'io.8:0.total_bps': 5, 'io.8:0.read_bps': 'unlimited'},
    {'net.a.in_average': 5, 'net.a.in_peak': 5, 'net.a.in_burst': 1}])
def test_limits_that_agree_pass(doc):
    Limits.from_doc(doc).check()
