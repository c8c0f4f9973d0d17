# SPDX-License-Identifier: Apache-2.0
"""How slowly an answer may come."""

import io

import pytest

from nova_vcloud import bounded_http

RATE = bounded_http.LEAST_RATE


class Clock:
    """A connection by which some bytes come now and then.

    :ivar now: seconds
    """

    def __init__(self, seconds, size):
        self.now = 0.0
        self._seconds = seconds
        self._size = size

    def monotonic(self):
        """Return the time."""
        return self.now

    def readinto(self, buffer):
        """Read as many."""
        self.now += self._seconds
        return min(self._size, len(buffer))


@pytest.fixture
def source(monkeypatch):
    def made(seconds, size, patience=300):
        clock = Clock(seconds, size)
        monkeypatch.setattr(bounded_http, 'time', clock)
        found = bounded_http._Source(clock, patience)
        found.allow(1 << 40)
        return clock, found
    return made


@pytest.mark.parametrize(('seconds', 'size'), [(59, 1), (1, RATE // 4)])
def test_one_that_comes_bit_by_bit_ends(source, seconds, size):
    clock, found = source(seconds, size)
    with pytest.raises(TimeoutError, match='64 KiB/s received'):
        io.BufferedReader(found).read(1 << 30)
    assert 300 < clock.now < 500


def test_a_slow_one_may_be_as_long_as_it_likes(source):
    clock, found = source(1, 2 * RATE)
    for _ in range(10_000):
        found.readinto(bytearray(2 * RATE))
    assert clock.now == 10_000


def test_what_does_not_wait_for_it_takes_none_of_its_time(source):
    """The engine may be slow, too."""
    clock, found = source(0.01, 1)
    for _ in range(100):
        clock.now += 1000
        found.readinto(bytearray(9))
