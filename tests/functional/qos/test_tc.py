# SPDX-License-Identifier: Apache-2.0
"""Network limits on real links: set, changed, removed, read back."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import itertools
import json
import random
import statistics
import subprocess
import sys
import time

import lan as lan_fixture
import pytest

from nova_vcloud import exception
from nova_vcloud import netns
from nova_vcloud.guest import Guest
from nova_vcloud.qos import limits
from nova_vcloud.qos.backends import base
from nova_vcloud.qos.backends import tc
from nova_vcloud.qos.net import netlink
from nova_vcloud.virt_docker.vif.addresses import Nic

MBIT = 10**6 // 8  # bytes/s
KINDS = sorted(tc.KINDS)
BACKENDS = {way: tc.TcBackend(way) for way in (tc.NETNS, tc.IFB)}
NONE = dict.fromkeys((kind[4:] for kind in KINDS), limits.UNLIMITED)


@dataclasses.dataclass
class Server:
    """A server's links and the backend that limits them."""

    lan: lan_fixture.Lan
    uuid: str
    backend: tc.TcBackend
    nics: tuple[Nic, ...] = ()

    def plug(self, up: bool = True, **changes) -> Nic:
        nic = self.lan.nic(**changes)
        self.lan.network.plug(self.uuid, (nic,), up=up)
        self.nics += (nic,)
        return nic

    @property
    def guest(self) -> Guest:
        return Guest(self.uuid, self.uuid, '', tuple(
            self.lan.network.link(self.uuid, nic) for nic in self.nics))

    def keys(self, nic: Nic) -> list[limits.Key]:
        return [limits.Key('net', kind[4:], nic.port_id) for kind in KINDS]

    def read(self, nic: Nic) -> dict[str, limits.Value]:
        found = self.backend.read(self.guest, self.keys(nic))
        return {key.field: value for key, value in found.items()}

    def set(self, nic: Nic, **wanted: limits.Value) -> None:
        old = self.read(nic)
        self.backend.apply(self.guest, [
            base.Change(limits.Key('net', field, nic.port_id),
                        old.get(field, limits.UNLIMITED), value)
            for field, value in wanted.items()])

    def same(self, nic: Nic, wanted: dict[str, limits.Value]) -> bool:
        found = self.read(nic)
        return found.keys() == wanted.keys() and all(
            self.backend.matches(
                limits.Key('net', field, nic.port_id), value, found[field])
            for field, value in wanted.items())

    @property
    def uses_ifb(self) -> bool:
        return self.backend is BACKENDS[tc.IFB]

    def root(self, nic: Nic, way: str = 'in') -> dict:
        """What tc(8) says of the qdisc that limits a direction."""
        if way == 'in':
            return qdisc(self.lan.name, nic.tap)
        if not self.uses_ifb:
            return qdisc(self.lan.prefix + self.uuid, nic.name)
        if ifb(nic) in self.links():
            return qdisc(self.lan.name, ifb(nic))
        return {'handle': '0:', 'options': {}}

    def links(self) -> set[str]:
        return {link['ifname'] for link in json.loads(
            self.lan.ip('-j', 'link'))}


def ifb(nic: Nic) -> str:
    return 'ifb' + nic.tap[3:]


def qdisc(netns: str, dev: str) -> dict:
    done = subprocess.run(
        ['tc', '-n', netns, '-s', '-j', 'qdisc', 'show', 'dev', dev, 'root'],
        check=True, capture_output=True, text=True)
    return next(iter(json.loads(done.stdout)), {})


def tc_tool(netns: str, *args: str) -> None:
    subprocess.run(['tc', '-n', netns, *args], check=True)


def qdiscs_of_the_machine() -> str:
    return subprocess.run(['tc', 'qdisc'], check=True, text=True,
                          capture_output=True).stdout


@pytest.fixture(params=sorted(BACKENDS))
def backend(request) -> tc.TcBackend:
    return BACKENDS[request.param]


@pytest.fixture
def box(lan, server, backend) -> Iterator[Server]:
    before = qdiscs_of_the_machine()
    found = Server(lan, server, backend)
    yield found
    backend.forget(found.guest)
    assert qdiscs_of_the_machine() == before


