# SPDX-License-Identifier: Apache-2.0
"""What a new server finds in /etc of its own name, its addresses and DNS.

The engine has such files as well. They would be the host's: a server could
fill its disk by them, and what it writes there would be gone with a restart.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator

from nova_vcloud.virt_docker import addresses
from nova_vcloud.virt_docker import spec

#: What the engine's begins with.
HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def files(hostname: str,
          nics: Iterable[addresses.Nic]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of each file.

    :param hostname: as Nova has it
    """
    nics = list(nics)
    own = spec.kernel_hostname(hostname)
    yield '/etc/hostname', f'{own}\n'
    names = dict.fromkeys((hostname, own))
    yield '/etc/hosts', HOSTS + ''.join(
        f'{address.partition("/")[0]}\t{" ".join(names)}\n'
        for nic in nics for address in nic.addresses)
    servers = dict.fromkeys(server for nic in nics for server in nic.dns)
    if servers:  # else the image may know some
        yield '/etc/resolv.conf', ''.join(
            f'nameserver {server}\n' for server in servers)
