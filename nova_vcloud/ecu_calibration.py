# SPDX-License-Identifier: Apache-2.0
"""How many ECU a core of this host gives: measured, stored, read.

All CPUs run benchmark ``ecu-1`` (:mod:`nova_vcloud.ecu_benchmark`) at once,
for that is how they are sold: threads of a core then share it, and clocks
are those of a busy host.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import datetime as dt
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from nova_vcloud import ecu
from nova_vcloud import ecu_benchmark
from nova_vcloud import exception

VERSION = ecu_benchmark.NAME
WARM_UP = 1  # rounds
ROUNDS = 12
#: Until all workers have read their start; then they begin together.
_HEAD_START = 0.2

#: {part: times a second of each round}, of one CPU
Rates = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a host's cores are worth.

    :ivar per_core: ECU, the mean of all CPUs
    :ivar cpus: {CPU: ECU}
    :ivar parts: {part of the benchmark: ECU that it alone would give}
    :ivar rounds_spread: middle half of the rounds, relative to their median:
        how quiet the machine was, which is not the error of ``per_core``
    :ivar cpus_spread: from the slowest CPU to the fastest, relative to
        ``per_core``
    """

    per_core: float
    cpus: dict[int, float]
    parts: dict[str, float]
    rounds_spread: float
    cpus_spread: float
    measured: str
    model: str
    python: str
    version: str = VERSION


def measure(cpus: Iterable[int], seconds: float) -> Result:
    """Measure some CPUs, all at once.

    :param seconds: of wall time, without the start of the workers
    :raises CalibrationFailed: one of the workers did not end well
    """
    with contextlib.ExitStack() as stack:
        workers = {cpu: stack.enter_context(_worker(cpu, seconds))
                   for cpu in sorted(cpus)}
        for cpu, worker in workers.items():
            _await_ready(cpu, worker)
        start = time.monotonic() + _HEAD_START
        for worker in workers.values():
            _send(worker, start)
        return summary({cpu: _answer(cpu, worker, seconds)
                        for cpu, worker in workers.items()})


def summary(rates: Mapping[int, Rates]) -> Result:
    """Return the result of what each CPU did.

    Of the rounds of a part the best counts: others on the host can slow one
    down, and nothing speeds one up.
    """
    used = {cpu: {part: found[WARM_UP:] for part, found in parts.items()}
            for cpu, parts in rates.items()}
    best = {cpu: {part: _ecu(part, max(found))
                  for part, found in parts.items()}
            for cpu, parts in used.items()}
    cpus = {cpu: statistics.geometric_mean(parts.values())
            for cpu, parts in best.items()}
    rounds = [statistics.fmean(
        statistics.geometric_mean(_ecu(part, found[number])
                                  for part, found in parts.items())
        for parts in used.values()) for number in range(_rounds(used))]
    per_core = statistics.fmean(cpus.values())
    low, middle, high = statistics.quantiles(rounds, n=4)
    return Result(
        per_core=round(per_core, 3),
        cpus={cpu: round(found, 3) for cpu, found in cpus.items()},
        parts={part: round(statistics.fmean(
            best[cpu][part] for cpu in best), 3)
            for part in ecu_benchmark.REFERENCE},
        rounds_spread=round((high - low) / middle, 4),
        cpus_spread=round((max(cpus.values()) - min(cpus.values()))
                          / per_core, 4),
        measured=dt.datetime.now(dt.UTC).isoformat(timespec='seconds'),
        model=cpu_model(), python=_python())


def _ecu(part: str, rate: float) -> float:
    return ecu.REFERENCE_CORE * rate / ecu_benchmark.REFERENCE[part]


def _rounds(rates: Mapping[int, Rates]) -> int:
    return min(len(found) for parts in rates.values()
               for found in parts.values())


# Workers


@contextlib.contextmanager
def _worker(cpu: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    rounds = WARM_UP + ROUNDS
    turn = seconds / rounds / len(ecu_benchmark.REFERENCE)
    command = [sys.executable, '-m', ecu_benchmark.__name__,
               str(cpu), str(rounds), str(turn)]
    with subprocess.Popen(command, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_ready(cpu: int, worker: subprocess.Popen[str]) -> None:
    # Popen's own types say that there may be no pipe.
    if worker.stdout is None or worker.stdout.readline() != 'ready\n':
        raise exception.CalibrationFailed(
            f'CPU {cpu} cannot be measured: its process ended with '
            f'{worker.wait()}')


def _send(worker: subprocess.Popen[str], start: float) -> None:
    if worker.stdin is not None:
        print(start, file=worker.stdin, flush=True)


def _answer(cpu: int, worker: subprocess.Popen[str],
            seconds: float) -> Rates:
    try:
        # A turn ends late on a CPU that is given to others for long.
        out, _err = worker.communicate(timeout=10 * seconds + 60)
    except subprocess.TimeoutExpired:
        raise exception.CalibrationFailed(
            f'measuring CPU {cpu} did not come to an end') from None
    if worker.returncode:
        raise exception.CalibrationFailed(
            f'measuring CPU {cpu} ended with {worker.returncode}')
    found: dict[str, list[float]] = json.loads(out)
    return found


def cpu_model() -> str:
    """Return what the CPUs of this host call themselves."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
            name, _, value = line.partition(':')
            if name.strip() == 'model name':
                return value.strip()
    return platform.machine()


def _python() -> str:
    return (f'{platform.python_implementation()} '
            f'{platform.python_version()}, {platform.python_compiler()}, '
            f'{" ".join(platform.libc_ver())}')


# The result on disk


def store(path: str, result: Result) -> None:
    """Write a result; after a crash it is the old one or the new.

    Everybody may read it: nova-compute need not run as root.
    """
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    with tempfile.NamedTemporaryFile(
            'w', dir=directory, prefix=f'.{name}.', delete=False) as file:
        try:
            json.dump(dataclasses.asdict(result), file, indent=1)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def load(path: str) -> Result | None:
    """Return what was stored, None when nothing was.

    :raises StateError: it is damaged, or of another benchmark
    """
    try:
        text = pathlib.Path(path).read_text()
    except FileNotFoundError:
        return None
    try:
        return _checked(json.loads(text))
    except (AttributeError, TypeError, ValueError) as e:
        raise exception.StateError(
            f'{path} is not a result of {VERSION} ({e}); run '
            'nova-vcloud-manage ecu calibrate') from e


def _checked(found: dict[str, Any]) -> Result:
    """Return the result of which ``store`` made ``found``.

    :raises TypeError: parts are missing, or of another kind
    :raises ValueError: of another benchmark, or no speed
    """
    if found.get('version') != VERSION:
        raise ValueError(f'its benchmark is {found.get("version")}')
    cpus = {int(cpu): float(value)
            for cpu, value in found.get('cpus', {}).items()}
    result = Result(**{**found, 'cpus': cpus})
    speed = result.per_core
    if type(speed) not in (int, float) or not 0 < speed < math.inf:
        raise ValueError(f'{speed} ECU a core')
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