def test_all_kinds_hold_here(backend):
    found = backend.support()
    assert found.enforced == tc.KINDS
    assert not found.missing
    assert not found.remarks
    assert backend.support() is found


def test_finding_out_is_quick_and_leaves_nothing(lan):
    before = {name: [lan_fixture.ip('-o', 'link', netns=name),
                     subprocess.run(['ip', 'netns'], check=True,
                                    capture_output=True).stdout]
              for name in ('', lan.name)}
    times = []
    for _ in range(5):
        start = time.perf_counter()
        tc.TcBackend().support()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1
    assert before == {name: [lan_fixture.ip('-o', 'link', netns=name),
                             subprocess.run(['ip', 'netns'], check=True,
                                            capture_output=True).stdout]
                      for name in ('', lan.name)}


def test_nothing_is_limited_at_first(box):
    nic = box.plug()
    assert box.read(nic) == NONE
    assert box.root(nic)['kind'] == 'noqueue'


@pytest.mark.parametrize('way', tc.WAYS)
@pytest.mark.parametrize(('name', 'first', 'second'), [
    ('average', 10 * MBIT, 20 * MBIT + 1), ('peak', 50 * MBIT, 70 * MBIT + 1),
    ('burst', 300_000, 400_000)])
def test_one_kind_is_set_changed_and_removed(box, way, name, first, second):
    nic = box.plug()
    field, average = f'{way}_{name}', f'{way}_average'
    expected = {**NONE, average: 10 * MBIT}
    box.set(nic, **{average: 10 * MBIT})
    assert box.read(nic) == expected
    for value in (first, second):
        box.set(nic, **{field: value})
        assert box.same(nic, {**expected, field: value})
        assert box.read(nic)[field] == pytest.approx(value, rel=0.001)
        assert box.root(nic, way)['kind'] == 'tbf'
    box.set(nic, **{field: limits.UNLIMITED})
    assert box.read(nic) == (NONE if name == 'average' else expected)
    box.set(nic, **{average: limits.UNLIMITED})
    assert box.root(nic, way)['handle'] == '0:'


def test_what_tc_shows(box):
    nic = box.plug()
    box.set(nic, in_average=10 * MBIT, in_peak=30 * MBIT, in_burst=250_000)
    found = box.root(nic)
    assert found['handle'] == f'{netlink.MAJOR:x}:'
    assert found['options']['rate'] == 10 * MBIT
    # Its JSON says nothing of the peak.
    assert 'peakrate 30Mbit' in subprocess.run(
        ['tc', '-n', box.lan.name, 'qdisc', 'show', 'dev', nic.tap],
        check=True, capture_output=True, text=True).stdout
    assert found['options']['burst'] == pytest.approx(250_000, rel=0.001)
    assert box.root(nic, 'out')['handle'] == '0:'


@pytest.mark.parametrize(('way', 'other'), [('in', 'out'), ('out', 'in')])
def test_a_direction_leaves_the_other_alone(box, way, other):
    nic = box.plug()
    box.set(nic, **{f'{other}_average': 70 * MBIT})
    before = box.root(nic, other)
    for value in (10 * MBIT, 20 * MBIT, limits.UNLIMITED):
        box.set(nic, **{f'{way}_average': value})
        found = box.root(nic, other)
        assert found['options'] == before['options']
        assert found['packets'] >= before['packets']  # not made anew
    assert box.read(nic) == {**NONE, f'{other}_average': 70 * MBIT}


def test_nics_have_limits_of_their_own(box):
    first, second = box.plug(), box.plug(name='eth1')
    box.set(first, in_average=10 * MBIT)
    box.set(second, out_average=20 * MBIT)
    assert box.read(first) == {**NONE, 'in_average': 10 * MBIT}
    assert box.read(second) == {**NONE, 'out_average': 20 * MBIT}
    box.backend.apply(box.guest, [
        base.Change(limits.Key('net', field, nic.port_id),
                    limits.UNLIMITED, 30 * MBIT)
        for nic in (first, second)
        for field in ('in_average', 'out_average')])
    for nic in (first, second):
        assert box.read(nic) == {**NONE, 'in_average': 30 * MBIT,
                                 'out_average': 30 * MBIT}


