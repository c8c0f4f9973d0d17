# SPDX-License-Identifier: Apache-2.0
"""From limits to a token bucket and back, over all values there can be."""

from hypothesis import assume
from hypothesis import given
from hypothesis import strategies as st
import pytest

from nova_vcloud import exception
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import tc
from nova_vcloud.qos.net import tbf

MBIT = 125_000
RATES = st.integers(1000, 10**12)
SHAPES = st.builds(
    tbf.Shape, average=RATES, peak=st.none() | RATES,
    burst=st.none() | st.integers(1, 2**33))
MTUS = st.integers(68, 65535)


def made(shape, mtu=1500):
    try:
        return tbf.bucket(shape, mtu)
    except exception.LimitNotEnforced:
        assume(False)


def stored(bucket):
    """What the kernel gives back: sizes as times, cut to ticks."""
    attributes = tbf.encode(bucket)
    rates, peaks, limit, _buffer, _mtu = tbf._QOPT.unpack(
        attributes.pop(tbf._PARMS))
    sizes = [attributes.pop(key)
             for key in (tbf._BURST, tbf._PBURST)]
    ticks = [int.from_bytes(size, 'little') * 10**9 // rate // 64
             for size, rate in zip(sizes, (bucket.rate, bucket.peak),
                                   strict=True)]
    return {**attributes, tbf._PARMS: tbf._QOPT.pack(
        rates, peaks, limit, *(min(tick, 2**32 - 1) for tick in ticks))}


@given(SHAPES, MTUS)
def test_what_is_read_matches_what_was_set(shape, mtu):
    found = tbf.shape(tbf.decode(stored(made(shape, mtu))))
    for name in tc.NAMES:
        wanted, got = (
            limits.UNLIMITED if value is None else value
            for value in (getattr(shape, name), getattr(found, name)))
        key = limits.Key('net', f'in_{name}', 'port')
        assert tc.TcBackend().matches(key, wanted, got), name


@given(SHAPES, MTUS)
def test_a_full_frame_always_gets_through(shape, mtu):
    bucket = made(shape, mtu)
    frame = mtu + tbf.HEADERS
    assert frame <= bucket.largest <= bucket.limit
    assert bucket.holds(frame)
    assert bucket.peak > bucket.rate


@given(SHAPES)
def test_the_next_bucket_holds_what_waits_or_says_so(shape):
    """Nothing larger than a bucket may stay queued for it: never leaves."""
    old, new = made(tbf.Shape(10**9)), made(shape)
    if new.holds(old.largest):
        assert old.largest <= new.burst
        assert shape.peak is None or old.largest <= new.peak_burst


@given(st.integers(2 * MBIT, 10_000 * MBIT))
def test_no_frame_waits_long(rate):
    bucket = made(tbf.Shape(rate))
    queued = bucket.limit / rate
    assert queued <= max(tbf.QUEUE, 0.050)


@pytest.mark.parametrize(('average', 'burst'), [
    (10 * MBIT, tbf.LARGEST), (1000 * MBIT, 3_125_000)])
def test_burst_that_we_choose(average, burst):
    assert made(tbf.Shape(average)).burst == burst


@pytest.mark.parametrize(('shape', 'reason'), [
    (tbf.Shape(10 * MBIT, burst=1517), 'less than a frame'),
    (tbf.Shape(10 * MBIT, peak=MBIT), 'less than average'),
    (tbf.Shape(1), 'must last between'),
    (tbf.Shape(10**10, burst=99_000), 'must last between'),
    (tbf.Shape(10**9, burst=2**32), 'less than 4 GiB'),
])
def test_what_cannot_be(shape, reason):
    with pytest.raises(exception.LimitNotEnforced, match=reason):
        tbf.bucket(shape, 1500)


@pytest.mark.parametrize(('name', 'wanted', 'found', 'same'), [
    ('average', 1000, 1000, True), ('average', 1000, 1001, False),
    ('peak', 1000, 1001, True), ('peak', 1000, 1002, False),
    ('burst', 100_000, 100_999, True), ('burst', 100_000, 101_001, False),
    ('burst', limits.UNLIMITED, 72 * 1024, False),
    ('average', limits.UNLIMITED, limits.UNLIMITED, True),
])
def test_what_counts_as_the_same(name, wanted, found, same):
    key = limits.Key('net', f'out_{name}', 'port')
    assert tc.TcBackend().matches(key, wanted, found) is same


IN = frozenset(kind for kind in tc.KINDS if kind.startswith('net.in'))
OUT = tc.KINDS - IN


@pytest.mark.parametrize(
    ('netns', 'ifb', 'raw', 'where', 'held', 'remarks'), [
        ('', '', True, tc.IFB, tc.KINDS, frozenset()),
        ('', '', False, tc.IFB, tc.KINDS, frozenset()),
        ('', 'no ifb', False, tc.NETNS, tc.KINDS, OUT),
        ('', 'no ifb', True, tc.IFB, IN, frozenset()),
        ('no tbf', 'no tbf', True, tc.IFB, frozenset(), frozenset()),
        ('no tbf', 'no tbf', False, tc.NETNS, frozenset(), frozenset())])
def test_where_what_guests_send_is_limited(netns, ifb, raw, where, held,
                                           remarks):
    found, support = tc.choose({tc.NETNS: netns, tc.IFB: ifb}, raw)
    assert found == where
    assert support.enforced == held
    assert support.missing.keys() == tc.KINDS - held
    assert support.remarks.keys() == remarks
    assert all('NET_RAW' in text for text in support.remarks.values())


def test_a_limit_that_can_be_gone_around_is_none():
    _where, support = tc.choose({tc.NETNS: '', tc.IFB: 'no ifb'}, True)
    assert 'take NET_RAW and NET_ADMIN out' in support.missing[
        'net.out_average']
    assert 'load the module ifb' in support.missing['net.out_average']
