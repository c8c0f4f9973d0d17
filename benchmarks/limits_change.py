# SPDX-License-Identifier: Apache-2.0
"""What limits cost: to change five of them, to look, to spawn with all.

On an engine and a fabric of its own, through the driver's rooms; Nova's part
is left out. Beside them, in the same run, the engine's own update of what it
knows of the five, and a spawn of a flavor that limits nothing more.
"""

from collections.abc import Callable
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT / 'tests/fixtures')]

import _report  # noqa: E402 - found by the line above
import computehost  # noqa: E402
import dockerd as dockerd_fixture  # noqa: E402
import lan as lan_fixture  # noqa: E402

from nova_vcloud import privsep  # noqa: E402

ROUNDS = int(os.environ.get('BENCH_ROUNDS', '30'))
CROWD = 20  # servers that are looked at
#: 30 ms where an engine alone takes 25 ms to change what it knows of them.
CHANGE_GOAL = '<= 1.2'
SPAWN_GOAL = '<= 1.1'
#: CPU, memory, processes, disk and network.
SMALL = {'resources__CUSTOM_ECU': '1', 'vcloud__pids': '64',
         'quota__disk_write_bytes_sec': '50000000',
         'quota__vif_inbound_average': '12500'}
LARGE = {'resources__CUSTOM_ECU': '2', 'vcloud__pids': '128',
         'quota__disk_write_bytes_sec': '60000000',
         'quota__vif_inbound_average': '25000'}
ALL = {**LARGE, 'quota__disk_read_bytes_sec': '50000000',
       'quota__disk_read_iops_sec': '500', 'vcloud__cpu_burst': '5000',
       'quota__disk_write_iops_sec': '500',
       'quota__vif_outbound_average': '25000', 'vcloud__memory_soft_mb': '32'}


def timed(action: Callable[[], object]) -> float:
    """Return how long an action took, in ms."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def changes(host: computehost.ComputeHost) -> dict[str, float]:
    """Return the medians of changing a server and of looking at it, in ms."""
    instance, ports = host.instance(**SMALL), host.ports()
    host.spawn(instance, ports)
    flavors = [host.flavor(memory_mb=128, **LARGE),
               host.flavor(memory_mb=64, **SMALL)]
    name = f'nova-{instance.uuid}'
    times: dict[str, list[float]] = {}
    for number in range(2 * ROUNDS):
        flavor = flavors[number % 2]
        body = {'Memory': flavor.memory_mb << 20,
                'MemorySwap': flavor.memory_mb << 20,
                'CpuQuota': 25_000 + number % 2, 'PidsLimit': 64 + number % 2}
        steps = {
            'engine alone': lambda b=body: host.dockerd.engine.update(
                name, b),
            'look': lambda: host.keeper.status(instance.uuid),
            'change': lambda f=flavor: host.containers.resize(
                instance, f, ports)}
        for step, action in steps.items():
            # The engine is told after a change: nobody is to wait for it.
            host.keeper.settle(instance.uuid)
            times.setdefault(step, []).append(timed(action))
    host.containers.destroy(instance.uuid)
    return {step: statistics.median(found) for step, found in times.items()}


def spawns(host: computehost.ComputeHost) -> tuple[float, float]:
    """Return the medians of a spawn without and with all limits, in ms."""
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for number, specs in enumerate(({}, ALL)):
            instance, ports = host.instance(**specs), host.ports()
            times[number].append(timed(
                lambda i=instance, p=ports: host.spawn(i, p)))
            host.containers.destroy(instance.uuid)
    return statistics.median(times[0]), statistics.median(times[1])


def sweep(host: computehost.ComputeHost) -> float:
    """Return what looking at all servers costs, in ms of CPU for each."""
    servers = [host.instance(**ALL) for _ in range(CROWD)]
    for instance in servers:
        host.spawn(instance, host.ports())
    start = time.process_time()
    host.keeper.sweep()
    spent = (time.process_time() - start) * 1000 / CROWD
    for instance in servers:
        host.containers.destroy(instance.uuid)
    return spent


def main() -> int:
    """Print the table; 0 when the goals are met."""
    privsep.in_process()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(dockerd_fixture.private())
        lan = stack.enter_context(lan_fixture.private(str(engine.links)))
        state = stack.enter_context(tempfile.TemporaryDirectory())
        host = computehost.ComputeHost(engine, lan, pathlib.Path(state))
        found = changes(host)
        plain, limited = spawns(host)
        each = sweep(host)
    rows = [
        _report.Row('five limits changed and read back', found['change'],
                    'ms'),
        _report.Row('engine alone, three of them', found['engine alone'],
                    'ms'),
        _report.Row('five limits / engine alone',
                    found['change'] / found['engine alone'], 'ratio',
                    CHANGE_GOAL),
        _report.Row('all limits of a server read', found['look'], 'ms'),
        _report.Row('spawn, plain flavor', plain, 'ms'),
        _report.Row('spawn, all limits', limited, 'ms'),
        _report.Row('spawn with all limits / without', limited / plain,
                    'ratio', SPAWN_GOAL),
        _report.Row('CPU of a look, each server', each, 'ms'),
    ]
    return 0 if _report.publish('limits_change', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
