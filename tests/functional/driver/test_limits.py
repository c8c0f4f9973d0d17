# SPDX-License-Identifier: Apache-2.0
"""Limits of servers on a real engine, kernel and fabric."""

from concurrent import futures
import contextlib
import json
import os
import pathlib
import signal
import threading

import computehost
import kernel
from nova.network import model as network_model
import pytest

from nova_vcloud import exception
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.backends import tc

MIB = 1 << 20
#: Every kind of limit at once.
ALL = {'resources__CUSTOM_ECU': '1', 'vcloud__cpu_burst': '5000',
       'quota__disk_read_bytes_sec': '50000000',
       'quota__disk_write_iops_sec': '500', 'vcloud__pids': '64',
       'quota__vif_inbound_average': '12500',
       'quota__vif_outbound_average': '1250'}


@pytest.fixture
def host(dockerd, lan, tmp_path):
    found = computehost.ComputeHost(dockerd, lan, tmp_path / 'records')
    yield found
    for uuid in list(found.containers.list()):
        found.containers.destroy(uuid)
    assert found.keeper.records.uuids() == []
    assert not list(dockerd.links.glob('*.limits'))


@pytest.fixture
def server(host):
    """A server with every kind of limit: (instance, ports)."""
    instance, ports = host.instance(**ALL), host.ports()
    host.spawn(instance, ports)
    return instance, ports


def seen(host, instance, ports) -> dict:
    """Return what the kernel enforces."""
    return {**kernel.cgroup(host.cgroup(instance)),
            'in': kernel.rates(host.lan.name, ports[0]['devname']),
            'out': kernel.rates(host.lan.name,
                                'ifb' + ports[0]['devname'][3:])}


def right(host) -> dict:
    """Return what ALL is to be, for a server of 64 MiB."""
    device = host.profile.device
    return {
        'period': 100_000, 'quota': 25_000, 'burst': 5000, 'shares': 256,
        'cpus': f'0-{os.cpu_count() - 1}', 'memory': 64 * MIB,
        'memsw': 64 * MIB, 'pids': 64, 'read_bps': {device: 50_000_000},
        'write_bps': {}, 'read_iops': {}, 'write_iops': {device: 500},
        'in': [12_500_000], 'out': [1_250_000]}


def test_all_limits_are_in_force_after_spawn(host, server):
    assert seen(host, *server) == right(host)


def test_the_flavors_swap_comes_on_top_of_its_memory(host):
    instance, ports = host.instance(), host.ports()
    instance.flavor.swap = 32
    host.spawn(instance, ports)
    found = seen(host, instance, ports)
    assert (found['memory'], found['memsw']) == (64 * MIB, 96 * MIB)
    host.containers.resize(instance, host.flavor(), ports)
    assert seen(host, instance, ports)['memsw'] == 64 * MIB


def test_the_scheduler_is_told_what_is_in_use(host, server):
    assert host.resources.ecu(4.0).to_stats() | {
        'numa_node_cpus': ''} == {
            'ecu_per_core': '4', 'ecu_total': str(4 * os.cpu_count()),
            'ecu_used': '1', 'numa_node_cpus': ''}
    host.containers.destroy(server[0].uuid)
    assert host.resources.ecu(4.0).used == 0
    assert host.resources.ecu(None).to_stats().keys() == {'numa_node_cpus'}


def test_the_first_process_is_limited_already(host):
    """It notes its own limits before anything else."""
    instance, ports = host.instance(**ALL), host.ports()
    note = ('#!/bin/sh\n'
            'cat /sys/fs/cgroup/blkio/blkio.throttle.write_iops_device '
            '/sys/fs/cgroup/cpu/cpu.cfs_burst_us '
            '/sys/fs/cgroup/pids/pids.max >/root/note\n')
    original = host.dockerd.engine.create

    def create(name, body):
        return original(name, {**body, 'Cmd': [
            '/bin/sh', '-c', f'{note} exec sleep 1000']})
    host.dockerd.engine.create = create
    try:
        host.spawn(instance, ports)
    finally:
        del host.dockerd.engine.create
    assert host.inside(instance, 'cat /root/note').split() == [
        host.profile.device, '500', '5000', '64']


@pytest.mark.parametrize('how', ['start', 'look'])
def test_a_limit_of_the_release_before_is_moved_over(host, server, how):
    """It was in the server's namespace; the server runs on."""
    instance, ports = server
    record = host.keeper.record(instance.uuid)
    before = tc.TcBackend(tc.NETNS)
    inside = host.lan.prefix + instance.uuid, 'eth0'
    before.apply(record.guest, [
        base.Change(key, limits.UNLIMITED, value)
        for key, value in record.base.items() if key.kind in tc.KINDS])
    assert kernel.rates(*inside) == [1_250_000]
    assert 'ifb' not in host.lan.ip('link')
    process = host.container(instance)['State']['Pid']
    if how == 'start':
        host.containers.plug(instance, ports)
    else:
        host.keeper.sweep()
    assert seen(host, instance, ports) == right(host)
    assert kernel.rates(*inside) == []
    assert host.container(instance)['State']['Pid'] == process


