# SPDX-License-Identifier: Apache-2.0
"""What our filters and weighers cost for each host, beside Nova's own.

Both are called as nova-scheduler calls them, in one process, for a server of
an application (a server group, for Nova's) of 20 servers. Like is compared
with like: keeping apart, and choosing by CPU and memory; and all of ours, for
most of which Nova has nothing, with those three. Every access to a database is
counted; there must be none.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import gc
import json
import os
import pathlib
import sys
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / 'benchmarks'), str(ROOT / 'tests/fixtures')]

import _report  # noqa: E402 - found by the line above
from nova import config  # noqa: E402
from nova import objects  # noqa: E402
from nova.scheduler import filters  # noqa: E402
from nova.scheduler import host_manager  # noqa: E402
from nova.scheduler import weights  # noqa: E402
from nova.scheduler.filters import affinity_filter  # noqa: E402
from nova.scheduler.weights import cpu  # noqa: E402
from nova.scheduler.weights import ram  # noqa: E402
from oslo_db.sqlalchemy import enginefacade  # noqa: E402
import zoo  # noqa: E402

from nova_vcloud import host_stats  # noqa: E402
from nova_vcloud.filters import all_filters  # noqa: E402
from nova_vcloud.filters import app_anti_affinity  # noqa: E402
from nova_vcloud.filters import app_index  # noqa: E402
from nova_vcloud.filters import weighers  # noqa: E402
from nova_vcloud.flavor import applications  # noqa: E402

SIZES = (100, 1000, 10_000, 20_000)
SERVERS = 20  # on each host, and in the application
RACK = 40  # hosts
ZONES = 3
ROUNDS = int(os.environ.get('BENCH_ROUNDS', '7'))
SPECS = {'resources__CUSTOM_ECU': '4', 'vcloud__app': 'web',
         'vcloud__app_max_per_host': '1', 'vcloud__app_max_per_rack': '50%'}


def hosts(count: int) -> list:
    """Return hosts with racks, zones, stats and servers."""
    names = [f'host{number}' for number in range(count)]
    zones = [zoo.aggregate(*names[n::ZONES], availability_zone=f'z{n}')
             for n in range(ZONES)]
    found = []
    for first in range(0, count, RACK):
        rack = zoo.aggregate(*names[first:first + RACK], rack=f'r{first}')
        for number, name in enumerate(names[first:first + RACK], first):
            stats = (host_stats.Ecu(4.0, 160, number % 160,
                                    (20, 20)).to_stats()
                     | host_stats.Load(number % 90 / 100, 0.4, SERVERS,
                                       time.time()).to_stats())
            # Nova reads each host's from a text: it has its own keys.
            stats = json.loads(json.dumps(stats))
            found.append(zoo.host(
                name, rack, zones[number % ZONES], stats=stats, vcpus=40,
                used=number % 40, ram=65536, free=65536 - number % 65536,
                servers=[str(uuid.uuid4()) for _ in range(SERVERS)],
                instances=SERVERS))
    return found


def place(zoo_hosts: list) -> list[str]:
    """Let the application have its servers; return their uuids."""
    index = app_index.Index(lambda: None, lambda: 1000.0)
    app_anti_affinity.INDEX = index
    index.watch = lambda: None
    step, found = max(len(zoo_hosts) // SERVERS, 1), []
    for number in range(SERVERS):
        host = zoo_hosts[number * step % len(zoo_hosts)]
        server = next(iter(host.instances))
        index.note_request(server, applications.Key('p', 'web'))
        index.note_choice(server, host.host)
        found.append(server)
    return found


def nova_run(members: list[str]) -> Callable[[list], int]:
    """Return what Nova's own make of hosts."""
    def request() -> objects.RequestSpec:
        spec = zoo.request()
        spec.instance_group = objects.InstanceGroup(
            policy='anti-affinity', members=members, hosts=[],
            uuid=members[0], rules={})
        return spec
    return _run([affinity_filter.ServerGroupAntiAffinityFilter()],
                [ram.RAMWeigher(), cpu.CPUWeigher()], request)


