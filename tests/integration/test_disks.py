# SPDX-License-Identifier: Apache-2.0
"""The size of a root disk, as its tenant and its host see it."""

import os

from desk import Desk
from desk import until
import pytest

from mini import seed

MIB = 1 << 20


@pytest.fixture
def server(desk: Desk):
    """A real system, on a flavor of 2 GB, that one can log into."""
    found = desk.boot('disk', image='debian-12', flavor='c1.small',
                      host='compute1', key_name=seed.KEYPAIR)
    until(lambda: desk.inside(found, 'ss -Hltn sport = 22'), 30, 'sshd')
    return found


def df(desk: Desk, server) -> tuple[int, int]:
    """Return the MiB of the root disk, and those that are free."""
    words = desk.ssh(server, 'df -m / | tail -1').split()
    return int(words[1]), int(words[3])


def room(desk: Desk, server) -> int:
    """Return the MiB that are free in the store of a server's host."""
    found = os.statvfs(desk.host_of(server).data_root)
    return found.f_bfree * found.f_frsize // MIB


def processes(desk: Desk, server) -> tuple[int, str]:
    """Return what changes when a server is stopped and started."""
    state = desk.container(server)['State']
    return state['Pid'], state['StartedAt']


def test_a_root_disk_has_the_size_of_the_flavor(desk, server):
    other = desk.boot('neighbour', host='compute1')
    assert df(desk, server)[0] == 2048
    assert df(desk, server)[1] > 0.95 * 2048
    before = room(desk, server)
    said = desk.ssh(server, 'fallocate -l 3G /more 2>&1 ||'
                            ' head -c 2200000000 /dev/zero 2>&1 >/full; true')
    assert said.count('No space left on device') == 2
    assert df(desk, server)[1] <= 2
    # What is in the store of the host is the flavor's size and the journal,
    # and others write on. The host itself does something, too.
    assert before - room(desk, server) < 2048 + 64 + 512
    assert desk.inside(other, 'dd if=/dev/zero of=/file bs=1M count=100 '
                              'conv=fsync 2>&1').count('100+0') == 2


@pytest.mark.matrix('operation.resize')
def test_a_root_disk_grows_while_the_server_runs(desk, server):
    before = processes(desk, server)
    desk.compute.resize_server(
        server.id, desk.compute.find_flavor('c1.medium').id)
    desk.wait(server, 'VERIFY_RESIZE')
    assert df(desk, server)[0] == 4096
    desk.compute.confirm_server_resize(server.id)
    desk.wait(server, 'ACTIVE')
    desk.ssh(server, 'fallocate -l 3G /file')
    assert processes(desk, server) == before
    desk.compute.reboot_server(server.id, 'HARD')
    until(lambda: processes(desk, server) != before, 30, 'restarted')
    desk.wait(server, 'ACTIVE')
    assert desk.inside(server, 'df -m / | tail -1').split()[1] == '4096'
    assert desk.inside(server, 'stat -c %s /file').strip() == str(3 << 30)
