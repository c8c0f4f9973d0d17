# SPDX-License-Identifier: Apache-2.0
"""Where servers go, and what the scheduler says of where they do not."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import concurrent.futures
import contextlib
import json
import subprocess

from desk import Desk
from desk import until
import pytest

from mini import services

MANY = 20


def ask(desk: Desk, name: str, flavor: str = 'c1.tiny',
        host: str | None = None, zone: str | None = None, **hints: str):
    """Ask for a server with hints; return it as the API first shows it."""
    body = {'name': name, 'flavorRef': desk.compute.find_flavor(flavor).id,
            'imageRef': desk.api.image.find_image('tiny').id,
            'networks': [{'uuid': desk.network_id}]}
    where = {'host': host, 'availability_zone': zone}
    body |= {key: value for key, value in where.items() if value}
    answer = desk.compute.post('/servers', microversion='2.74', json={
        'server': body, 'OS-SCH-HNT:scheduler_hints': hints})
    assert answer.ok, answer.text
    return desk.compute.get_server(answer.json()['server']['id'])


def boot(desk: Desk, name: str, **wishes: str) -> str:
    """Boot a server; return the name of its host."""
    return desk.wait(ask(desk, name, **wishes), 'ACTIVE').compute_host


def settled(desk: Desk, servers: list) -> list:
    """Wait until servers are what they will be; return them."""
    def all_done():
        now = [desk.get(server) for server in servers]
        return now if all(s.status in ('ACTIVE', 'ERROR')
                          and not s.task_state for s in now) else None
    return until(all_done, 180, 'all servers ACTIVE or in ERROR', every=1)


@pytest.fixture
def said(desk: Desk):
    """Return what nova-scheduler has logged since the test began."""
    path = services.log_path(desk.cloud, 'nova-scheduler')
    start = path.stat().st_size

    def read() -> str:
        with path.open('rb') as f:
            f.seek(start)
            return f.read().decode(errors='replace')
    return read


def forget(found: object | None, delete: Callable) -> None:
    """Delete what a run that was cut off has left."""
    if found:
        delete(found)


def empty(desk: Desk, found) -> None:
    """Delete an aggregate and first take its hosts out."""
    for host in found.hosts or ():
        desk.compute.remove_host_from_aggregate(found, host)
    desk.compute.delete_aggregate(found)


@contextlib.contextmanager
def aggregate(desk: Desk, *hosts: str, **metadata: str) -> Iterator[None]:
    """Have an aggregate of hosts; a__b stands for a:b."""
    forget(desk.compute.find_aggregate('test-pool'), lambda old: empty(
        desk, old))
    found = desk.compute.create_aggregate(name='test-pool')
    try:
        for host in hosts:
            desk.compute.add_host_to_aggregate(found, host)
        desk.compute.set_aggregate_metadata(found, {
            key.replace('__', ':'): value
            for key, value in metadata.items()})
        yield
    finally:
        empty(desk, desk.compute.get_aggregate(found))


def explain(desk: Desk, *words: str) -> tuple[int, list]:
    """Run nova-vcloud-manage scheduler explain; return exit code, verdicts."""
    done = subprocess.run(
        [f'{desk.cloud.venv}/bin/nova-vcloud-manage', '--config-file',
         str(desk.cloud.etc / 'nova/nova.conf'), 'scheduler', 'explain',
         '--json', *words], check=False, capture_output=True, text=True,
        env=services.environment(desk.cloud, 'step'))
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_one_core_must_be_fast_enough(desk: Desk, said):
    """compute1 has 2.5 ECU a core, compute2 4."""
    with desk.flavor('e4.single', resources__CUSTOM_ECU='4'), \
            desk.flavor('e4.double', vcpus=2, resources__CUSTOM_ECU='4'):
        code, verdicts = explain(desk, '--flavor', 'e4.single')
        reasons = {v['host']: v['reason'] for v in verdicts}
        assert code == 0
        assert reasons == {'compute1': 'needs 4 ECU a core, has 2.5',
                           'compute2': ''}
        assert {boot(desk, f'single-{n}', flavor='e4.single')
                for n in range(3)} == {'compute2'}
        assert 'EcuFilter: host compute1 rejected' in said()
        assert 'needs 4 ECU a core, has 2.5' in said()
        never = ask(desk, 'never', flavor='e4.single', host='compute1')
        fault = desk.wait(never, 'ERROR').fault
        assert 'No valid host was found' in fault['message']
        assert boot(desk, 'double', flavor='e4.double',
                    host='compute1') == 'compute1'


@pytest.mark.matrix('operation.report-cpu-traits')
def test_traits_of_cpus_choose_hosts(desk: Desk):
    with open('/proc/cpuinfo') as f:
        flags = next(line for line in f if line.startswith('flags')).split()
    has = {name: f'HW_CPU_X86_{name}'.upper() for name in ('avx2', 'tbm')
           if name in flags}
    with desk.flavor('traits', **{
            f'trait__{trait}': 'required' for trait in has.values()}):
        assert has
        boot(desk, 'has-them', flavor='traits')
    with desk.flavor('traits', trait__HW_CPU_X86_AVX512ER='required'):
        assert 'avx512er' not in flags
        fault = desk.wait(ask(desk, 'never', flavor='traits'), 'ERROR').fault
        assert 'No valid host was found' in fault['message']


def test_a_hard_maximum_of_an_application(desk: Desk, said):
    wish = {'app': 'hard', 'app_max_per_host': '1'}
    assert {boot(desk, f'hard-{n}', **wish) for n in range(2)} == {
        'compute1', 'compute2'}
    third = desk.wait(ask(desk, 'hard-3', **wish), 'ERROR')
    assert 'No valid host was found' in third.fault['message']
    assert 'has 1 servers of application hard, may have 1' in said()
    # Soft is as far as it goes; another application has its own count.
    assert boot(desk, 'hard-4', app_policy='soft', **wish)
    assert boot(desk, 'other', app='other', app_max_per_host='1')


def test_servers_of_an_application_spread_without_any_maximum(desk: Desk):
    hosts = [boot(desk, f'spread-{n}', app='spread') for n in range(4)]
    assert set(collections.Counter(hosts).values()) == {2}
    assert hosts[0] != hosts[1]
    assert hosts[2] != hosts[3]


def test_a_bad_hint_is_named_in_the_log(desk: Desk, said):
    server = ask(desk, 'bad', app='web', app_max_per_host='some')
    desk.wait(server, 'ERROR')
    assert 'hint app_max_per_host=some' in said()


def test_pools_spread_or_fill(desk: Desk):
    hosts = [host.name for host in desk.cloud.hosts]
    # Nova's BuildFailureWeigher, stronger than all others, avoids a host where
    # builds failed, as other tests want them to, until one succeeds there.
    for host in hosts:
        boot(desk, f'fill-on-{host}', zone=f'nova:{host}')
    delete(desk, 'fill-on-')
    with aggregate(desk, *hosts, vcloud__policy='progressive'):
        assert len({boot(desk, f'fill-{n}') for n in range(3)}) == 1
    delete(desk, 'fill-')
    with aggregate(desk, *hosts, vcloud__policy='performance'):
        # The load that was measured counts as well. Both hosts are this
        # machine, but may have measured it when it was not equally busy.
        used: set[str] = set()
        for n in range(8):
            used.add(boot(desk, f'turn-{n}'))
            if len(used) == 2:
                break
        assert len(used) == 2


def delete(desk: Desk, name: str) -> None:
    """Delete servers, and wait until the scheduler counts none."""
    desk.delete(*desk.compute.servers(name=name))
    # Nova counts a server for a moment longer than its API shows it.
    until(lambda: not any(map(desk.counted, desk.cloud.hosts)), 60,
          'the hosts count no server')


def test_an_administrator_names_the_host(desk: Desk):
    assert boot(desk, 'named', zone='nova:compute1') == 'compute1'
    assert boot(desk, 'wished', host='compute2') == 'compute2'


def test_an_explanation_of_what_cannot_be(desk: Desk):
    one = ask(desk, 'one', app='why', app_max_per_host='1', host='compute1')
    desk.wait(one, 'ACTIVE')
    code, verdicts = explain(
        desk, '--flavor', 'c1.tiny', '--hint', 'app=why', '--hint',
        'app_max_per_host=1', '--project', desk.api.current_project_id,
        '--host', 'compute1')
    assert code == 2
    assert [v['reason'] for v in verdicts] == [
        'host compute1 has 1 servers of application why, may have 1']
    # Of a resize; its own server is in nobody's way.
    code, verdicts = explain(desk, '--flavor', 'c1.small', '--server', one.id)
    assert code == 0
    assert verdicts[0]['host'] == 'compute1'
    assert verdicts[0]['scores']['SameHostWeigher'] == 1000


# Last: Nova avoids a host that refused a build, until one succeeds there.

def test_the_host_itself_refuses_one_too_many(desk: Desk):
    """A named host asks no filter, so only the host can tell."""
    wish = {'app': 'late', 'app_max_per_host': '1',
            'zone': 'nova:compute1'}
    boot(desk, 'late-1', **wish)
    host = next(h for h in desk.cloud.hosts if h.name == 'compute1')
    mark = desk.log_mark(host)
    desk.wait(ask(desk, 'late-2', **wish), 'ERROR')
    assert ('this host has 1 servers of application late, may have 1'
            in desk.log_since(host, mark))


def test_of_many_at_once_never_two_on_a_host(desk: Desk):
    wish = {'app': 'race', 'app_max_per_host': '1'}
    with concurrent.futures.ThreadPoolExecutor(MANY) as pool:
        servers = list(pool.map(
            lambda n: ask(desk, f'race-{n}', **wish), range(MANY)))
    done = settled(desk, servers)
    hosts = collections.Counter(
        s.compute_host for s in done if s.status == 'ACTIVE')
    assert hosts
    assert set(hosts.values()) == {1}
    for host in desk.cloud.hosts:
        containers = desk.engine(host).containers(all=True, filters={
            'label': 'org.openstack.nova.application'})
        assert len(containers) == hosts[host.name]
