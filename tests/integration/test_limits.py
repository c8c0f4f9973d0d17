# SPDX-License-Identifier: Apache-2.0
"""The limits of a flavor: in the kernel, through all that happens to it."""

import contextlib
import json
import os
import subprocess
import time

from desk import Desk
from desk import until
import kernel
from openstack import exceptions
import pytest

from mini import seed

SOON = 60  # seconds
MIB = 1 << 20


def seen(desk: Desk, server) -> dict:
    """Return all limits of a server, from the kernel."""
    host = desk.host_of(server)
    container = desk.container(server)['Id']
    tap = tap_of(desk, server)
    return {**kernel.cgroup(f'/{host.cgroup}/{container}'),
            'in': kernel.rates(host.netns, tap),
            'out': kernel.rates(host.netns, f'ifb{tap[3:]}')}


def tap_of(desk: Desk, server) -> str:
    """Return the name of a server's first tap."""
    links = json.loads(subprocess.check_output(
        ['ip', '-j', '-n', desk.host_of(server).netns, 'link'], text=True))
    return next(link['ifname'] for link in links
                if link['ifname'].startswith('tap')
                and link.get('ifalias', '').startswith(f'nova:{server.id}:'))


def wanted(desk: Desk, flavor: str, host: str) -> dict:
    """Return what a flavor of the seed is to be on a host."""
    found = seed.FLAVORS[flavor]
    per_core = next(h for h in desk.cloud.hosts
                    if h.name == host).ecu_per_core
    cores = int(found.specs['resources:CUSTOM_ECU']) / per_core
    disk = {f'{way}_{unit}': int(found.specs[f'quota:disk_{way}_{name}_sec'])
            for way in ('read', 'write')
            for unit, name in (('bps', 'bytes'), ('iops', 'iops'))}
    kbytes = int(found.specs['quota:vif_inbound_average'])
    return {
        'period': 100_000, 'quota': round(cores * 100_000), 'burst': 0,
        'shares': round(1024 * cores), 'cpus': '0-1',
        'memory': found.ram * MIB, 'memsw': found.ram * MIB,
        'pids': int(found.specs['vcloud:pids']),
        **{kind: {disk_of(desk, host): value}
           for kind, value in disk.items()},
        'in': [kbytes * 1000], 'out': [kbytes * 1000]}


def disk_of(desk: Desk, host: str) -> str:
    """Return 'major:minor' of the whole disk under a host's engine."""
    root = next(h for h in desk.cloud.hosts if h.name == host).data_root
    out = subprocess.check_output(
        ['findmnt', '-no', 'MAJ:MIN', '--target', str(root)], text=True)
    return out.strip()


@pytest.fixture
def server(desk: Desk):
    """A server with every kind of limit."""
    return desk.boot('limited', flavor='c1.small', ip='10.77.0.105',
                     host='compute1')


@pytest.fixture
def kept(desk: Desk, server):
    """Compare all limits with the flavor, before and after."""
    right = wanted(desk, 'c1.small', 'compute1')
    assert seen(desk, server) == right
    yield
    until(lambda: seen(desk, server) == right, SOON,
          f'{seen(desk, server)} is {right}')
    shown = json.loads(desk.manage('compute1', 'qos', 'show', '--json',
                              server.id).stdout)
    assert shown[0]['drift'] == []


@pytest.mark.usefixtures('kept')
@pytest.mark.parametrize('kind', ['SOFT', 'HARD'])
def test_reboot(desk, server, kind):
    before = desk.container(server)['State']['StartedAt']
    desk.compute.reboot_server(server.id, kind)
    until(lambda: desk.container(server)['State']['StartedAt'] != before,
          30, 'restarted')
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('kept')
def test_stop_and_start(desk, server):
    desk.compute.stop_server(server.id)
    desk.wait(server, 'SHUTOFF')
    desk.compute.start_server(server.id)
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('kept')
def test_pause(desk, server):
    desk.compute.pause_server(server.id)
    desk.wait(server, 'PAUSED')
    desk.compute.unpause_server(server.id)
    desk.wait(server, 'ACTIVE')


@pytest.mark.usefixtures('kept')
def test_restart_behind_novas_back_with_nobody_there(desk, server):
    """The runtime alone limits it before its first process runs."""
    right = seen(desk, server)
    with desk.stopped('nova-compute-compute1'):
        desk.engine(desk.host_of(server)).restart(f'nova-{server.id}',
                                                  timeout=0)
        assert seen(desk, server) == right


@pytest.mark.usefixtures('kept')
def test_a_docker_update_by_hand_is_undone(desk, server):
    engine = desk.engine(desk.host_of(server))
    engine.update_container(f'nova-{server.id}', cpu_quota=50_000,
                            cpu_shares=2, mem_limit='128m',
                            memswap_limit='128m')


