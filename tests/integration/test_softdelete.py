# SPDX-License-Identifier: Apache-2.0
"""A server that was deleted may be wanted back, for as long as Nova keeps it.

It is stopped meanwhile, as a virtual machine is.
"""

from desk import Desk
from desk import until
import pytest


@pytest.mark.usefixtures('kept_for_an_hour')
def test_a_deleted_server_is_restored_or_goes_for_good(desk: Desk):
    server = desk.boot('regretted')
    desk.inside(server, 'echo kept > /kept')
    before = desk.container(server)['Id'], desk.nic(server)
    desk.compute.delete_server(server)
    desk.wait(server, 'SOFT_DELETED')
    assert desk.container(server)['State']['Status'] == 'exited'
    desk.silent(server)

    desk.compute.restore_server(server)
    desk.wait(server, 'ACTIVE')
    assert (desk.container(server)['Id'], desk.nic(server)) == before
    assert desk.inside(server, 'cat /kept') == 'kept\n'
    desk.answers(server)

    desk.compute.delete_server(server)
    desk.wait(server, 'SOFT_DELETED')
    desk.compute.delete_server(server, force=True)
    until(lambda: not desk.compute.find_server(server.id), 60, 'it is gone')
    until(lambda: server.id not in desk.place().allocations, 60,
          'its allocations are gone')
