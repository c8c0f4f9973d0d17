# SPDX-License-Identifier: Apache-2.0
"""Benchmark ``ecu-1``: what an ECU is counted in.

Integer work and memory access by libraries in C whose algorithms have been the
same for years, so that it does not matter which Python calls them. What the
cores of a socket share (the last cache, memory) is left out: its speed says
more of the neighbours than of the core. Never change what a part does: make
``ecu-2``.

``python -m nova_vcloud.ecu_benchmark CPU ROUNDS SECONDS`` is one worker of
:mod:`nova_vcloud.ecu_calibration`.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import hashlib
import json
import lzma
import os
import sys
import time

NAME = 'ecu-1'

#: {part: times a second, on one core of the reference host}. How they came
#: about: doc/source/admin/ecu.rst.
REFERENCE = {
    'compress': 716.0,
    'decompress': 2243.0,
    'match': 786.0,
    'digest': 1699.0,
    'sort': 1101.0,
}

#: A slice is one call of a part. Of the slices of a round one in twenty is
#: faster than the one that counts: whatever disturbs makes slices slower.
QUANTILE = 0.05

_TEXT_BYTES = 20_000
_WORDS = 512
_KEYS = 5000
_LZMA = [{'id': lzma.FILTER_LZMA2, 'preset': 0, 'dict_size': 65_536}]

Part = Callable[[], object]


def parts() -> dict[str, Part]:
    """Return the parts, with data that is the same everywhere.

    ``compress`` and ``decompress`` are bzip2's: sorting, Huffman codes, and
    a walk through 80 KB of which every step waits for the last. ``match``
    is LZMA: a search in hash tables, and branches nobody can predict.
    ``digest`` is MD5, for which no CPU has an instruction: additions that
    wait for one another. ``sort`` is Python's, of strings.
    """
    numbers = _numbers()
    text = _text(numbers)
    packed = bz2.compress(text, 1)
    wide = text * 20
    keys = [b'%08x' % next(numbers) for _ in range(_KEYS)]
    return {
        'compress': lambda: bz2.compress(text, 1),
        'decompress': lambda: bz2.decompress(packed),
        'match': lambda: lzma.compress(text, lzma.FORMAT_RAW, filters=_LZMA),
        'digest': lambda: hashlib.md5(
            wide, usedforsecurity=False).digest(),
        'sort': lambda: sorted(keys),
    }


def _numbers() -> Iterator[int]:
    """Yield numbers below 2**31 that look random (Knuth's MMIX LCG)."""
    state = 1
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def _text(numbers: Iterator[int]) -> bytes:
    """Return words, a few of them often, as in prose."""
    words = [bytes(97 + next(numbers) % 26 for _ in range(
        2 + next(numbers) % 9)) for _ in range(_WORDS)]
    found = bytearray()
    while len(found) < _TEXT_BYTES:
        rank = (next(numbers) % _WORDS) * (next(numbers) % _WORDS) // _WORDS
        found += words[rank] + b' '
    return bytes(found[:_TEXT_BYTES])


def run(prepared: Mapping[str, Part], rounds: int, seconds: float,
        start: float) -> dict[str, list[float]]:
    """Run parts in turn; return {part: times a second of each round}.

    CPU time counts, so that others on the same CPU matter little.

    :param seconds: of wall time for one part in one round; all workers are
        at the same part at the same time
    :param start: when to begin, by ``time.monotonic()``
    """
    found: dict[str, list[float]] = {name: [] for name in prepared}
    time.sleep(max(0.0, start - time.monotonic()))
    turns = [name for _ in range(rounds) for name in prepared]
    for turn, name in enumerate(turns, 1):
        end = start + turn * seconds
        found[name].append(_rate(prepared[name], end))
    return found


def _rate(part: Part, end: float) -> float:
    slices: list[float] = []
    while not slices or time.monotonic() < end:
        begin = time.thread_time()
        part()
        slices.append(time.thread_time() - begin)
    slices.sort()
    return 1 / slices[int(QUANTILE * len(slices))]


def main() -> None:
    """Say that all is ready, wait for the time to start, print the rates."""
    cpu, rounds, seconds = sys.argv[1:]
    try:
        os.sched_setaffinity(0, {int(cpu)})
    except OSError as e:
        sys.exit(f'CPU {cpu}: {e.strerror}')
    prepared = parts()
    sys.stdout.write('ready\n')
    sys.stdout.flush()
    start = sys.stdin.readline()
    if start:
        json.dump(run(prepared, int(rounds), float(seconds), float(start)),
                  sys.stdout)


if __name__ == '__main__':
    main()
