# SPDX-License-Identifier: Apache-2.0
"""Network limits from a user without privileges, by privsep's daemon."""

import subprocess
import sys
import textwrap

from nova_vcloud.guest import Guest

#: Forks the daemon as root, then gives root up for good, as a service does.
SCRIPT = '''
    import os
    from oslo_config import cfg
    from oslo_privsep import priv_context
    from nova_vcloud import exception, privsep
    from nova_vcloud.guest import Guest, Link
    from nova_vcloud.qos import limits
    from nova_vcloud.qos.backends import base, tc

    cfg.CONF([], project='test')
    privsep.net.start(priv_context.Method.FORK)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)

    guest = GUEST
    for outbound in (tc.NETNS, tc.IFB):
        backend = tc.TcBackend(outbound)
        assert backend.support().enforced == tc.KINDS
        keys = [limits.Key('net', f'{way}_average', guest.links[0].port_id)
                for way in tc.WAYS]
        for value in (10**6, 2 * 10**6, limits.UNLIMITED):
            backend.apply(guest, [
                base.Change(key, limits.UNLIMITED, value) for key in keys])
            found = backend.read(guest, keys)
            assert dict(found) == dict.fromkeys(keys, value), found
        backend.forget(guest)
    try:
        backend.apply(guest, [base.Change(
            limits.Key('net', 'in_burst', guest.links[0].port_id),
            limits.UNLIMITED, 10**6)])
    except exception.LimitNotEnforced as e:
        print('refused:', e)
    '''


def test_every_verb_through_the_daemon(lan, server):
    nic = lan.nic()
    lan.network.plug(server, (nic,))
    guest = Guest(server, 'x', '', (lan.network.link(server, nic),))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c',
         textwrap.dedent(SCRIPT).replace('GUEST', repr(guest))],
        capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (f'refused: net.{nic.port_id}.in: a peak or a '
                           'burst has no meaning without an average\n')
