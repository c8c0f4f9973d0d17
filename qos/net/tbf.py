# SPDX-License-Identifier: Apache-2.0
"""From limits of one direction of a NIC to a token bucket and back, purely.

The queueing discipline is TBF, tc-tbf(8). Its bucket holds ``burst`` bytes
and fills at the average rate; a frame leaves when it finds its size in there.
A second bucket fills at the peak rate.
"""

from __future__ import annotations

import dataclasses
import struct

from nova_vcloud import exception

HEADERS = 18  # bytes of Ethernet before a packet, with a VLAN tag
#: Length of the largest packet there is: 64 KiB of TCP as the kernel hands
#: them on unsegmented, with the headers its segments will have.
LARGEST = 72 * 1024
BURST = 0.025  # seconds of the average rate: how late a busy host may be
QUEUE = 0.025  # seconds of the average rate: the longest a frame waits
QUEUE_FRAMES = 8  # at least, for TCP to get along
#: Seconds of the average rate which one packet may take; larger ones are
#: cut into frames, so that others get in between.
PACKET = 0.005
PEAK_BURST = 0.002  # seconds of the peak rate; timers are late
TICK = 64e-9  # seconds; the kernel shows bursts as times in this unit
BURST_TIMES = (10e-6, 2**32 * TICK)  # seconds; between them a tick is < 1 %
UINT32 = 2**32 - 1
#: No peak rate: higher than any that can be asked for. It is there as the
#: size of the second bucket is what the kernel cuts packets to.
NO_PEAK = 2**63

_PARMS, _RATE64, _PRATE64, _BURST, _PBURST = 1, 4, 5, 6, 7
_ETHERNET = 1  # link layer
_RATESPEC = struct.Struct('=BBHhHI')
_QOPT = struct.Struct(f'{_RATESPEC.size}s{_RATESPEC.size}sIII')


@dataclasses.dataclass(frozen=True)
class Shape:
    """Limits of one direction.

    :ivar average: bytes/s, with Ethernet headers; None when there is none
    :ivar peak: bytes/s
    :ivar burst: bytes; None lets us choose
    """

    average: int | None = None
    peak: int | None = None
    burst: int | None = None


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Parameters of a TBF.

    :ivar rate: bytes/s
    :ivar peak: bytes/s
    :ivar burst: bytes of the first bucket
    :ivar peak_burst: bytes of the second bucket
    :ivar limit: bytes of the queue; odd when the burst was asked for: which
        is all the kernel can remember for us
    """

    rate: int
    peak: int
    burst: int
    peak_burst: int
    limit: int

    @property
    def largest(self) -> int:
        """Return the bytes of the largest packet that is not cut."""
        return min(self.burst, self.peak_burst)

    def holds(self, packet: int) -> bool:
        """Tell whether a packet that is in the queue would ever leave it."""
        return packet <= (self.largest if self.peak != NO_PEAK
                          else self.burst)


def bucket(shape: Shape, mtu: int) -> Bucket:
    """Return what holds ``shape``, which has an average.

    :param mtu: of the NIC
    :raises LimitNotEnforced: the kernel could not, or nothing would pass
    """
    rate = shape.average or 0
    frame = mtu + HEADERS
    if shape.peak is not None and shape.peak < rate:
        raise exception.LimitNotEnforced(
            f'peak {shape.peak} is less than average {rate}')
    burst = _burst(rate, shape.burst, frame)
    # The kernel wants the peak to be more.
    peak = NO_PEAK if shape.peak is None else max(shape.peak, rate + 1)
    packet = min(max(frame, int(rate * PACKET)), LARGEST)
    if shape.peak is not None:
        packet = min(max(packet, int(shape.peak * PEAK_BURST)), UINT32)
    limit = max(int(rate * QUEUE), QUEUE_FRAMES * frame, min(burst, packet))
    limit = min(limit + 1, UINT32) & ~1  # rounded up: the largest fits
    return Bucket(rate, peak, burst, packet,
                  limit | (shape.burst is not None))


def _burst(rate: int, wanted: int | None, frame: int) -> int:
    burst = max(LARGEST, int(rate * BURST)) if wanted is None else wanted
    if burst < frame:
        raise exception.LimitNotEnforced(
            f'burst {burst} is less than a frame of this NIC, {frame} '
            'bytes: none would pass')
    least, most = BURST_TIMES
    if burst > UINT32 or not least < burst / rate < most:
        raise exception.LimitNotEnforced(
            f'the kernel cannot hold a burst of {burst} bytes at {rate} '
            f'bytes/s: it must last between {least} and {most:.0f} s and be '
            'less than 4 GiB')
    return burst


def shape(found: Bucket) -> Shape:
    """Return which limits a token bucket of ours holds."""
    return Shape(found.rate, None if found.peak == NO_PEAK else found.peak,
                 found.burst if found.limit & 1 else None)


def encode(wanted: Bucket) -> dict[int, bytes]:
    """Return the attributes within TCA_OPTIONS (linux/pkt_sched.h)."""
    rate, peak = (
        _RATESPEC.pack(0, _ETHERNET, 0, 0, 0, min(value, UINT32))
        for value in (wanted.rate, wanted.peak))
    return {_PARMS: _QOPT.pack(rate, peak, wanted.limit, 0, 0),
            _RATE64: struct.pack('=Q', wanted.rate),
            _PRATE64: struct.pack('=Q', wanted.peak),
            _BURST: struct.pack('=I', wanted.burst),
            _PBURST: struct.pack('=I', wanted.peak_burst)}


def decode(found: dict[int, bytes]) -> Bucket:
    """Return what the attributes within TCA_OPTIONS say.

    Sizes of buckets come back as times, in ticks cut off; that of the second
    one not at all without a peak, so it is the largest it can be.
    """
    rates, peaks, limit, buffer, mtu = _QOPT.unpack(found[_PARMS])
    rate, peak = (
        struct.unpack('=Q', found[large])[0] if large in found
        else _RATESPEC.unpack(small)[-1]
        for large, small in ((_RATE64, rates), (_PRATE64, peaks)))
    burst, peak_burst = (round((ticks + 0.5) * TICK * speed)
                         for ticks, speed in ((buffer, rate), (mtu, peak)))
    return Bucket(rate, peak, burst,
                  LARGEST if peak == NO_PEAK else peak_burst, limit)