def test_nothing_is_left_of_a_nic_that_is_taken_away(host, server):
    instance, ports = server
    more = network_model.NetworkInfo([*ports, *host.ports()])
    ifb = 'ifb' + more[1]['devname'][3:]
    host.containers.attach(instance, more, more[1]['id'])
    assert kernel.rates(host.lan.name, ifb) == [1_250_000]
    host.containers.detach(instance, more, more[1]['id'])
    assert ifb not in host.lan.ip('link')
    assert seen(host, instance, ports) == right(host)


def test_reboot(host, server):
    host.containers.reboot(*server, timeout=0)
    assert seen(host, *server) == right(host)


def test_restart_by_hand_needs_nobody(host, server):
    host.dockerd.docker('restart', '-t', '0', f'nova-{server[0].uuid}')
    assert seen(host, *server) == right(host)


def test_restart_of_the_engine(host, server):
    host.dockerd.kill()
    host.dockerd.start()
    assert seen(host, *server) == right(host)
    host.dockerd.docker('restart', '-t', '0', f'nova-{server[0].uuid}')
    assert seen(host, *server) == right(host)


def test_frozen_servers_are_limited_too(host, server):
    instance, ports = server
    host.containers.pause(instance.uuid)
    bigger = host.flavor(vcpus=2, memory_mb=128, **{
        **ALL, 'resources__CUSTOM_ECU': '2'})
    host.containers.resize(instance, bigger, ports)
    assert seen(host, *server)['quota'] == 50_000
    host.containers.unpause(instance.uuid)
    assert seen(host, *server)['quota'] == 50_000


def test_update_by_hand_is_repaired(host, server):
    instance, _ports = server
    host.dockerd.docker('update', '--cpu-quota', '90000', '--memory', '200m',
                        '--memory-swap', '200m', '--pids-limit', '5000',
                        f'nova-{instance.uuid}')
    assert seen(host, *server) != right(host)
    found = host.keeper.repair(instance.uuid)
    assert {str(d.key) for d in found} >= {'cpu.quota', 'memory.max',
                                           'pids.max'}
    assert seen(host, *server) == right(host)
    assert host.keeper.repair(instance.uuid) == []


def test_an_update_by_hand_leaves_disk_limits_alone(host, server):
    """An engine that knew of them would apply its own again."""
    instance, _ports = server
    before = seen(host, *server)
    host.dockerd.docker('update', '--cpu-shares', '300',
                        f'nova-{instance.uuid}')
    now = seen(host, *server)
    for kind in kernel.THROTTLE:
        assert now[kind] == before[kind]


def test_a_fork_bomb_is_held_and_counted(host, server):
    instance, _ports = server
    host.inside(instance, 'for n in $(seq 100); do sleep 5 & done')
    events = host.keeper.status(instance.uuid).events
    assert events['fork_refused'] > 0
    assert host.parts.cgroup.use(
        host.keeper.record(instance.uuid).guest)['pids'] <= 64


def test_a_memory_hog_is_killed_and_counted(host, server):
    instance, _ports = server
    host.inside(instance, 'tail /dev/zero')
    assert host.keeper.status(instance.uuid).events['oom_kill'] == 1
    assert host.container(instance)['State']['Running']


def test_lost_namespace_and_lost_file_are_mended_by_a_start(host, server):
    instance, ports = server
    host.containers.stop(instance.uuid, 0)
    host.network.destroy(instance.uuid)
    for path in host.dockerd.links.glob('*.limits'):
        path.unlink()
    host.containers.start(instance, ports)
    assert seen(host, *server) == right(host)


def test_resize_stops_nothing(host, server):
    instance, ports = server
    before = host.container(instance)['State']
    for memory, ecu, rate in ((256, '3', '125000'), (32, '1', '125')):
        flavor = host.flavor(memory_mb=memory, **{
            **ALL, 'resources__CUSTOM_ECU': ecu,
            'quota__vif_inbound_average': rate, 'vcloud__cpu_burst': '0'})
        host.containers.resize(instance, flavor, ports)
        now = seen(host, *server)
        assert (now['memory'], now['quota'], now['burst'], now['in']) == (
            memory * MIB, int(ecu) * 25_000, 0, [int(rate) * 1000])
    after = host.container(instance)['State']
    assert (after['Pid'], after['StartedAt']) == (
        before['Pid'], before['StartedAt'])
    assert host.keeper.status(instance.uuid).drift == []
    assert host.container(instance)['HostConfig']['Memory'] == 32 * MIB


