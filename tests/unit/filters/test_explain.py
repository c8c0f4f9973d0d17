# SPDX-License-Identifier: Apache-2.0
"""An explanation is what filters and weighers say, in their order."""

from nova.scheduler.filters import compute_filter
from nova.scheduler.weights import ram
import zoo

from nova_vcloud.cmd import manage_scheduler
from nova_vcloud.filters import ecu_filter
from nova_vcloud.filters import explain
from nova_vcloud.filters import weighers


class Picky(compute_filter.ComputeFilter):
    """A filter of Nova's kind, which does not say why."""

    def host_passes(self, host_state, spec_obj):
        return host_state.host != 'down'


def explained(spec, *hosts):
    return explain.walk(
        [Picky(), ecu_filter.EcuFilter()],
        [ram.RAMWeigher(), weighers.SameHostWeigher()], hosts, spec)


def hosts():
    return [zoo.host('slow', stats={'ecu_per_core': '2.5'}), zoo.host('down'),
            zoo.host('small', free=1024), zoo.host('large', free=2048)]


def test_the_first_is_the_one_that_would_be_chosen():
    found = explained(zoo.request(resources__CUSTOM_ECU='4'), *hosts())
    assert [(v.host, v.passed, v.reason) for v in found] == [
        ('large', True, ''), ('small', True, ''),
        ('down', False, explain.NOT_SAID),
        ('slow', False, 'needs 4 ECU a core, has 2.5')]
    assert found[0].scores == {'RAMWeigher': 1.0, 'SameHostWeigher': 0.0}
    assert found[2].filters == {'Placement': True, 'Picky': False}


def test_tables():
    found = explained(zoo.request(resources__CUSTOM_ECU='4'), *hosts())
    text = manage_scheduler._tables(found)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ['host', 'Picky', 'EcuFilter', 'reason']
    assert lines[1] == ['large', 'ok', 'ok']
    assert lines[4] == ['slow', 'ok', 'NO', 'needs', '4', 'ECU', 'a',
                        'core,', 'has', '2.5']
    assert ['no', 'objection:', 'Placement'] in lines
    assert ['large', '1.000', '1.000'] in lines
    assert text.endswith('0 for every host: SameHostWeigher')


def test_nothing_left():
    found = explained(zoo.request(resources__CUSTOM_ECU='4'),
                      *hosts()[:2])
    assert 'No valid host was found' in manage_scheduler._tables(found)
    assert explained(zoo.request()) == []


def test_a_sum_of_weighers_is_explained_by_its_parts():
    found = explain.walk([], [weighers.VcloudWeigher()],
                         [zoo.host('a'), zoo.host('b', used=2)],
                         zoo.request())
    assert [v.host for v in found] == ['a', 'b']
    assert set(found[0].scores) == {kind.__name__ for kind in weighers.KINDS}
    assert found[0].scores['UsageWeigher'] == 1.0
