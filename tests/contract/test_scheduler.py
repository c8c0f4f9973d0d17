# SPDX-License-Identifier: Apache-2.0
"""What filters and weighers take for granted of the installed Nova."""

from nova import objects
from nova.objects import image_meta
from nova.scheduler import filters
from nova.scheduler import manager
from nova.scheduler import weights
from oslo_serialization import jsonutils
import pytest
import zoo

from nova_vcloud.filters import all_filters
from nova_vcloud.filters import app_reader
from nova_vcloud.filters import choices
from nova_vcloud.filters import weighers
from nova_vcloud.flavor import applications


def test_nova_finds_the_filters_by_the_name_of_their_function():
    found = filters.HostFilterHandler().get_matching_classes(
        ['nova.scheduler.filters.all_filters',
         'nova_vcloud.filters.all_filters'])
    assert set(all_filters()) <= set(found)
    assert {kind.__name__ for kind in all_filters()} == {
        'EcuFilter', 'AppAntiAffinityFilter', 'ZoneFilter'}


def test_nova_finds_the_weighers_by_the_name_of_their_function():
    found = weights.HostWeightHandler().get_matching_classes(
        ['nova.scheduler.weights.all_weighers',
         'nova_vcloud.filters.weighers.all_weighers'])
    assert set(weighers.all_weighers()) <= set(found)


def test_nova_takes_a_sum_of_weights_as_it_is():
    """Its bounds of 0 and 1 are a scale, and nothing is cut off by them."""
    class Sum(weights.BaseHostWeigher):
        minval, maxval = (weighers.VcloudWeigher.minval,
                          weighers.VcloudWeigher.maxval)

        def weigh_objects(self, weighed_obj_list, weight_properties):
            return [-3.5, 1101.5, 0.25]

        def _weigh_object(self, host_state, weight_properties):
            raise AssertionError

    found = weights.HostWeightHandler().get_weighed_objects(
        [Sum()], [zoo.host(name) for name in 'abc'], zoo.request())
    assert [(each.obj.host, each.weight) for each in found] == [
        ('b', 1101.5), ('c', 0.25), ('a', -3.5)]


def test_nova_tells_a_host_that_it_was_chosen(monkeypatch):
    recent, heard = choices.Choices(), []
    monkeypatch.setattr(choices, 'RECENT', recent)
    recent.listen(lambda *choice: heard.append(choice))
    host, spec = zoo.host('a'), zoo.request()
    spec.instance_group = None
    choices.watch([host])
    choices.watch([host])
    assert isinstance(host, manager.host_manager.HostState)
    manager.SchedulerManager._consume_selected_host(
        host, spec, spec.instance_uuid)
    assert heard == [(spec.instance_uuid, 'a')]
    assert host.vcpus_used == 1
    assert recent.turns() == {'a': 1.0}


@pytest.mark.parametrize('wish', [
    {'hints': {'app': 'web'}}, {'vcloud__app': 'web'}])
def test_nova_stores_requests_as_they_are_read(wish):
    spec = zoo.request(**wish)
    text = jsonutils.dumps(spec.obj_to_primitive())
    assert app_reader.application(text) == applications.Key('p', 'web')
    # What the database is asked for.
    assert any(pattern.strip('%') in text
               for pattern in (app_reader._HINT, app_reader._SPEC))


def test_nova_drops_image_properties_that_it_has_no_name_for():
    found = image_meta.ImageMeta.from_dict({'properties': {
        'vcloud_app': 'web', 'hw_cpu_policy': 'dedicated'}})
    assert found.properties.hw_cpu_policy == 'dedicated'
    assert not hasattr(found.properties, 'vcloud_app')


def test_hosts_have_what_is_read_of_them():
    """Names of HostState that weighers and filters go by."""
    host = manager.host_manager.HostState('a', 'a', None)
    for name in ('aggregates', 'instances', 'vcpus_total', 'vcpus_used',
                 'total_usable_ram_mb', 'free_ram_mb', 'num_instances',
                 'cpu_allocation_ratio', 'ram_allocation_ratio'):
        assert hasattr(host, name), name
    compute = objects.ComputeNode.fields
    assert 'stats' in compute