def test_less_memory_than_in_use_changes_nothing(host, server):
    instance, ports = server
    host.inside(instance, 'dd if=/dev/zero of=/dev/shm/f bs=1M count=40')
    with pytest.raises(exception.LimitNotEnforced, match='MiB of memory'):
        host.containers.resize(instance, host.flavor(
            vcpus=2, memory_mb=24, resources__CUSTOM_ECU='2'), ports)
    assert seen(host, *server) == right(host)


def test_a_spawn_that_cannot_be_limited_leaves_nothing(host, lan):
    instance, ports = host.instance(vcloud__pids='100'), host.ports()
    original = host.parts.tc.apply

    def apply(guest, changes):
        raise exception.LimitNotEnforced('planted')
    host.parts.tc.apply = apply
    instance.flavor.extra_specs['quota:vif_inbound_average'] = '125'
    try:
        with pytest.raises(exception.LimitNotEnforced, match='planted'):
            host.spawn(instance, ports)
    finally:
        host.parts.tc.apply = original
    assert host.containers.list() == {}
    assert host.keeper.records.uuids() == []


def test_servers_that_are_bound_get_different_cpus(host):
    cpus = set()
    for _ in range(os.cpu_count()):
        instance = host.instance(vcloud__cpu_placement='bind')
        cpus.add(kernel.cgroup(host.spawn(instance, host.ports()))['cpus'])
    assert len(cpus) == os.cpu_count()


def test_dedicated_cpus_are_one_servers_until_it_goes(dockerd, lan,
                                                      tmp_path):
    last = str(os.cpu_count() - 1)
    host = computehost.ComputeHost(dockerd, lan, tmp_path, cpu_shared_set='0',
                                   cpu_dedicated_set=last)
    mine, other = (host.instance(hw__cpu_policy='dedicated')
                   for _ in range(2))
    ports = host.ports()
    try:
        assert kernel.cgroup(host.spawn(mine, ports))['cpus'] == last
        with pytest.raises(exception.NoCpusLeft, match='0 are free'):
            host.spawn(other, host.ports())
        # Another process, after a restart, knows of it.
        again = computehost.ComputeHost(
            dockerd, lan, tmp_path, cpu_shared_set='0',
            cpu_dedicated_set=last)
        with pytest.raises(exception.NoCpusLeft):
            again.spawn(other, again.ports())
        again.containers.reboot(mine, ports, timeout=0)
        assert kernel.cgroup(host.cgroup(mine))['cpus'] == last
        host.containers.destroy(mine.uuid)
        assert kernel.cgroup(host.spawn(other, host.ports()))['cpus'] == last
    finally:
        for instance in (mine, other):
            host.containers.destroy(instance.uuid)


def test_an_override_is_added_and_ends(host, server):
    instance, _ports = server
    host.keeper.override(instance.uuid, limits.Limits.from_doc(
        {'cpu.quota': 6000}), 3600, 'me')
    host.keeper.override(instance.uuid, limits.Limits.from_doc(
        {'pids.max': 77}), 3600, 'me')
    now = seen(host, *server)
    assert (now['quota'], now['pids']) == (6000, 77)
    host.containers.reboot(*server, timeout=0)
    now = seen(host, *server)
    assert (now['quota'], now['pids']) == (6000, 77)
    host.keeper.reset(instance.uuid)
    assert seen(host, *server) == right(host)


def test_records_are_private_and_complete(host, server):
    path, = pathlib.Path(host.state).glob('*.json')
    assert path.stat().st_mode & 0o777 == 0o600
    doc = json.loads(path.read_text())
    assert doc['base']['cpu.quota'] == 25_000


def test_a_server_killed_inside_starts_with_its_limits(host, server):
    instance, ports = server
    os.kill(host.container(instance)['State']['Pid'], signal.SIGKILL)
    host.containers.start(instance, ports)
    assert seen(host, *server) == right(host)


def test_who_looks_at_a_server_that_is_deleted_writes_nothing(
        host, server, monkeypatch):
    uuid = server[0].uuid
    host.keeper.settle(uuid)
    looking, go = threading.Event(), threading.Event()
    enforce = host.keeper.enforcer.enforce

    def slow(guest, desired):
        looking.set()
        assert go.wait(60)
        return enforce(guest, desired)
    monkeypatch.setattr(host.keeper.enforcer, 'enforce', slow)
    with futures.ThreadPoolExecutor() as pool:
        look = pool.submit(host.keeper.repair, uuid)
        assert looking.wait(60)
        deleted = pool.submit(host.containers.destroy, uuid)
        futures.wait([deleted], timeout=1)  # as far as it gets meanwhile
        go.set()
        deleted.result()
        with contextlib.suppress(exception.NovaVcloudException):
            look.result()
    assert not list(host.dockerd.links.glob('*.limits'))
