# SPDX-License-Identifier: Apache-2.0
"""That no server keeps nova-compute from starting."""

import types

from nova import exception as nova_exception
from nova import objects
import pytest

from nova_vcloud import exception
from nova_vcloud.virt_docker import driver_devices

UUID = 'a0000000-0000-4000-8000-000000000001'


class Containers:
    """Some, of which one is not as it should be."""

    def __init__(self, error):
        self._error = error

    def plug(self, _instance, _network_info):
        raise self._error


def verbs(error):
    found = driver_devices.DeviceVerbs(None)
    found._containers = Containers(error)
    found._host = types.SimpleNamespace(name='here')
    return found


@pytest.mark.parametrize('error', [
    exception.LimitNotEnforced('disk.max: it is lost'),
    exception.EngineError('of this container'),
    exception.NoCpusLeft('none'), OSError('no such process'),
    UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'a name'), KeyError('eth0'),
    nova_exception.VirtualInterfacePlugException('the kernel refused')])
def test_what_is_wrong_with_a_server_is_an_error_of_it(error):
    with pytest.raises(nova_exception.VirtualInterfacePlugException):
        verbs(error).plug_vifs(objects.Instance(uuid=UUID), [])


def test_what_is_wrong_with_the_host_is_none():
    with pytest.raises(nova_exception.HypervisorUnavailable):
        verbs(exception.EngineUnavailable('it is down')).plug_vifs(
            objects.Instance(uuid=UUID), [])
