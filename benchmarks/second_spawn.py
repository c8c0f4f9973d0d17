# SPDX-License-Identifier: Apache-2.0
"""A server of an image that its host has: what the driver adds to the work.

The driver's spawn, without Nova around it, and the bare work (create, NIC and
start of the same container) are timed in turn on a private engine.
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
GOAL = '<= 1.05'


def measure() -> tuple[list[float], list[float]]:
    """Return the times of both; the first round only warms up."""
    with _spawn.bench() as bench:
        times = [(bench.driver(), bench.bare())
                 for _round in range(ROUNDS + 1)]
    ours, bare = zip(*itertools.islice(times, 1, None), strict=True)
    return list(ours), list(bare)


def main() -> int:
    """Print the table; 0 when the goal is met."""
    privsep.in_process()
    ours, bare = (statistics.median(times) for times in measure())
    rows = [
        _report.Row('driver, image on the host', ours * 1000, 'ms'),
        _report.Row('engine create + start + NIC alone', bare * 1000, 'ms'),
        _report.Row('driver / alone', ours / bare, 'ratio', GOAL)]
    return 0 if _report.publish('second_spawn', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
