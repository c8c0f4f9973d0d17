# SPDX-License-Identifier: Apache-2.0
"""Projects stay in their zones; administrators go where they like."""

import logging

from hypothesis import given
from hypothesis import strategies as st
from nova import context
import zoo

from nova_vcloud.filters import zone_filter

MINE, YOURS = ({'filter_tenant_id': text} for text in ('p', 'q, r'))


def passed(hosts, spec=None):
    return zoo.passed(zone_filter.ZoneFilter, hosts, spec or zoo.request())


def as_admin(project):
    spec = zoo.request()
    spec._context = context.RequestContext('admin', project, is_admin=True)
    return spec


def test_only_in_zones_that_let_it_in(caplog):
    hosts = [zoo.host('a', MINE), zoo.host('b', YOURS), zoo.host('c')]
    with caplog.at_level(logging.INFO):
        assert passed(hosts) == ['a', 'c']
    assert 'host b rejected' in caplog.text
    assert 'project p is not let into pool' in caplog.text


def test_more_keys_make_a_longer_list():
    assert passed([zoo.host('b', YOURS, {'filter_tenant_id_2': 'p'})]) == [
        'b']


def test_an_administrators_own_servers_go_anywhere():
    assert passed([zoo.host('b', YOURS)], as_admin('p')) == ['b']


def test_an_administrator_moves_others_to_their_zones_only():
    assert passed([zoo.host('b', YOURS)], as_admin('admins')) == []


@given(st.lists(st.dictionaries(st.text(max_size=3) | st.sampled_from(
    ['filter_tenant_id', 'filter_tenant_id2']), st.text(max_size=5)),
    max_size=3), st.none() | st.text(max_size=3))
def test_whatever_is_said_nothing_is_raised(pools, project):
    assert passed([zoo.host('a', *pools)], zoo.request(
        project=project)) in ([], ['a'])