@pytest.mark.usefixtures('kept')
def test_what_is_written_by_hand_is_undone(desk, server):
    container = desk.container(server)['Id']
    path = kernel.CGROUP / 'blkio' / desk.host_of(server).cgroup / container
    disk = disk_of(desk, 'compute1')
    (path / 'blkio.throttle.write_bps_device').write_text(f'{disk} 0')
    netns = desk.host_of(server).netns
    tap = tap_of(desk, server)
    for device in (tap, f'ifb{tap[3:]}'):
        subprocess.run(['tc', '-n', netns, 'qdisc', 'del', 'dev', device,
                        'root'], check=True)
    limits = seen(desk, server)
    assert (limits['in'], limits['out']) == ([], [])
    until(lambda: all(seen(desk, server)[way] for way in ('in', 'out')), 40,
          'repaired by the watch')


@pytest.mark.usefixtures('kept')
def test_kill_of_the_engine(desk, server):
    old = desk.kill('dockerd-compute1')
    desk.wait_restarted('dockerd-compute1', old)
    until(lambda: desk.engine_ready(desk.host_of(server)), 30, 'engine up')


@pytest.mark.usefixtures('kept')
def test_kill_of_nova_compute(desk, server):
    host = desk.host_of(server)
    said = desk.last_report(host)
    old = desk.kill('nova-compute-compute1')
    desk.wait_restarted('nova-compute-compute1', old)
    until(lambda: desk.compute_ready(host, said), 60, 'nova-compute up')


# Resize


def processes(desk: Desk, server) -> tuple:
    state = desk.container(server)['State']
    return state['Pid'], state['StartedAt']


def resize(desk: Desk, server, flavor: str) -> None:
    desk.compute.resize_server(server.id,
                               desk.compute.find_flavor(flavor).id)


@pytest.mark.matrix('operation.resize')
def test_resize_is_live_and_can_be_confirmed(desk, server):
    before = processes(desk, server)
    resize(desk, server, 'c1.medium')
    desk.wait(server, 'VERIFY_RESIZE')
    right = wanted(desk, 'c1.medium', 'compute1')
    assert seen(desk, server) == right
    desk.compute.confirm_server_resize(server.id)
    desk.wait(server, 'ACTIVE')
    assert processes(desk, server) == before
    assert desk.get(server).flavor.name == 'c1.medium'
    # And the new limits are the ones that last.
    desk.compute.reboot_server(server.id, 'HARD')
    until(lambda: processes(desk, server) != before, 30, 'restarted')
    desk.wait(server, 'ACTIVE')
    assert seen(desk, server) == right


@pytest.mark.matrix('operation.resize')
def test_resize_can_be_reverted_without_a_stop(desk, server):
    before = processes(desk, server)
    right = seen(desk, server)
    resize(desk, server, 'c1.medium')
    desk.wait(server, 'VERIFY_RESIZE')
    assert seen(desk, server) != right
    desk.compute.revert_server_resize(server.id)
    desk.wait(server, 'ACTIVE')
    assert processes(desk, server) == before
    assert seen(desk, server) == right
    assert desk.get(server).flavor.name == 'c1.small'
    desk.answers(server)


def test_resize_of_a_stopped_server(desk, server):
    desk.compute.stop_server(server.id)
    desk.wait(server, 'SHUTOFF')
    resize(desk, server, 'c1.medium')
    desk.wait(server, 'VERIFY_RESIZE')
    desk.compute.confirm_server_resize(server.id)
    desk.wait(server, 'SHUTOFF')
    desk.compute.start_server(server.id)
    desk.wait(server, 'ACTIVE')
    assert seen(desk, server) == wanted(desk, 'c1.medium', 'compute1')


def refused(desk: Desk, server) -> str:
    """Wait for the end of a resize that failed; return the reason."""
    def failed():
        actions = desk.compute.get(
            f'/servers/{server.id}/os-instance-actions').json()
        newest = actions['instanceActions'][0]
        found = desk.compute.get(
            f'/servers/{server.id}/os-instance-actions/'
            f'{newest["request_id"]}', microversion='2.84').json()
        events = found['instanceAction']['events']
        return [e['details'] for e in events
                if newest['action'] == 'resize' and e['details']]
    reasons = until(failed, 30, 'a failed resize')
    assert desk.wait(server, 'ACTIVE').status == 'ACTIVE'
    return ' '.join(reasons)


@contextlib.contextmanager
def flavor(desk: Desk, vcpus: int = 1, ram: int = 64, disk: int = 1,
           **specs: str):
    """Have a flavor for a while; a__b stands for the key a:b."""
    made = desk.compute.create_flavor(
        name=f'test-{time.monotonic_ns()}', vcpus=vcpus, ram=ram, disk=disk)
    try:
        if specs:
            desk.compute.create_flavor_extra_specs(made, {
                key.replace('__', ':'): value
                for key, value in specs.items()})
        yield made.name
    finally:
        desk.compute.delete_flavor(made)