@pytest.mark.parametrize('value', [1000, 2**32 - 1, 2**32, 10**11])
def test_rates_of_any_size(box, value):
    nic = box.plug()
    box.set(nic, in_average=value, in_peak=2 * value)
    assert box.read(nic) == {**NONE, 'in_average': value,
                             'in_peak': 2 * value}


def test_peak_equal_to_average(box):
    nic = box.plug()
    wanted = {'in_average': 10 * MBIT, 'in_peak': 10 * MBIT}
    box.set(nic, **wanted)
    assert box.same(nic, {**NONE, **wanted})


def test_a_burst_that_is_asked_for_is_not_the_one_we_choose(box):
    nic = box.plug()
    box.set(nic, in_average=10 * MBIT)
    chosen = box.root(nic)['options']['burst']
    box.set(nic, in_burst=chosen)
    assert box.read(nic)['in_burst'] == pytest.approx(chosen, rel=0.001)
    box.set(nic, in_burst=limits.UNLIMITED)
    assert box.read(nic)['in_burst'] is limits.UNLIMITED


@pytest.mark.parametrize(('wanted', 'reason'), [
    ({'in_average': 10 * MBIT, 'in_burst': 1000}, 'less than a frame'),
    ({'in_average': 10 * MBIT, 'in_burst': 2**32}, '4 GiB'),
    ({'in_average': 2000, 'in_burst': 2**20}, 'must last between'),
    ({'in_average': 10**10, 'in_burst': 2000}, 'must last between'),
    ({'in_average': 10 * MBIT, 'in_peak': 5 * MBIT}, 'less than average'),
    ({'in_peak': 5 * MBIT}, 'without an average'),
    ({'out_burst': 10**6}, 'without an average'),
])
def test_what_the_kernel_cannot_hold_is_refused(box, wanted, reason):
    nic = box.plug()
    with pytest.raises(exception.LimitNotEnforced, match=reason) as e:
        box.set(nic, **wanted)
    assert nic.port_id in str(e.value)
    assert box.read(nic) == NONE


def test_foreign_root_qdisc_stays(box):
    nic = box.plug()
    tc_tool(box.lan.name, 'qdisc', 'add', 'dev', nic.tap, 'root', 'handle',
            '1:', 'tbf', 'rate', '5mbit', 'burst', '20k', 'latency', '30ms')
    before = box.root(nic)['options']
    assert box.read(nic) == NONE
    with pytest.raises(exception.LimitNotEnforced, match='not ours, tbf 1:'):
        box.set(nic, in_average=10 * MBIT)
    box.set(nic, in_average=limits.UNLIMITED)
    box.set(nic, out_average=10 * MBIT)
    assert box.root(nic)['options'] == before
    assert box.read(nic) == {**NONE, 'out_average': 10 * MBIT}


def test_qdisc_of_another_kind_with_our_number_stays(box):
    nic = box.plug()
    tc_tool(box.lan.name, 'qdisc', 'add', 'dev', nic.tap, 'root', 'handle',
            f'{netlink.MAJOR:x}:', 'pfifo')
    with pytest.raises(exception.LimitNotEnforced, match='not ours'):
        box.set(nic, in_average=10 * MBIT)
    box.set(nic, in_average=limits.UNLIMITED)
    assert box.root(nic)['kind'] == 'pfifo'


def test_removed_by_hand_is_seen_and_set_again(box):
    nic = box.plug()
    box.set(nic, in_average=10 * MBIT, out_average=10 * MBIT)
    tc_tool(box.lan.name, 'qdisc', 'del', 'dev', nic.tap, 'root')
    assert box.read(nic) == {**NONE, 'out_average': 10 * MBIT}
    box.set(nic, in_average=10 * MBIT)
    assert box.read(nic)['in_average'] == 10 * MBIT


def test_limits_of_a_link_that_was_never_up(box):
    nic = box.plug(up=False)
    assert box.read(nic) == NONE
    box.set(nic, in_average=10 * MBIT, out_average=20 * MBIT)
    box.lan.network.set_carrier(box.uuid, True)
    assert box.read(nic) == {**NONE, 'in_average': 10 * MBIT,
                             'out_average': 20 * MBIT}


