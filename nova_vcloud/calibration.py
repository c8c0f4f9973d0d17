# SPDX-License-Identifier: Apache-2.0
"""Benchmark ``ecu-1``: how much work a core of this host does.

Four pieces of integer and memory work, each made of a function of the
standard library that is written in C and whose algorithm is fixed:

``deflate``
    zlib, level 6, over 256 KiB of text made by a fixed generator, six times:
    matching, branches, the first two caches;
``blake2b``
    a hash that no CPU has an instruction for, of 24 MiB: additions,
    rotations;
``sort``
    Python's merge sort of 40 000 floats, six times: comparisons, branches;
``gather``
    a quarter of a million references, read in a fixed random order from a
    list of four times as many: memory beyond the second cache.

A piece's rate is counted in CPU time of its thread, so what else runs on the
host takes little from it. The score is the geometric mean of the four rates,
each as a multiple of the reference core's, times its 4 ECU. All cores are
measured at once, for that is how they are sold.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import operator
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import time
from typing import Any
import zlib

from nova_vcloud import ecu
from nova_vcloud import exception
from nova_vcloud import state

VERSION = 'ecu-1'
#: {piece: seconds of CPU time on the reference core}: an AMD EPYC of the third
#: generation (family 25, model 1) at 2.45 GHz, one of two virtual CPUs, both
#: busy; CPython 3.11.7, zlib 1.2.13; lower quartile of 71 rounds.
REFERENCE = {'deflate': 0.0338, 'blake2b': 0.0310, 'sort': 0.0306,
             'gather': 0.0540}
SEED = 2026
WARM_UP = 2  # rounds


@dataclasses.dataclass(frozen=True)
class Result:
    """What a host's cores are worth.

    :ivar per_core: ECU, the mean of all cores
    :ivar cpus: {CPU: ECU}
    :ivar rounds_spread: middle half of the rounds, relative to their median,
        of the CPU where it is widest
    :ivar cpus_spread: from the slowest CPU to the fastest, relative to
        ``per_core``
    """

    per_core: float
    cpus: dict[int, float]
    rounds_spread: float
    cpus_spread: float
    measured: str
    model: str
    python: str
    zlib: str
    version: str = VERSION


# One core


def pieces() -> dict[str, Callable[[], object]]:
    """Return the four pieces of work, their data made."""
    source = random.Random(SEED)  # noqa: S311 - the same on every host
    words = [source.randbytes(source.randint(2, 9)).hex()
             for _ in range(2000)]
    text = ' '.join(source.choices(words, k=40_000)).encode()[:1 << 18]
    data = source.randbytes(1 << 20)
    floats = [source.random() for _ in range(40_000)]
    order = list(range(1_000_000))
    source.shuffle(order)
    gather = operator.itemgetter(*order[:250_000])
    return {
        'deflate': lambda: [zlib.compress(text, 6) for _ in range(6)],
        'blake2b': lambda: [hashlib.blake2b(data) for _ in range(24)],
        'sort': lambda: [sorted(floats) for _ in range(6)],
        'gather': lambda: gather(order)}


def rounds(seconds: float) -> Iterator[dict[str, float]]:
    """Yield CPU seconds of each piece, again and again.

    :param seconds: to go on, after the data was made
    """
    work = pieces()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = {}
        for name, piece in work.items():
            start = time.thread_time()
            piece()
            found[name] = time.thread_time() - start
        yield found


def score(found: Mapping[str, float]) -> float:
    """Return the ECU that times of the pieces stand for."""
    return ecu.REFERENCE_CORE * statistics.geometric_mean(
        REFERENCE[name] / seconds for name, seconds in found.items())


# All cores


def measure(cpus: Iterable[int], seconds: float) -> Result:
    """Measure some CPUs, all at once.

    :raises CalibrationFailed: one of the processes did not end well
    """
    with contextlib.ExitStack() as stack:
        workers = {cpu: stack.enter_context(_worker(cpu, seconds))
                   for cpu in sorted(cpus)}
        scores = {cpu: [score(found) for found in _answer(cpu, worker)]
                  for cpu, worker in workers.items()}
    return summary(scores)


def summary(scores: Mapping[int, list[float]]) -> Result:
    """Return the result of scores of rounds, by CPU.

    Of a CPU's rounds the upper quartile counts: what slows a round down is
    never the CPU itself.
    """
    best, spreads = {}, []
    for cpu, found in scores.items():
        low, middle, high = statistics.quantiles(found[WARM_UP:], n=4)
        best[cpu] = round(high, 4)
        spreads.append((high - low) / middle)
    per_core = statistics.fmean(best.values())
    return Result(
        per_core=round(per_core, 3), cpus=best,
        rounds_spread=round(max(spreads), 4),
        cpus_spread=round((max(best.values()) - min(best.values()))
                          / per_core, 4),
        measured=dt.datetime.now(dt.UTC).isoformat(timespec='seconds'),
        model=_model(), python=platform.python_version(),
        zlib=zlib.ZLIB_RUNTIME_VERSION)


@contextlib.contextmanager
def _worker(cpu: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, '-m', __name__, str(cpu), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE,
                          text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _answer(cpu: int,
            worker: subprocess.Popen[str]) -> list[dict[str, float]]:
    out, _err = worker.communicate()
    if worker.returncode:
        raise exception.CalibrationFailed(
            f'measuring CPU {cpu} ended with {worker.returncode}')
    found: list[dict[str, float]] = json.loads(out)
    if len(found) < WARM_UP + 4:
        raise exception.CalibrationFailed(
            f'CPU {cpu} did only {len(found)} rounds; give it more time')
    return found


def _model() -> str:
    """Return what the CPU calls itself."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
            name, _, value = line.partition(':')
            if name.strip() == 'model name':
                return value.strip()
    return platform.machine()


def work(cpu: int, seconds: float) -> None:
    """Measure the one CPU that this process binds itself to."""
    os.sched_setaffinity(0, {cpu})
    json.dump(list(rounds(seconds)), sys.stdout)


# The result on disk


def store(path: str, result: Result) -> None:
    """Write a result; after a crash it is the old one or the new."""
    file = pathlib.Path(path)
    state.Documents(str(file.parent)).save(
        file.name.removesuffix('.json'), dataclasses.asdict(result))


def load(path: str) -> Result | None:
    """Return what was stored, None when nothing was.

    :raises StateError: it is damaged, or of another benchmark
    """
    file = pathlib.Path(path)
    found = state.Documents(str(file.parent)).load(
        file.name.removesuffix('.json'))
    return None if found is None else _checked(path, found)


def _checked(path: str, found: dict[str, Any]) -> Result:
    try:
        result = Result(**found)
        usable = result.version == VERSION and result.per_core > 0
    except TypeError:
        usable = False
    if not usable:
        raise exception.StateError(
            f'{path} is not a result of {VERSION}; run nova-vcloud-manage '
            'ecu calibrate')
    return result


def per_core(by_hand: float | None, path: str) -> float | None:
    """Return the ECU of one core of this host, None if nobody knows.

    :param by_hand: ``[ecu] per_core``, which wins
    :param path: ``[ecu] calibration_file``
    :raises StateError: the file is damaged
    """
    if by_hand is not None:
        return by_hand
    found = load(path)
    return None if found is None else found.per_core


if __name__ == '__main__':
    work(int(sys.argv[1]), float(sys.argv[2]))