def our_run(*, everything: bool) -> Callable[[list], int]:
    """Return what ours make of hosts: all of them, or Nova's counterparts."""
    its_filters: list = [app_anti_affinity.AppAntiAffinityFilter()]
    its_weighers: list = [weighers.AppAntiAffinityWeigher(),
                          weighers.UsageWeigher()]
    if everything:
        its_filters = [kind() for kind in all_filters()]
        its_weighers = [kind() for kind in weighers.all_weighers()]
    return _run(its_filters, its_weighers, lambda: zoo.request(**SPECS))


def _run(its_filters: list, its_weighers: list,
         request: Callable[[], objects.RequestSpec]
         ) -> Callable[[list], int]:
    def run(found: list) -> int:
        spec = request()
        left = filters.HostFilterHandler().get_filtered_objects(
            its_filters, found, spec)
        return len(weights.HostWeightHandler().get_weighed_objects(
            its_weighers, left, spec))
    return run


@contextlib.contextmanager
def queries() -> Iterator[list[str]]:
    """Note each access to a database, and refuse it."""
    seen: list[str] = []

    def refuse(*_args: object, **_kwargs: object) -> None:
        seen.append('query')
        raise RuntimeError('a database was asked')

    manager = enginefacade._TransactionContextManager  # noqa: SLF001
    real = manager._transaction_scope  # noqa: SLF001
    manager._transaction_scope = refuse  # noqa: SLF001
    try:
        yield seen
    finally:
        manager._transaction_scope = real  # noqa: SLF001


def measure(count: int) -> dict[str, float]:
    """Return what each takes, in µs of a processor a host.

    Every sample is of as many hosts, so that what else runs on a machine
    disturbs many small requests as much as a large one. The least of the
    samples: it only adds (timeit).
    """
    found = hosts(count)
    members = place(found)
    runs = {'nova': nova_run(members), 'same': our_run(everything=False),
            'all': our_run(everything=True)}
    # The hosts are this benchmark's, not the requests' garbage.
    gc.collect()
    gc.freeze()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(sample(name, run, found))
    gc.unfreeze()
    return {name: min(each) for name, each in times.items()}


def sample(name: str, run: Callable[[list], int], found: list) -> float:
    """Return the µs of a processor for a host of as many as SIZES has."""
    requests, spent = max(max(SIZES) // len(found), 1), 0.0
    for _ in range(requests):
        # Nova makes its hosts for each request: nobody watches them yet.
        for host in found:
            host.__class__ = host_manager.HostState
        start = time.thread_time()
        left = run(found)
        spent += time.thread_time() - start
        assert len(found) - SERVERS == left, (name, left)
    return spent / requests / len(found) * 1e6


def main() -> int:
    """Print the table; 0 when the goals are met."""
    config.parse_args(['bench'], default_config_files=[], init_rpc=False,
                      configure_db=False)
    rows, ours, novas = [], {}, {}
    with queries() as asked:
        for count in SIZES:
            found = measure(count)
            ours[count], novas[count] = found['all'], found['nova']
            goal = {10_000: '<= 1', 20_000: '<= 0.5'}.get(count, '')
            rows += [
                _report.Row(f'{count} hosts, Nova: a filter, 2 weighers',
                            found['nova'], 'us/host'),
                _report.Row(f'{count} hosts, our counterparts',
                            found['same'], 'us/host'),
                _report.Row(f'{count} hosts, ours / Nova\'s',
                            found['same'] / found['nova'], 'ratio', goal),
                _report.Row(f'{count} hosts, all our 3 filters, 4 weighers',
                            found['all'], 'us/host'),
                _report.Row(f'{count} hosts, all ours / Nova\'s',
                            found['all'] / found['nova'], 'ratio', goal)]
    rows += [_report.Row('growth of Nova\'s, a host of 20000 / of 1000',
                         novas[20_000] / novas[1000], 'ratio'),
             _report.Row('growth, a host of 20000 / of 1000',
                         ours[20_000] / ours[1000], 'ratio', '<= 1.25'),
             _report.Row('accesses to a database', len(asked), 'times',
                         '<= 0')]
    return 0 if _report.publish('scheduler', rows) else 1


if __name__ == '__main__':
    sys.exit(main())