def test_port_that_is_not_there(box):
    nic = box.plug()
    box.lan.network.unplug(box.uuid, (nic,))
    assert box.read(nic) == {}
    with pytest.raises(exception.LimitNotEnforced, match=nic.tap):
        box.set(nic, in_average=10 * MBIT)
    unknown = box.lan.nic()
    assert box.read(unknown) == {}
    with pytest.raises(exception.LimitNotEnforced, match='no such port'):
        box.set(unknown, in_average=10 * MBIT)


def test_tap_of_another_server_is_not_ours(box):
    nic = box.plug()
    box.lan.ip('link', 'set', nic.tap, 'alias', f'nova:other:{nic.port_id}')
    try:
        assert box.read(nic) == {}
        with pytest.raises(exception.LimitNotEnforced):
            box.set(nic, in_average=10 * MBIT)
        assert box.root(nic)['handle'] == '0:'
    finally:
        box.lan.ip('link', 'set', nic.tap, 'alias',
                   f'nova:{box.uuid}:{nic.port_id}')


def test_guest_without_namespace_is_read_as_far_as_it_goes(box):
    nic = box.plug()
    box.set(nic, in_average=10 * MBIT, out_average=10 * MBIT)
    link = dataclasses.replace(box.guest.links[0], namespace='no-such')
    guest = dataclasses.replace(box.guest, links=(link,))
    found = box.backend.read(guest, box.keys(nic))
    assert {key.field for key in found} == {
        'in_average', 'in_peak', 'in_burst'} | (
            {'out_average', 'out_peak', 'out_burst'}
            if box.uses_ifb else set())


def test_a_name_inside_that_changed_does_not_matter(box):
    nic = box.plug()
    box.lan.server_ip(box.uuid, 'link', 'set', nic.name, 'name', 'wan')
    box.set(nic, out_average=10 * MBIT)
    assert box.read(nic)['out_average'] == 10 * MBIT
    inside = qdisc(box.lan.prefix + box.uuid, 'wan')
    assert inside['kind'] == 'noqueue' if box.uses_ifb else 'tbf'


@pytest.fixture
def by_ifb(lan, server) -> Iterator[Server]:
    found = Server(lan, server, BACKENDS[tc.IFB])
    yield found
    found.backend.forget(found.guest)


def test_ifb_goes_with_the_limit(by_ifb):
    nic = by_ifb.plug()
    by_ifb.set(nic, in_average=10 * MBIT)
    assert ifb(nic) not in by_ifb.links()
    by_ifb.set(nic, out_average=10 * MBIT)
    assert ifb(nic) in by_ifb.links()
    assert f'nova:{by_ifb.uuid}:{nic.port_id}' in by_ifb.lan.ip(
        'link', 'show', ifb(nic))
    assert not by_ifb.lan.ip('addr', 'show', ifb(nic)).count('inet')
    by_ifb.set(nic, out_average=limits.UNLIMITED)
    assert ifb(nic) not in by_ifb.links()
    assert ingress(by_ifb, nic) == []
    assert by_ifb.read(nic) == {**NONE, 'in_average': 10 * MBIT}