def test_a_smaller_disk_is_refused(desk, server):
    before, right = processes(desk, server), seen(desk, server)
    with flavor(desk, disk=1) as small, pytest.raises(
            exceptions.BadRequestException, match='disk is smaller'):
        resize(desk, server, small)
    assert (processes(desk, server), seen(desk, server)) == (before, right)


def test_less_memory_than_is_in_use_is_refused(desk, server):
    before, right = processes(desk, server), seen(desk, server)
    # A file in memory, which cannot be reclaimed without swap.
    desk.inside(server, 'dd if=/dev/zero of=/dev/shm/f bs=1M count=60')
    with flavor(desk, ram=32, disk=2) as small:
        resize(desk, server, small)
        assert 'MiB of memory' in refused(desk, server)
    assert (processes(desk, server), seen(desk, server)) == (before, right)


def test_a_host_that_cannot_give_it_refuses_before_anything(desk, server):
    right = seen(desk, server)
    with flavor(desk, disk=2, quota__cpu_quota='900000') as greedy:
        resize(desk, server, greedy)
        assert '9 CPUs' in refused(desk, server)
    assert seen(desk, server) == right


# The operator's command


def test_an_override_holds_until_it_expires(desk, server):
    right = seen(desk, server)
    out = desk.manage('compute1', 'qos', 'set', server.id, 'cpu.quota=5000',
                 'pids.max=99', '--for', '15s').stdout
    assert 'override by root' in out
    now = seen(desk, server)
    assert (now['quota'], now['pids']) == (5000, 99)
    until(lambda: seen(desk, server) == right, 60, 'expired')


def test_an_override_can_be_ended(desk, server):
    right = seen(desk, server)
    desk.manage('compute1', 'qos', 'set', server.id, 'cpu.quota=5000',
           '--for', '1h')
    assert seen(desk, server)['quota'] == 5000
    # It outlives a reboot: it is the host's, until then.
    desk.compute.reboot_server(server.id, 'HARD')
    desk.wait(server, 'ACTIVE')
    assert seen(desk, server)['quota'] == 5000
    desk.manage('compute1', 'qos', 'reset', server.id)
    assert seen(desk, server) == right


@pytest.mark.parametrize(('words', 'message'), [
    (['cpu.quota=999'], '1000'), (['cpu.qouta=5000'], 'no limit'),
    (['cpu.quota=many'], 'many'), (['memory.max=-5'], '-5'),
    (['io.999:0.read_bps=5'], '999:0'), (['cpu.burst=900000'], 'quota')])
def test_what_cannot_be_set_is_named(desk, server, words, message):
    right = seen(desk, server)
    done = desk.manage('compute1', 'qos', 'set', server.id, *words, '--for',
                  '1h', check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert seen(desk, server) == right


# Bad requests


@pytest.mark.parametrize('specs', [
    {'vcloud__pids': 'many'}, {'vcloud__pids': '1'},
    {'vcloud__pidz': '100'}, {'vcloud__cpu_placement': 'pin'},
    {'quota__cpu_quota': 'text'}, {'resources__CUSTOM_ECU': 'two'}])
def test_a_bad_extra_spec_is_a_400(desk, specs):
    with pytest.raises(exceptions.BadRequestException), \
            flavor(desk, **specs):
        pass


@pytest.mark.parametrize(('specs', 'message'), [
    ({'quota__cpu_quota': '500'}, 'quota:cpu_quota=500: less than 1000'),
    ({'quota__cpu_quota': '-7'}, 'quota:cpu_quota=-7'),
    ({'vcloud__cpu_burst': '9000', 'quota__cpu_quota': '8000'},
     'more than quota:cpu_quota'),
    ({'quota__cpu_quota': '900000'}, '9 CPUs'),
    ({'quota__disk_total_bytes_sec': '5000000'}, 'their sum'),
    ({'quota__vif_inbound_peak': '500'}, 'without')])
def test_what_the_api_cannot_know_is_a_clear_fault(desk, specs, message):
    with flavor(desk, **specs) as bad:
        server = desk.request('bad', flavor=bad)
        failed = desk.wait(server, 'ERROR')
    assert message in failed.fault['message']


def test_ecu_is_claimed_and_never_more_than_there_is(desk):
    placement = desk.api.placement
    host = next(p for p in placement.resource_providers()
                if p.name == 'compute2')
    inventory = placement.get(
        f'/resource_providers/{host.id}/inventories').json()['inventories']
    assert inventory['CUSTOM_ECU']['total'] == int(
        os.cpu_count() * desk.cloud.hosts[1].ecu_per_core)
    assert inventory['CUSTOM_ECU']['allocation_ratio'] == 4.0
    # More than a host has, less than a project may have.
    with flavor(desk, vcpus=2, resources__CUSTOM_ECU='300') as huge:
        failed = desk.wait(desk.request('huge', flavor=huge), 'ERROR')
    assert 'No valid host' in failed.fault['message']
