# SPDX-License-Identifier: Apache-2.0
"""What Nova hears of Neutron reaches the driver, after Nova."""

import inspect

from nova import objects
from nova.compute import manager
from oslo_utils.fixture import uuidsentinel as uuids
import pytest

from nova_vcloud.virt_docker.guest import port_events

objects.register_all()


class Manager:
    """Nova's, as far as events go."""

    def __init__(self, told: list) -> None:
        self.told = told

    def external_instance_event(self, context, instances, events):
        self.told.append([event.name for event in events])


def instance(uuid):
    return objects.Instance(uuid=uuid)


def event(name, uuid):
    return objects.InstanceExternalEvent(name=name, instance_uuid=uuid)


def test_nova_has_the_method_that_is_wrapped():
    found = inspect.signature(
        manager.ComputeManager.external_instance_event).parameters
    assert list(found) == ['self', 'context', 'instances', 'events']


@pytest.mark.parametrize(('events', 'updated'), [
    ([('network-changed', uuids.one)], [uuids.one]),
    ([('network-changed', uuids.one), ('network-changed', uuids.one)],
     [uuids.one]),
    ([('network-vif-plugged', uuids.one)], []),
    ([('network-changed', uuids.two), ('power-update', uuids.one)],
     [uuids.two])])
def test_a_changed_port_is_followed_after_nova(events, updated):
    told: list = []
    nova = Manager(told)
    port_events.follow(nova, lambda found: told.append(found.uuid))
    # By keywords, as the RPC server calls it.
    nova.external_instance_event(
        None, instances=[instance(uuids.one), instance(uuids.two)],
        events=[event(*each) for each in events])
    assert told == [[name for name, _uuid in events], *updated]


def test_one_servers_trouble_is_not_the_others(caplog):
    updated = []

    def update(found):
        if found.uuid == uuids.one:
            raise OSError('no namespace')
        updated.append(found.uuid)

    nova = Manager([])
    port_events.follow(nova, update)
    nova.external_instance_event(
        None, [instance(uuids.one), instance(uuids.two)],
        [event('network-changed', uuids.one),
         event('network-changed', uuids.two)])
    assert updated == [uuids.two]
    assert 'do not follow its ports' in caplog.text