def ingress(box: Server, nic: Nic) -> list:
    done = subprocess.run(
        ['tc', '-n', box.lan.name, '-j', 'qdisc', 'show', 'dev', nic.tap,
         'ingress'], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_guest_without_namespace_gets_an_ifb(lan, server):
    """As libvirt's guests: the other end is of no concern to us."""
    box = Server(lan, server, BACKENDS[tc.NETNS])
    nic = box.plug()
    guest = dataclasses.replace(box.guest, links=(dataclasses.replace(
        box.guest.links[0], namespace='', name=''),))
    key = limits.Key('net', 'out_average', nic.port_id)
    box.backend.apply(guest, [
        base.Change(key, limits.UNLIMITED, 10 * MBIT)])
    assert box.backend.read(guest, [key]) == {key: 10 * MBIT}
    assert ifb(nic) in box.links()
    box.backend.forget(guest)
    assert ifb(nic) not in box.links()


@pytest.mark.parametrize('verb', ['unplug', 'destroy', 'gone'])
def test_ifb_goes_with_the_nic(by_ifb, verb):
    nic, other = by_ifb.plug(), by_ifb.plug(name='eth1')
    for each in (nic, other):
        by_ifb.set(each, out_average=10 * MBIT)
    if verb == 'unplug':
        by_ifb.lan.network.unplug(by_ifb.uuid, (nic,))
        assert ifb(other) in by_ifb.links()
    else:
        if verb == 'gone':
            by_ifb.lan.ip('link', 'del', nic.tap)
        by_ifb.lan.network.destroy(by_ifb.uuid)
        assert ifb(other) not in by_ifb.links()
    assert ifb(nic) not in by_ifb.links()


def test_ifb_that_was_left_is_forgotten(by_ifb):
    nic = by_ifb.plug()
    by_ifb.set(nic, out_average=10 * MBIT)
    by_ifb.lan.ip('link', 'del', nic.tap)
    assert ifb(nic) in by_ifb.links()
    by_ifb.backend.forget(by_ifb.guest)
    assert ifb(nic) not in by_ifb.links()
    by_ifb.backend.forget(by_ifb.guest)


def test_ifb_that_was_left_serves_the_next_tap(by_ifb):
    nic = by_ifb.plug()
    by_ifb.set(nic, out_average=10 * MBIT)
    by_ifb.lan.ip('link', 'del', nic.tap)
    by_ifb.lan.network.plug(by_ifb.uuid, (nic,))
    assert by_ifb.read(nic) == NONE
    by_ifb.set(nic, out_average=20 * MBIT)
    assert by_ifb.read(nic)['out_average'] == 20 * MBIT


@pytest.mark.parametrize('command', [
    'qdisc del dev {tap} ingress', 'qdisc del dev {ifb} root',
    'filter del dev {tap} ingress', 'link'])
def test_by_ifb_broken_by_hand_is_seen_and_mended(by_ifb, command):
    nic = by_ifb.plug()
    by_ifb.set(nic, in_average=10 * MBIT, out_average=10 * MBIT)
    if command == 'link':
        by_ifb.lan.ip('link', 'del', ifb(nic))
    else:
        tc_tool(by_ifb.lan.name,
                *command.format(tap=nic.tap, ifb=ifb(nic)).split())
    assert by_ifb.read(nic) == {**NONE, 'in_average': 10 * MBIT}
    by_ifb.set(nic, out_average=10 * MBIT)
    assert by_ifb.read(nic)['out_average'] == 10 * MBIT
    assert by_ifb.lan.pings_all(nic)


FILTER = 'filter add dev {tap} ingress prio 7 u32 match u32 0 0 flowid 1:1'


@pytest.mark.parametrize(('kind', 'commands'), [
    ('clsact', ['qdisc add dev {tap} clsact']),
    ('ingress', ['qdisc add dev {tap} ingress', FILTER])])
def test_foreign_ingress_qdisc_stays(by_ifb, kind, commands):
    nic = by_ifb.plug()
    for command in commands:
        tc_tool(by_ifb.lan.name, *command.format(tap=nic.tap).split())
    with pytest.raises(exception.LimitNotEnforced, match=f'{kind} qdisc'):
        by_ifb.set(nic, out_average=10 * MBIT)
    by_ifb.set(nic, out_average=limits.UNLIMITED)
    by_ifb.backend.forget(by_ifb.guest)
    assert ingress(by_ifb, nic)[0]['kind'] == kind
    assert ('pref 7' in filters(by_ifb, nic)) == (FILTER in commands)
    assert ifb(nic) not in by_ifb.links()


def filters(box: Server, nic: Nic) -> str:
    return subprocess.run(
        ['tc', '-n', box.lan.name, 'filter', 'show', 'dev', nic.tap,
         'ingress'], check=True, capture_output=True, text=True).stdout


def test_filters_of_others_stay(by_ifb):
    nic = by_ifb.plug()
    by_ifb.set(nic, out_average=10 * MBIT)
    tc_tool(by_ifb.lan.name, *FILTER.format(tap=nic.tap).split())
    assert by_ifb.read(nic)['out_average'] == 10 * MBIT
    by_ifb.set(nic, out_average=limits.UNLIMITED)
    assert 'pref 7' in filters(by_ifb, nic)
    assert 'mirred' not in filters(by_ifb, nic)


def test_ifb_of_others_stays(by_ifb):
    nic = by_ifb.plug()
    by_ifb.lan.ip('link', 'add', ifb(nic), 'type', 'ifb')
    by_ifb.lan.ip('link', 'set', ifb(nic), 'alias', 'mine')
    try:
        with pytest.raises(exception.LimitNotEnforced, match=ifb(nic)):
            by_ifb.set(nic, out_average=10 * MBIT)
        by_ifb.backend.forget(by_ifb.guest)
        assert ifb(nic) in by_ifb.links()
    finally:
        by_ifb.lan.ip('link', 'del', ifb(nic))


@pytest.mark.parametrize(('old', 'new'), [
    (tc.NETNS, tc.IFB), (tc.IFB, tc.NETNS)])
def test_another_way_out_replaces_the_one_before(lan, server, old, new):
    box = Server(lan, server, BACKENDS[old])
    nic = box.plug()
    box.set(nic, out_average=10 * MBIT)
    box.backend = BACKENDS[new]
    box.set(nic, out_average=20 * MBIT)
    box.backend = BACKENDS[old]
    assert box.read(nic) == NONE
    BACKENDS[new].forget(box.guest)


def test_many_changes_end_as_the_last_of_each(box):
    """Random sets and removals, one to six kinds at a time, by a model."""
    seed = random.randrange(10**6)
    print('seed', seed)
    rng = random.Random(seed)
    nic = box.plug()
    model = dict(NONE)
    for _ in range(100):
        change = {field: rng.choice([limits.UNLIMITED, choice])
                  for field, choice in {
                      f'{way}_{name}': rng.randrange(*bounds)
                      for way in tc.WAYS for name, bounds in {
                          'average': (1 * MBIT, 1000 * MBIT),
                          'peak': (1000 * MBIT, 9000 * MBIT),
                          'burst': (70_000, 2_000_000)}.items()}.items()
                  if rng.random() < 0.5}
        wanted = {**model, **change}
        for way in tc.WAYS:
            if wanted[f'{way}_average'] is limits.UNLIMITED:
                for name in ('peak', 'burst'):
                    change.pop(f'{way}_{name}', None)
                    wanted[f'{way}_{name}'] = limits.UNLIMITED
        if change:
            box.set(nic, **change)
        model = wanted
        assert box.same(nic, model), (change, model, box.read(nic))


def test_time_of_five_limits(box):
    nic = box.plug()
    times = []
    for number in range(40):
        start = time.perf_counter()
        box.set(nic, in_average=(10 + number) * MBIT, in_burst=200_000,
                in_peak=200 * MBIT, out_average=20 * MBIT, out_burst=300_000)
        box.read(nic)
        times.append((time.perf_counter() - start) * 1000)
    print(f'read, apply, read back: {statistics.median(times):.2f} ms median, '
          f'{max(times):.2f} ms at most')
    assert box.read(nic)['in_average'] == 49 * MBIT


@netns.own_thread
def received(box: Server, nic: Nic, way: str) -> tuple[float, int]:
    """Time, and bytes of frames that came out at a direction's far end."""
    place, device, header = {
        'in': (box.lan.prefix + box.uuid, nic.name, 0),
        # A bridge's own counter leaves out the Ethernet header.
        'out': (box.lan.name, lan_fixture.BRIDGE, 14)}[way]
    netns.enter(place)
    with open('/proc/thread-self/net/dev') as devices:
        now = time.monotonic()
        line = next(line for line in devices
                    if line.strip().startswith(f'{device}:'))
    size, packets = map(int, line.split()[1:3])
    return now, size + header * packets


#: Sends half as much again as 100 Mbit/s; prints when it was kept from it.
SENDER = '''
import signal, socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect((sys.argv[1], 9))
stop, gaps, sent = [], [], 0
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
last = start = time.monotonic()
while not stop:
    ahead = sent / 18.75e6 - (last - start)
    if ahead > 0:  # sleep(0) takes long enough to send too little
        time.sleep(ahead)
    try:
        out.send(bytes(1400))
    except OSError:
        pass
    sent += 1442
    now = time.monotonic()
    if now - last > 0.02:
        gaps.append((last, now))
    last = now
print(gaps)
'''
AFTER_GAP = 0.1  # seconds; what was saved up meanwhile passes


@contextlib.contextmanager
def flood(box: Server, nic: Nic, way: str
          ) -> Iterator[list[tuple[float, float]]]:
    """Send UDP in a direction, more than fits.

    :returns: a list, filled at the end: when nothing was sent
    """
    place, target = ((box.lan.name, nic.addresses[0].partition('/')[0])
                     if way == 'in' else
                     (box.lan.prefix + box.uuid, lan_fixture.GATEWAY))
    sender = subprocess.Popen(
        ['ip', 'netns', 'exec', place, sys.executable, '-c', SENDER, target],
        stdout=subprocess.PIPE, text=True)
    gaps: list[tuple[float, float]] = []
    try:
        yield gaps
    finally:
        sender.terminate()
        gaps += json.loads(sender.communicate()[0].replace(
            '(', '[').replace(')', ']'))


def rates(box: Server, nic: Nic, way: str, count: int
          ) -> list[tuple[float, float, float]]:
    """Return (start, end, bytes/s) of seconds one after the other."""
    looks = [received(box, nic, way)]
    for _ in range(count):
        time.sleep(1)
        looks.append(received(box, nic, way))
    return [(t0, t1, (b1 - b0) / (t1 - t0))
            for (t0, b0), (t1, b1) in itertools.pairwise(looks)]


def fed(found: list[tuple[float, float, float]],
        gaps: list[tuple[float, float]]) -> list[float]:
    """Return the rates of seconds in which something was sent all the time.

    What a busy host did not let anybody send cannot pass.
    """
    return [speed for start, end, speed in found if not any(
        start < resumed + AFTER_GAP and paused < end
        for paused, resumed in gaps)]


@pytest.mark.parametrize('way', tc.WAYS)
def test_speed_is_what_was_set(box, way):
    nic = box.plug()
    for _attempt in range(5):
        box.set(nic, **{f'{way}_average': 100 * MBIT})
        with flood(box, nic, way) as gaps:
            time.sleep(1)
            fast = rates(box, nic, way, 6)
            # Nothing that waits is in the way of a change.
            box.set(nic, **{f'{way}_average': 20 * MBIT})
            time.sleep(1)
            slow = rates(box, nic, way, 6)
        first, second = fed(fast, gaps), fed(slow, gaps)
        if first and second:
            break
    else:
        pytest.fail(f'the host is too busy to tell: {gaps}')
    assert first == pytest.approx([100 * MBIT] * len(first), rel=0.02), gaps
    assert second == pytest.approx([20 * MBIT] * len(second), rel=0.02), gaps


def test_change_in_place_keeps_what_waits(box):
    nic = box.plug()
    # A change fills the bucket anew: it must hold less than the queue.
    box.set(nic, in_average=25_000, in_burst=3000)
    with flood(box, nic, 'in'):
        lan_fixture.wait_until(lambda: box.root(nic)['drops'] > 10_000)
        box.set(nic, in_average=30_000)
        after = box.root(nic)
    assert after['drops'] > 10_000  # a new qdisc begins at 0
    assert after['backlog'] > 0


def test_packet_larger_than_the_new_bucket_blocks_nobody(box):
    """Without a new qdisc, tbf_dequeue would wait for it for ever."""
    nic = box.plug()
    box.set(nic, out_average=4 * MBIT, out_burst=500_000,
            out_peak=1000 * MBIT)
    receive = ('import socket\n'
               "s = socket.create_server(('', 5001))\n"
               "print('ready', flush=True)\n"
               'c, _ = s.accept()\n'
               'while c.recv(1 << 20): pass\n')
    send = ('import socket\n'
            's = socket.create_connection('
            f'({lan_fixture.GATEWAY!r}, 5001))\n'
            'while True: s.sendall(bytes(1 << 20))\n')
    sink = subprocess.Popen(
        ['ip', 'netns', 'exec', box.lan.name, sys.executable, '-c', receive],
        stdout=subprocess.PIPE, text=True)
    assert sink.stdout
    assert sink.stdout.readline() == 'ready\n'
    sender = subprocess.Popen(
        ['ip', 'netns', 'exec', box.lan.prefix + box.uuid, sys.executable,
         '-c', send])
    try:
        time.sleep(1)
        box.set(nic, out_burst=2000, out_peak=5 * MBIT)
        time.sleep(0.5)
        assert max(speed for _start, _end, speed
                   in rates(box, nic, 'out', 2)) > 1 * MBIT
    finally:
        for process in (sender, sink):
            process.kill()
            process.wait()
        sink.stdout.close()
