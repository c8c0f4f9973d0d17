# SPDX-License-Identifier: Apache-2.0
"""What a user namespace of its own costs a server at its build.

The driver's spawn on two private engines, with and without
``userns-remap``, in turn.
"""

import itertools
import os
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks')]

import _report  # noqa: E402 - found by the line above
import _spawn  # noqa: E402

from nova_vcloud import privsep  # noqa: E402

ROUNDS = int(os.environ.get('BENCH_ROUNDS', '20'))
REMAP = 'default'
GOAL = '<= 1.1'


def measure() -> tuple[list[float], list[float]]:
    """Return the times with and without; the first round only warms up."""
    with _spawn.bench(REMAP) as mapped, _spawn.bench() as plain:
        times = [(mapped.driver(), plain.driver())
                 for _round in range(ROUNDS + 1)]
    with_, without = zip(*itertools.islice(times, 1, None), strict=True)
    return list(with_), list(without)


def main() -> int:
    """Print the table; 0 when the goal is met."""
    privsep.in_process()
    with_, without = (statistics.median(times) for times in measure())
    rows = [
        _report.Row('spawn with a user namespace', with_ * 1000, 'ms'),
        _report.Row('spawn without', without * 1000, 'ms'),
        _report.Row('with / without', with_ / without, 'ratio', GOAL)]
    return 0 if _report.publish('user_namespaces', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
